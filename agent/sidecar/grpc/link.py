"""Both kinds of connection: bytes ↔ HTTP/2, and the streams' bytes that pass from one connection to another."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from h2.events import Event

from agent.sidecar.grpc.http2 import Headers, Http2

if TYPE_CHECKING:
    from agent.sidecar.grpc.forwarder import GrpcForwarder

HIGH_WATER_BYTES = 256 * 1024
LOW_WATER_BYTES = 64 * 1024
MOST_UNSENT_BYTES = 4 * 2**20  # answers to pings and settings that nobody reads; DATA stops at the high water


class Flow:
    """One direction of a call. Its sender is told to go on only as its bytes are taken."""

    __slots__ = ("_ended", "_pending", "_trailers", "done", "on_done", "sink", "sink_id", "source", "source_id")

    def __init__(self, source: "Link | None" = None, source_id: int = 0) -> None:
        self.source = source
        self.source_id = source_id
        self.sink: Link | None = None
        self.sink_id = 0
        self.done = False  # its end is written
        self.on_done: Callable[[], None] | None = None
        self._pending: deque[bytes | memoryview] = deque()
        self._ended = False
        self._trailers: Headers | None = None

    @property
    def ended(self) -> bool:
        """Whether its sender has no more to send."""
        return self._ended

    def feed(self, data: bytes, size: int, *, end: bool) -> None:
        """Bytes of the sender; `size` is what they count in its window, padding included."""
        if end:
            self._ended = True
        if self.done:
            return
        if data:
            self._pending.append(data)
        if size != len(data):
            self._taken(size - len(data))
        self.push()

    def finish(self, trailers: Headers) -> None:
        """The sender's last words."""
        self._ended = True
        self._trailers = trailers
        self.push()

    def to(self, sink: "Link", sink_id: int) -> None:
        """Where it goes."""
        self.sink, self.sink_id = sink, sink_id
        sink.flows[sink_id] = self
        self.push()

    def again(self, data: list[bytes]) -> None:
        """Start anew, with what was sent before."""
        self.leave()
        self.done = False
        self._pending = deque(data)

    def leave(self) -> None:
        """Nothing more goes there."""
        if self.sink is not None:
            self.sink.flows.pop(self.sink_id, None)
            self.sink = None
        self._pending.clear()

    def push(self) -> None:
        """Write what the receiver takes."""
        sink = self.sink
        if sink is None or self.done or sink.lost:
            return
        pending = self._pending
        taken = 0
        plain_end = self._ended and self._trailers is None
        while pending and not sink.write_paused:
            data = pending[0]
            end = plain_end and len(pending) == 1
            count = sink.http2.send(self.sink_id, data, end=end)
            taken += count
            if count < len(data):
                if count:
                    pending[0] = memoryview(data)[count:]
                break
            pending.popleft()
            self.done = end
        if not pending and self._ended and not self.done:
            self.done = True
            if self._trailers is None:
                sink.http2.send(self.sink_id, b"", end=True)
            elif sink.http2.alive(self.sink_id) is not None:
                sink.http2.head(self.sink_id, self._trailers, end=True)
        sink.touch()
        if taken:
            self._taken(taken)
        if self.done and self.on_done is not None:
            self.on_done()

    def _taken(self, size: int) -> None:
        source = self.source
        if source is not None and not self._ended:
            source.http2.taken(self.source_id, size)
            source.touch()


class Link(asyncio.Protocol):
    """A connection of HTTP/2. What it has to say is sent when `GrpcForwarder.flush` is called, at the end of a step."""

    transport: asyncio.Transport

    def __init__(self, forwarder: "GrpcForwarder", http2: Http2) -> None:
        self.forwarder = forwarder
        self.http2 = http2
        self.flows: dict[int, Flow] = {}  # that are written here, by stream
        self.write_paused = False
        self.lost = False
        self._touched = False
        self._handlers: dict[type[Event], Callable[[Any], None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=LOW_WATER_BYTES)
        self.touch()

    def data_received(self, data: bytes) -> None:
        if self.lost:
            return
        handlers = self._handlers
        for event in self.http2.receive_data(data):
            handler = handlers.get(event.__class__)
            if handler is not None and not self.lost:
                handler(event)
        if self.http2.failure is not None and not self.lost:
            self.broken(self.http2.failure)
        self.touch()
        self.forwarder.flush()

    def broken(self, reason: str) -> None:
        """The other side does not keep to HTTP/2; a GOAWAY is written."""
        raise NotImplementedError

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        self.push_all()
        self.forwarder.flush()

    def push_all(self) -> None:
        """Every stream may have room now."""
        for flow in list(self.flows.values()):
            flow.push()

    def window_updated(self, stream_id: int) -> None:
        """A stream, or with 0 the connection, may take more."""
        if stream_id == 0:
            self.push_all()
        elif (flow := self.flows.get(stream_id)) is not None:
            flow.push()

    def touch(self) -> None:
        """There may be something to send."""
        if not self._touched:
            self._touched = True
            self.forwarder.touched.append(self)

    def flush(self) -> None:
        """Send what there is."""
        self._touched = False
        data = self.http2.data_to_send()
        if data and not self.lost:
            self.transport.write(data)
            if self.write_paused and self.transport.get_write_buffer_size() > MOST_UNSENT_BYTES:
                self.transport.abort()
