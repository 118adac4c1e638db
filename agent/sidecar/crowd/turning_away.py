"""Connections for which there is no room → 503 and an end that lets the answer arrive."""

import asyncio
import json

LINGER_SECONDS = 1.0
MAX_LINGERING = 256
MAX_READ_BYTES = 64 * 1024

_BODY = json.dumps(
    {
        "type": "about:blank",
        "title": "Too many connections",
        "status": 503,
        "detail": "There is no room for another connection. Try again later.",
    }
).encode()
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n"
    b"retry-after: 1\r\nconnection: close\r\n\r\n%b" % (len(_BODY), _BODY)
)


class TurningAway:
    """Those who were told that there is no room, and are about to go: at most `MAX_LINGERING` of them.

    A socket that is closed while bytes from the client are unread, or still come, resets the connection, and the
    client may lose the answer to it. So the client is given a second to read the answer and close.
    """

    def __init__(self) -> None:
        self.lingering: set[_TurnedAway] = set()

    def turn_away(self, transport: asyncio.Transport, answer: bytes = BUSY) -> None:
        """Answer and close. The transport's protocol hears no more of it."""
        leaving = _TurnedAway(self, transport)
        transport.set_protocol(leaving)
        transport.write(answer)
        if len(self.lingering) >= MAX_LINGERING:
            transport.close()
            return
        self.lingering.add(leaving)
        leaving.timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, transport.abort)
        if transport.can_write_eof():
            transport.write_eof()
        else:  # TLS says that it ends by closing
            transport.close()

    def cut_all(self) -> None:
        """Wait for nobody."""
        for leaving in list(self.lingering):
            leaving.transport.abort()


class _TurnedAway(asyncio.Protocol):
    """One of them."""

    def __init__(self, all_of_them: TurningAway, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.timer: asyncio.TimerHandle | None = None
        self._all = all_of_them
        self._read = 0

    def data_received(self, data: bytes) -> None:
        self._read += len(data)
        if self._read > MAX_READ_BYTES:
            self.transport.abort()

    def eof_received(self) -> bool:
        return False  # close

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self._all.lingering.discard(self)
