"""Connections of HTTP/2 to the engine: calls share one as long as it takes more, then there is another."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)

from agent.clock import NS
from agent.sidecar.grpc.heads import Fields
from agent.sidecar.grpc.http2 import Http2
from agent.sidecar.grpc.link import Link
from agent.sidecar.grpc.services import Connect
from agent.sidecar.sockets.addresses import Address
from agent.sidecar.sockets.dialling import Dialler

if TYPE_CHECKING:
    from agent.sidecar.grpc.call import Call
    from agent.sidecar.grpc.forwarder import GrpcForwarder

STREAMS_EXPECTED = 100  # for each connection that is being made
MOST_STREAMS = 1000
GREETING_NS = 10 * NS  # longest wait for an engine's settings, its first word
LAST_USABLE_ID = 2**31 - 3


class UpstreamLink(Link):
    """One connection to the engine."""

    def __init__(self, forwarder: "GrpcForwarder") -> None:
        window = forwarder.services.settings.stream_window_bytes
        super().__init__(forwarder, Http2(client_side=True, streams=0, window=window))
        self.calls: dict[int, Call] = {}
        self.idle_since_ns = forwarder.clock.now_ns()
        self._most = 0  # until the engine has said how many it takes; one too many could fail all
        self.greeted = False
        self._complaint = ""
        self._leaving = False  # takes no more calls
        self._handlers = {
            ResponseReceived: self._response,
            DataReceived: self._data,
            TrailersReceived: self._trailers,
            StreamReset: self._reset,
            WindowUpdated: self._window,
            RemoteSettingsChanged: self._settings,
            ConnectionTerminated: self._goaway,
        }

    @property
    def room(self) -> int:
        """How many more calls it takes now."""
        if self._leaving or self.lost or self.http2.failure is not None or self.transport.is_closing():
            return 0
        return self._most - len(self.calls)

    def open(self, call: "Call", fields: Fields) -> int:
        """Send the head of a call; returns its stream."""
        stream_id = self.http2.get_next_available_stream_id()
        self._leaving = self._leaving or stream_id >= LAST_USABLE_ID
        self.calls[stream_id] = call
        self.http2.head(stream_id, fields)
        self.touch()
        return stream_id

    def release(self, stream_id: int, code: int | None) -> None:
        """A call leaves its stream; with a code it ends here, if it has not ended."""
        self.calls.pop(stream_id, None)
        self.flows.pop(stream_id, None)
        if not self.lost:
            if code is not None:
                self.http2.reset(stream_id, code)
            self.http2.forget(stream_id)
            self.touch()
        self.idle_since_ns = self.forwarder.clock.now_ns()
        self.forwarder.pool.freed(self)

    def close(self) -> None:
        """Close in order."""
        if not self.lost:
            self.http2.goaway(0)
            self.flush()
            self.transport.close()

    def close_if_spent(self) -> None:
        """A connection that takes no more calls closes after its last one."""
        if self._leaving and not self.calls:
            self.close()

    # the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.forwarder.pool.greets(self)
        secured = transport.get_extra_info("ssl_object")
        if secured is not None and secured.selected_alpn_protocol() != "h2":
            self._complaint = "it did not choose HTTP/2 (h2) in TLS"
            self.transport.abort()
            return
        self.forwarder.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave(self._complaint or (str(exc) if exc else "the engine closed the connection"))
        self.forwarder.flush()

    def broken(self, reason: str) -> None:
        self.flush()
        self._leave(f"the engine does not speak HTTP/2 here: {reason}")
        self.transport.close()

    def _leave(self, reason: str) -> None:
        if self.lost:
            return
        self.lost = True
        authority = self.forwarder.services.authority
        self.forwarder.pool.forget(self)
        if not self.greeted:
            self.forwarder.pool.not_opened(f"{authority} ended the connection at once: {reason}", self)
        for call in list(self.calls.values()):
            call.unreachable(f"{authority} broke off before its answer was whole ({reason})", "error")

    # events

    def _response(self, event: ResponseReceived) -> None:
        call = self.calls.get(event.stream_id)
        if call is not None:
            call.response(event.headers, end=event.stream_ended is not None)

    def _data(self, event: DataReceived) -> None:
        size = event.flow_controlled_length
        self.http2.arrived(size)
        call = self.calls.get(event.stream_id)
        if call is not None:
            call.response_data(event.data, size, end=event.stream_ended is not None)

    def _trailers(self, event: TrailersReceived) -> None:
        call = self.calls.get(event.stream_id)
        if call is not None:
            call.trailers(event.headers)

    def _reset(self, event: StreamReset) -> None:
        call = self.calls.get(event.stream_id)
        if call is not None:
            call.upstream_reset(int(event.error_code or ErrorCodes.NO_ERROR))

    def _window(self, event: WindowUpdated) -> None:
        self.window_updated(event.stream_id or 0)

    def _settings(self, _: RemoteSettingsChanged) -> None:
        self._most = min(MOST_STREAMS, self.http2.remote_settings.max_concurrent_streams)
        self.push_all()
        if not self.greeted:
            self.greeted = True
            self.forwarder.pool.opened(self)
        self.forwarder.pool.freed(self)

    def _goaway(self, event: ConnectionTerminated) -> None:
        """Calls that the engine has not looked at are made again elsewhere, the others go on here."""
        self._leaving = True
        last = event.last_stream_id or 0
        for stream_id, call in list(self.calls.items()):
            if stream_id > last:
                call.unprocessed()
        self.close_if_spent()


class GrpcPool:
    """The open connections to the engine."""

    def __init__(self, forwarder: "GrpcForwarder") -> None:
        self._forwarder = forwarder
        self.links: list[UpstreamLink] = []
        self._waiting: deque[Call] = deque()
        self._connecting = 0  # connections that are being made, up to the engine's first word
        self._opening: set[UpstreamLink] = set()  # those of them that are connected

    @property
    def size(self) -> int:
        """Number of open connections."""
        return len(self.links)

    def take(self, call: "Call") -> None:
        """Attach the call to a connection, now or as soon as there is one."""
        for link in self.links:
            if link.room > 0:
                call.attach(link)
                return
        self._waiting.append(call)
        self._connect_more()

    def drop(self, call: "Call") -> None:
        """A call that may wait for a connection waits no longer."""
        if self._waiting and call in self._waiting:
            self._waiting.remove(call)

    def freed(self, link: UpstreamLink) -> None:
        """A connection may have room."""
        while self._waiting and link.room > 0:
            self._waiting.popleft().attach(link)
        link.close_if_spent()

    def forget(self, link: UpstreamLink) -> None:
        """A connection is gone."""
        if link in self.links:
            self.links.remove(link)

    def sweep(self, now_ns: int) -> None:
        """Close what has had no call for too long."""
        oldest_ns = now_ns - int(self._forwarder.services.settings.upstream_idle_seconds * NS)
        for link in list(self.links):
            if not link.calls and link.idle_since_ns <= oldest_ns:
                self.forget(link)
                link.close()
        for link in list(self._opening):
            if link.idle_since_ns + GREETING_NS <= now_ns:
                link.transport.abort()

    def close(self) -> None:
        """Close all connections."""
        for link in [*self.links, *self._opening]:
            self.forget(link)
            link.close()

    def _connect_more(self) -> None:
        if self._connecting * STREAMS_EXPECTED < len(self._waiting):
            self._connecting += 1
            self._forwarder.start(self._connect)

    async def _connect(self) -> None:
        authority = self._forwarder.services.authority
        try:
            await self._forwarder.services.connect(lambda: UpstreamLink(self._forwarder))
        except TimeoutError:
            self.not_opened(f"no connection to {authority} in time", timed_out=True)
        except OSError as failure:
            self.not_opened(f"no connection to {authority}: {failure.strerror or failure}")
        self._forwarder.flush()

    def greets(self, link: UpstreamLink) -> None:
        """It is connected; the engine's first word is awaited."""
        self._opening.add(link)

    def opened(self, link: UpstreamLink) -> None:
        """The engine has greeted us."""
        if link.http2.failure is not None:
            self.not_opened(f"{self._forwarder.services.authority} does not speak HTTP/2: {link.http2.failure}", link)
            return
        self._opening.discard(link)
        self._connecting -= 1
        self._forwarder.tally.connects += 1
        self._forwarder.upstream_state("")
        self.links.append(link)
        self.freed(link)
        if self._waiting and link.calls:  # an engine that takes none at all would not take more on another
            self._connect_more()

    def not_opened(self, error: str, link: UpstreamLink | None = None, *, timed_out: bool = False) -> None:
        """A connection came to nothing; calls that wait for it fail, unless another is being made."""
        if link is not None:
            self._opening.discard(link)
        self._connecting -= 1
        self._forwarder.upstream_state(error)
        if self._connecting == 0:
            self._fail(error, timed_out=timed_out)

    def _fail(self, error: str, *, timed_out: bool) -> None:
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            call.unreachable(error, "timeout" if timed_out else "error")


def connector(dialler: Dialler, address: Address) -> Connect:
    """`GrpcServices.connect` for an engine. Make the dialler with `protocols=("h2",)`."""

    async def connect(factory: Callable[[], asyncio.Protocol]) -> None:
        await dialler.connect(asyncio.get_running_loop(), address, factory)

    return connect
