"""After the engine has switched protocols: bytes both ways, unread, until both sides have ended."""

from typing import Protocol

from agent.sidecar.gateway.upstream import UpstreamConnection


class TunnelClient(Protocol):
    """The client's end."""

    def write_eof(self) -> None: ...


class Tunnel:
    """The engine's bytes go to the client by its connection itself."""

    __slots__ = ("_client", "_half_closed", "_upstream")

    def __init__(self, client: TunnelClient, upstream: UpstreamConnection) -> None:
        self._client = client
        self._upstream = upstream
        self._half_closed = False  # one side has no more to send

    def from_client(self, data: bytes) -> None:
        """Bytes from the client."""
        self._upstream.transport.write(data)

    def client_ended(self) -> None:
        """The client has no more to send."""
        if self._upstream.transport.can_write_eof():
            self._upstream.transport.write_eof()
        self._ended()

    def engine_ended(self) -> None:
        """The engine has no more to send."""
        self._client.write_eof()
        self._ended()

    def _ended(self) -> None:
        """When both sides have said that they send no more, nobody else would close the tunnel."""
        if self._half_closed:
            self._upstream.transport.close()  # after what is still to be written; `upstream_lost` follows
        self._half_closed = True
