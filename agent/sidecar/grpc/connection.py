"""A client's connection of HTTP/2: its streams → calls, with limits on what a client may ask of us."""

import random
from collections.abc import Callable

import structlog
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    PingAckReceived,
    PingReceived,
    PriorityUpdated,
    RemoteSettingsChanged,
    RequestReceived,
    StreamReset,
    TrailersReceived,
    UnknownFrameReceived,
    WindowUpdated,
)

from agent.clock import NS
from agent.sidecar.asks import Caller, Refusal
from agent.sidecar.crowd.crowd import source_of
from agent.sidecar.grpc.call import Call
from agent.sidecar.grpc.forwarder import GrpcForwarder
from agent.sidecar.grpc.heads import CallHead, plain_refusal, pushback, read_head, trailers_only
from agent.sidecar.grpc.http2 import LAST_STREAM_ID, Http2
from agent.sidecar.grpc.link import Link
from agent.sidecar.grpc.observation import CallObservation
from agent.sidecar.grpc.status import RESOURCE_EXHAUSTED
from agent.sidecar.grpc.tokens import is_recorded
from agent.sidecar.ids import RANDOM_BITS, trace_id_of, traceparent, uuid7
from agent.sidecar.meter.attempts import attempt_of
from agent.sidecar.tenancy.settings import UNIX

log = structlog.get_logger()

# Frames that cost us work and move nothing: so many at once, and so many more a second; DATA earns some as well.
NOISE_AT_ONCE = 10_000
NOISE_PER_SECOND = 1_000
NOISE_BYTES = 4096
# Calls that a client resets at once: an engine works for each (CVE-2023-44487).
HASTE_NS = NS
MOST_HASTY = 500
TOO_MANY = "this address made more calls a second than limits.requests_per_second allows"
LAST_PING = b"lastcall"
LAST_CALL_NS = NS
_random = random.Random()


class GrpcConnection(Link):
    """Takes over a client's transport with the first bytes it has sent, the preface of HTTP/2."""

    def __init__(self, forwarder: GrpcForwarder, left: Callable[[], None] = lambda: None) -> None:
        self.left = left  # told once, when this connection has ended
        settings = forwarder.services.settings
        http2 = Http2(client_side=False, streams=settings.max_streams, window=settings.stream_window_bytes)
        super().__init__(forwarder, http2)
        self.calls: dict[int, Call] = {}
        self.active_at_ns = forwarder.clock.now_ns()
        self._drain_at_ns: int | None = None  # it was told to open no more calls; the last ones may still come
        self._drained = False  # no more calls are taken
        self._noise = NOISE_AT_ONCE
        self._noise_at_ns = self.active_at_ns
        self._streams = 0
        self._hasty = 0
        self._handlers = {
            RequestReceived: self._request,
            DataReceived: self._data,
            TrailersReceived: self._trailers,
            StreamReset: self._reset,
            WindowUpdated: self._window,
            RemoteSettingsChanged: self._settings,
            PingReceived: self._noisy,
            PriorityUpdated: self._noisy,
            UnknownFrameReceived: self._noisy,
            PingAckReceived: self._ping_ack,
            ConnectionTerminated: self._goaway,
        }

    @property
    def active(self) -> int:
        """Number of calls under way."""
        return len(self.calls)

    # the transport's side

    def connection_made(self, transport: object) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]  # asyncio's stubs name a base of what it is
        peer = self.transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) and peer else UNIX
        self._source = source_of(peer)
        self.forwarder.connections.add(self)
        if self.forwarder.draining:
            self.drain()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave("the client closed its connection")
        self.forwarder.flush()

    def _leave(self, reason: str) -> None:
        if self.lost:
            return
        self.lost = True
        for call in list(self.calls.values()):
            call.client_gone(reason)
        self.forwarder.connection_gone(self)

    def broken(self, reason: str) -> None:
        self.flush()  # h2 has written a GOAWAY that says what is wrong
        self._leave(f"the client does not keep to HTTP/2: {reason}")
        self.transport.close()

    # events

    def _request(self, event: RequestReceived) -> None:
        stream_id = event.stream_id
        if self._drained:
            self.http2.reset(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        self._streams += 1
        head = read_head(event.headers)
        wrong = head.refusal
        if wrong is not None:
            fields, body = plain_refusal(wrong)
            self.http2.head(stream_id, fields)
            self.http2.send(stream_id, body, end=True)
            self.http2.reset(stream_id, ErrorCodes.NO_ERROR)
            return
        too_many = self.forwarder.services.too_many
        if too_many is not None:
            wait_seconds = too_many(self._source, self.forwarder.clock.now_ns())
            if wait_seconds is not None:
                self.http2.head(
                    stream_id, trailers_only(RESOURCE_EXHAUSTED, TOO_MANY, pushback(wait_seconds)), end=True
                )
                self.http2.reset(stream_id, ErrorCodes.NO_ERROR)
                return
        end = event.stream_ended is not None
        call, refusal = self._call(stream_id, head)
        self.calls[stream_id] = call
        call.begin(refusal)
        if end:
            call.request_data(b"", 0, end=True)

    def _call(self, stream_id: int, head: CallHead) -> tuple[Call, Refusal | None]:
        forwarder = self.forwarder
        services = forwarder.services
        now_ns = forwarder.clock.now_ns()
        request_id = uuid7(now_ns, _random.getrandbits(RANDOM_BITS))
        caller, refusal = Caller(), None
        said = services.identify(head.fields, self._peer, now_ns)
        if isinstance(said, Refusal):
            refusal = said
        else:
            caller = said
        observation = None
        if is_recorded(head.path):
            given = head.fields.get(b"traceparent")
            observation = CallObservation(
                services.recorder,
                services.authority,
                request_id,
                head.path,
                now_ns,
                caller=caller,
                trace_id=None if given is None else trace_id_of(given.decode("latin-1")),
                attempt=attempt_of(head.fields),
            )
        drop: frozenset[bytes] = frozenset()
        add: tuple[bytes, ...] = ()
        if services.rewrite is not None and refusal is None:
            rewrite = services.rewrite(caller)
            drop, add = rewrite.drop, rewrite.add
        sent = head.for_engine(
            secure=services.secure,
            peer=None if self._peer == UNIX else self._peer.encode(),
            host=services.host.encode(),
            request_id=request_id.text.encode(),
            traceparent=traceparent(request_id).encode(),
            drop=drop,
            add=add,
        )
        return Call(forwarder, self, stream_id, head, sent, request_id, observation, now_ns), refusal

    def _data(self, event: DataReceived) -> None:
        size = event.flow_controlled_length
        self.http2.arrived(size)
        end = event.stream_ended is not None
        if not event.data and not end:
            self._noisy(event)
        call = self.calls.get(event.stream_id)
        if call is not None:
            call.request_data(event.data, size, end=end)

    def _trailers(self, event: TrailersReceived) -> None:
        call = self.calls.get(event.stream_id)
        if call is not None:  # clients of gRPC send none; what they are is dropped, that they end the request is not
            call.request_data(b"", 0, end=True)

    def _reset(self, event: StreamReset) -> None:
        call = self.calls.get(event.stream_id)
        if call is None:
            self._noisy(event)
            return
        if self.forwarder.clock.now_ns() - call.started_at_ns < HASTE_NS:
            self._hasty += 1
        call.client_gone("the client cancelled the call")
        if self._hasty > MOST_HASTY and self._hasty * 2 > self._streams:
            self._calm_down("too many calls were cancelled as soon as they were made")

    def _window(self, event: WindowUpdated) -> None:
        self._noisy(event)
        self.window_updated(event.stream_id or 0)

    def _settings(self, event: RemoteSettingsChanged) -> None:
        self._noisy(event)
        self.push_all()

    def _noisy(self, _: object) -> None:
        self._noise -= 1
        if self._noise < 0 and not self.lost:
            now_ns = self.forwarder.clock.now_ns()
            self._noise = min(NOISE_AT_ONCE, (now_ns - self._noise_at_ns) * NOISE_PER_SECOND // NS)
            self._noise_at_ns = now_ns
            if self._noise < NOISE_PER_SECOND:
                self._calm_down("too many frames that move nothing")

    def _calm_down(self, reason: str) -> None:
        log.warning("grpc_client_cut", client=self._peer, reason=reason)
        self.http2.goaway(code=ErrorCodes.ENHANCE_YOUR_CALM, reason=reason.encode())
        self.flush()
        self._leave(reason)
        self.transport.close()

    def _goaway(self, _: ConnectionTerminated) -> None:
        self._drained = True  # the client opens no more calls; those under way go on
        self._close_if_done()

    def _ping_ack(self, event: PingAckReceived) -> None:
        if event.ping_data == LAST_PING and self._drain_at_ns is not None:
            self._last_call()

    # the calls' side

    def call_finished(self, call: Call) -> None:
        """A call has ended; its client has been told, unless it is gone."""
        self.calls.pop(call.stream_id, None)
        self.active_at_ns = self.forwarder.clock.now_ns()
        if not self.lost:
            self.http2.reset(call.stream_id, ErrorCodes.NO_ERROR)  # where the client has not ended its side
            self.touch()
            self._close_if_done()

    def flush(self) -> None:
        self._noise = min(NOISE_AT_ONCE, self._noise + self.http2.waiting // NOISE_BYTES)
        super().flush()

    # the listener's side

    def drain(self) -> None:
        """Take no more calls, in the order that loses none (RFC 9113 section 6.8); close when the last has ended."""
        if self._drain_at_ns is not None or self.lost:
            return
        self._drain_at_ns = self.forwarder.clock.now_ns()
        if self.calls:
            self.http2.goaway(LAST_STREAM_ID)
            self.http2.ping(LAST_PING)
            self.touch()
        else:
            self._last_call()

    def _last_call(self) -> None:
        if not self._drained:
            self._drained = True
            self.http2.goaway()
            self.touch()
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._drained and not self.calls and not self.lost:
            self.flush()
            self.transport.close()

    def close_if_idle(self, oldest_ns: int, now_ns: int) -> None:
        """Close when there was no call since `oldest_ns`; when draining, take no more calls after a moment."""
        if self._drain_at_ns is not None and not self._drained and now_ns >= self._drain_at_ns + LAST_CALL_NS:
            self._last_call()
        elif not self.calls and self.active_at_ns <= oldest_ns:
            self._drain_at_ns = now_ns
            self._last_call()

    def cut(self, *, abruptly: bool = True) -> None:
        """End the connection, whatever is in flight; abruptly: without what is still to be written."""
        if abruptly:
            self.transport.abort()
        else:
            self.transport.close()
