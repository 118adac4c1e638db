"""One request on its way: client → engine → client, byte for byte; what fails becomes a problem answer."""

import random
from dataclasses import dataclass, field
from typing import Protocol

import anyio
import structlog
from anyio.abc import TaskGroup

from agent.clock import NS, BillClock
from agent.core.requests import Outcome
from agent.sidecar.ids import RANDOM_BITS, uuid7
from agent.sidecar.plans import Plan
from agent.sidecar.record import Observation, Recorder, Tally
from agent.sidecar.settings import SidecarSettings
from agent.sidecar.upstream import UpstreamConnection, UpstreamPool
from agent.sidecar.wire import ResponseHead, problem

log = structlog.get_logger()
_random_bits = random.Random().getrandbits

REPLAY_BYTES = 1 << 20
WAITING_BYTES = 256 * 1024  # of a request's body, while the connection to the engine is being made
# What a bug in the metering could raise. It must cost a record, never a request.
OBSERVATION_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class ClientSide(Protocol):
    """What an exchange needs of the client's connection."""

    write_paused: bool

    def write(self, data: bytes) -> None: ...

    def hold_engine(self, hold: bool) -> None: ...

    def hold_connecting(self, hold: bool) -> None: ...

    def exchange_finished(self, exchange: "Exchange", now_ns: int) -> None: ...

    def cut(self, *, abruptly: bool) -> None: ...

    def start_tunnel(self) -> bytes: ...

    def not_upgraded(self) -> None: ...

    def write_eof(self) -> None: ...


@dataclass(slots=True)
class Forwarder:
    """What all exchanges of this process share."""

    settings: SidecarSettings
    clock: BillClock
    pool: UpstreamPool
    recorder: Recorder
    group: TaskGroup = field(init=False)  # set before the first client comes
    active: "set[Exchange]" = field(default_factory=set)
    draining: bool = False
    upstream_error: str = ""  # why the last connection failed; empty when it did not
    blind: bool = False
    timeout_ns: int = field(init=False)
    first_byte_ns: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.timeout_ns = int(self.settings.request_timeout_seconds * NS)
        first = self.settings.first_byte_timeout_seconds
        self.first_byte_ns = None if first is None else int(first * NS)

    @property
    def tally(self) -> Tally:
        return self.recorder.tally

    def sweep(self) -> None:
        """Called every quarter of a second: deadlines, progress of streams, connections unused for too long."""
        now_ns = self.clock.now_ns()
        for exchange in list(self.active):
            exchange.check(now_ns)
        self.pool.sweep()

    def upstream_state(self, error: str) -> None:
        """Note whether the engine could be reached; said once per change."""
        if error and not self.upstream_error:
            log.warning("upstream_unreachable", upstream=self.settings.upstream, reason=error)
        elif self.upstream_error and not error:
            log.info("upstream_reachable", upstream=self.settings.upstream)
        self.upstream_error = error

    def observation_failed(self, error: Exception) -> None:
        """Metering failed for one request, which goes on without it."""
        self.tally.observation_failures += 1
        if not self.blind:
            self.blind = True
            log.error("observation_failed", reason=f"{type(error).__name__}: {error}", exc_info=error)


class Exchange:
    """One request and its answer.

    The request's bytes are kept until the first byte of the answer, as long as they are few: a kept-alive connection
    that the engine was just closing can then be replaced by a fresh one, once.
    """

    __slots__ = (
        "_chunked",
        "_connecting",
        "_deadline_ns",
        "_dechunk",
        "_first_byte_ns",
        "_forwarder",
        "_half_closed",
        "_pending",
        "_pending_bytes",
        "_replay",
        "_replay_bytes",
        "_responding",
        "_retried",
        "_until_close",
        "client",
        "close_after",
        "finished",
        "http10",
        "is_head",
        "observation",
        "plan",
        "request_complete",
        "request_id",
        "tunnelled",
        "upgrade",
        "upstream",
    )  # fmt: skip

    def __init__(self, forwarder: Forwarder, client: ClientSide, plan: Plan, now_ns: int) -> None:
        self._forwarder = forwarder
        self.client = client
        self.plan = plan
        self.http10 = plan.http10
        self.is_head = plan.head.method == b"HEAD"
        self.request_id = request_id = uuid7(now_ns, _random_bits(RANDOM_BITS))
        self.observation = Observation(forwarder.recorder, plan, request_id, now_ns) if plan.recorded else None
        self.upgrade = plan.upgrade
        self.upstream: UpstreamConnection | None = None
        self.request_complete = False
        self.finished = False
        self.close_after = not plan.keep_alive
        self.tunnelled = False
        self._deadline_ns = now_ns + forwarder.timeout_ns
        first_ns = forwarder.first_byte_ns
        self._first_byte_ns = None if first_ns is None else now_ns + first_ns
        self._chunked = plan.chunked
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._replay: list[bytes] | None = []
        self._replay_bytes = 0
        self._responding = False  # the client has got bytes of the final answer
        self._retried = False
        self._connecting = False
        self._dechunk = False
        self._until_close = False
        self._half_closed = False  # one side of the tunnel has no more to send

    # the request's way

    def begin(self, length: int, now_ns: int) -> None:
        """It is this request's turn: find a connection, send what there is. `length`: that of its body, if it says."""
        forwarder = self._forwarder
        forwarder.active.add(self)
        forwarder.tally.forwarded += 1
        self._pending.insert(0, self.plan.head_for_engine(self.request_id, length))
        self._dispatch(forwarder.pool.take(now_ns))

    def begin_whole(self, body: bytes, now_ns: int) -> None:
        """The turn of a request that is there to its end."""
        self.request_complete = True
        if body:
            self._pending.append(body)
        observation = self.observation
        if observation is not None:
            try:
                observation.request_body(body)
                observation.request_sent()
            except OBSERVATION_ERRORS as error:
                self._forwarder.observation_failed(error)
        self.begin(len(body), now_ns)

    def _dispatch(self, connection: UpstreamConnection | None) -> None:
        if connection is not None:
            self._attach(connection)
            return
        self._connecting = True
        self._forwarder.group.start_soon(self._connect)

    async def _connect(self) -> None:
        seconds = self._forwarder.settings.connect_timeout_seconds
        error = ""
        try:
            with anyio.fail_after(seconds):
                connection = await self._forwarder.pool.connect()
        except TimeoutError:
            error = f"no connection to {self._forwarder.pool.authority} within {seconds:g} s"
            self._refuse(504, "Engine does not answer", error, "timeout")
        except OSError as failure:
            error = f"no connection to {self._forwarder.pool.authority}: {failure.strerror or failure}"
            self._refuse(502, "Engine cannot be reached", error, "error")
        else:
            self._forwarder.tally.connects += 1
            if self.finished:
                self._forwarder.pool.give(connection, self._forwarder.clock.now_ns())
            else:
                self._attach(connection)
        self._forwarder.upstream_state(error)

    def _attach(self, connection: UpstreamConnection) -> None:
        self.upstream = connection
        if self.observation is not None:
            self.observation.upstream = connection.pool.authority
        connection.start(self)
        if self._connecting:
            self._connecting = False
            self.client.hold_connecting(False)
        self.flush()

    def request_body(self, data: bytes) -> None:
        """A piece of the request's body, as the parser found it."""
        if self.finished:
            return
        self._pending += (b"%x\r\n" % len(data), data, b"\r\n") if self._chunked else (data,)
        self._pending_bytes += len(data)
        observation = self.observation
        if observation is not None:
            try:
                observation.request_body(data)
            except OBSERVATION_ERRORS as error:
                self._forwarder.observation_failed(error)

    def request_ended(self, trailers: bytes = b"") -> None:
        """The request is whole. `trailers` are whole lines."""
        self.request_complete = True
        if self.finished:
            return
        if self._chunked:
            self._pending.append(b"0\r\n%b\r\n" % trailers)
        observation = self.observation
        if observation is not None:
            try:
                observation.request_sent()
            except OBSERVATION_ERRORS as error:
                self._forwarder.observation_failed(error)

    def flush(self) -> None:
        """Send what has gathered, if there is a connection."""
        pending = self._pending
        if not pending or self.finished:
            return
        if self.upstream is None:
            if self._pending_bytes > WAITING_BYTES:
                self.client.hold_connecting(True)
            return
        data = pending[0] if len(pending) == 1 else b"".join(pending)
        pending.clear()
        self._pending_bytes = 0
        if self._replay is not None:
            self._replay.append(data)
            self._replay_bytes += len(data)
            if self._replay_bytes > REPLAY_BYTES:
                self._replay = None
        self.upstream.transport.write(data)

    # the answer's way

    def first_byte(self) -> None:
        """The engine has begun to answer: from here on the request cannot be sent again."""
        self._replay = None
        self._first_byte_ns = None

    def interim_response(self, raw: bytes) -> None:
        """A 1xx answer; more follows."""
        if not self.http10:
            self.client.write(raw)

    def response_head(self, head: ResponseHead, rest: bytes, parts: list[bytes], now_ns: int) -> None:
        """The final head, and the wire bytes after it that came along."""
        self._until_close = head.until_close
        self._dechunk = self.http10 and head.chunked
        if head.until_close or self._dechunk or self._forwarder.draining or not self.request_complete:
            self.close_after = True
        self._responding = True
        if self.upgrade:
            self.upgrade = False
            self.client.not_upgraded()
        observation = self.observation
        if observation is not None:
            try:
                observation.response_head(head.status, head.content_type, head.content_encoding, now_ns)
            except OBSERVATION_ERRORS as error:
                self._forwarder.observation_failed(error)
        sent = head.for_client(self._own_fields(), dechunk=self._dechunk)
        self.client.write(sent + (b"".join(parts) if self._dechunk else rest))

    def _own_fields(self) -> bytes:
        added = b""
        if self.observation is not None:
            added = b"x-engineroom-request-id: %b\r\n" % self.request_id.text.encode()
        if self.close_after:
            added += b"connection: close\r\n"
        elif self.http10:
            added += b"connection: keep-alive\r\n"
        return added

    def response_bytes(self, data: bytes, parts: list[bytes]) -> None:
        """Wire bytes of the body; `parts` are the same without chunk framing."""
        self.client.write(b"".join(parts) if self._dechunk else data)

    def response_body(self, data: bytes, now_ns: int) -> None:
        """Bytes of the body, for the meter."""
        observation = self.observation
        if observation is not None:
            try:
                observation.response_body(data, now_ns)
            except OBSERVATION_ERRORS as error:
                observation.stop_metering()
                self._forwarder.observation_failed(error)

    def response_complete(self, now_ns: int) -> None:
        """The engine's answer is whole."""
        self.upstream = None
        self._finish(None, None, now_ns=now_ns)

    def upstream_lost(self, reason: str) -> None:
        """The engine's connection is gone before the answer was whole."""
        connection, self.upstream = self.upstream, None
        if self.tunnelled:
            self.close_after = True
            self._finish(None, None)
            self.client.cut(abruptly=False)
            return
        if connection is not None and connection.used and self._replay is not None and not self._retried:
            self._retried = True
            self._forwarder.tally.retries += 1
            self._pending[:0] = self._replay
            self._pending_bytes += self._replay_bytes
            self._replay = None
            self._dispatch(None)
            return
        detail = f"{self._forwarder.pool.authority} closed the connection before its answer was whole ({reason})"
        self._refuse(502, "Engine broke off", detail, "error")

    def upstream_broken(self, reason: str) -> None:
        """The engine's answer cannot be passed on."""
        self._drop_upstream()
        self._refuse(502, "Engine's answer is unusable", reason, "error")

    # upgrades

    def open_tunnel(self, head: ResponseHead, tail: bytes) -> None:
        """The engine answered 101: from here on bytes are passed both ways unread."""
        if not self.upgrade or self.upstream is None:
            self.upstream_broken("the engine switched protocols unasked")
            return
        self.tunnelled = True
        self._deadline_ns = 1 << 63  # a tunnel has no end that we could know
        self.client.write(head.for_client(b"", tunnel=True) + tail)
        early = self.client.start_tunnel()
        if early:
            self.upstream.transport.write(early)

    def tunnel_bytes(self, data: bytes) -> None:
        """Bytes from the client."""
        if self.upstream is not None:
            self.upstream.transport.write(data)

    def tunnel_eof_from_client(self) -> None:
        """The client has no more to send."""
        if self.upstream is not None and self.upstream.transport.can_write_eof():
            self.upstream.transport.write_eof()
        self._tunnel_eof()

    def tunnel_eof_from_engine(self) -> None:
        """The engine has no more to send."""
        self.client.write_eof()
        self._tunnel_eof()

    def _tunnel_eof(self) -> None:
        """When both sides have said that they send no more, nobody else would close the tunnel."""
        if self._half_closed and self.upstream is not None:
            self.upstream.transport.close()  # after what is still to be written; `upstream_lost` follows
        self._half_closed = True

    # the end

    def check(self, now_ns: int) -> None:
        """Deadlines and progress."""
        if now_ns >= self._deadline_ns:
            seconds = self._forwarder.settings.request_timeout_seconds
            self._timed_out(f"the request took longer than request_timeout_seconds ({seconds:g} s)")
        elif self._first_byte_ns is not None and now_ns >= self._first_byte_ns and self.request_complete:
            seconds = self._forwarder.settings.first_byte_timeout_seconds or 0
            self._timed_out(f"no byte of an answer within first_byte_timeout_seconds ({seconds:g} s)")
        elif self.observation is not None:
            try:
                self.observation.progress(now_ns)
            except OBSERVATION_ERRORS as error:
                self._forwarder.observation_failed(error)

    def _timed_out(self, detail: str) -> None:
        self._drop_upstream()
        self._refuse(504, "Time is up", detail, "timeout")

    def shut_down(self) -> None:
        """The sidecar ends and waits no longer: the client is told where it still can be. A tunnel is left as it is."""
        if not self.tunnelled:
            seconds = self._forwarder.settings.drain_seconds
            self._drop_upstream()
            self._refuse(503, "Shutting down", f"not finished within drain_seconds ({seconds:g} s)", "error")

    def client_gone(self) -> None:
        """The client has left: the engine must know at once, it frees the request's memory then."""
        self._drop_upstream()
        if self.tunnelled:
            self._finish(None, None)
        else:
            self._finish("client_abort", "the client closed its connection")

    def _drop_upstream(self) -> None:
        connection, self.upstream = self.upstream, None
        if connection is not None:
            connection.close()

    def _refuse(self, status: int, title: str, detail: str, outcome: Outcome) -> None:
        """Answer the client ourselves, or cut an answer that has begun."""
        if self.finished:
            return
        if self._responding:
            self.close_after = True
            self._finish(outcome, detail)
            # Without a length the end of the connection would look like the end of the body.
            self.client.cut(abruptly=self._until_close or self._dechunk)
            return
        if self._forwarder.draining or not self.request_complete:
            self.close_after = True
        own = problem(status, title, detail, head_only=self.is_head, added=self._own_fields())
        self.client.write(own)
        self._finish(outcome, detail, own_status=status)

    def _finish(
        self, cut: Outcome | None, error: str | None, own_status: int | None = None, now_ns: int | None = None
    ) -> None:
        if self.finished:
            return
        self.finished = True
        self._pending.clear()
        self._replay = None
        self._forwarder.active.discard(self)
        if now_ns is None:
            now_ns = self._forwarder.clock.now_ns()
        observation = self.observation
        if observation is not None:
            try:
                observation.end(now_ns, cut=cut, error=error, own_status=own_status)
            except OBSERVATION_ERRORS as failure:
                self._forwarder.observation_failed(failure)
        self.client.exchange_finished(self, now_ns)
