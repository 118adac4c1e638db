"""One request on its way: client → engine → client, byte for byte; what fails becomes a problem answer."""

import random
from typing import Protocol

from agent.core.requests import Outcome, Usage
from agent.sidecar.admission import Admission
from agent.sidecar.asks import Ask, Refusal, refusal_answer
from agent.sidecar.forward import Forwarder
from agent.sidecar.gateway.upstream import UpstreamConnection
from agent.sidecar.ids import RANDOM_BITS, uuid7
from agent.sidecar.meter.request import BYTES_PER_TOKEN
from agent.sidecar.plans import Plan
from agent.sidecar.records.record import Observation
from agent.sidecar.route import Route
from agent.sidecar.tenancy.tenancy import CHALLENGE
from agent.sidecar.tunnel import Tunnel
from agent.sidecar.usage.option import Asked, ask_for_usage
from agent.sidecar.usage.strip import UsageStrip, usage_strip_for
from agent.sidecar.wire import ResponseHead, problem

_random_bits = random.Random().getrandbits

REPLAY_BYTES = 1 << 20
HELD_BYTES = 1 << 20  # of a request that waits until it is whole; a longer one goes on as it comes
WAITING_BYTES = 256 * 1024  # of a request's body, while the connection to the engine is being made
# What a bug in the metering could raise. It must cost a record, never a request.
_UNKNOWN = Usage()
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


class Exchange:
    """One request and its answer.

    The request's body is kept until the first byte of the answer, as long as it is small: a kept-alive connection that
    the engine was just closing can then be replaced by a fresh one, and an engine that fails by another, once each.
    """

    __slots__ = (
        "_admission",
        "_asked",
        "_chunked",
        "_deadline_ns",
        "_dechunk",
        "_first_byte_ns",
        "_forwarder",
        "_head_due",
        "_length",
        "_pending",
        "_pending_bytes",
        "_replay",
        "_replay_bytes",
        "_responding",
        "_route",
        "_strip",
        "_until_close",
        "_was_sent",
        "client",
        "close_after",
        "finished",
        "http10",
        "is_head",
        "observation",
        "plan",
        "request_complete",
        "request_id",
        "tunnel",
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
        self._deadline_ns = now_ns + forwarder.timeout_ns
        first_ns = forwarder.first_byte_ns
        self._first_byte_ns = None if first_ns is None else now_ns + first_ns
        self._chunked = plan.chunked
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._replay: list[bytes] | None = []
        self._replay_bytes = 0
        self._responding = False  # the client has got bytes of the final answer
        self._route = Route(forwarder, self)
        self._admission: Admission | None = None
        self.tunnel: Tunnel | None = None
        self._head_due = False
        self._was_sent = False  # an engine got at least a part of it
        self._length = 0  # of the body, if the head says one
        self._asked: Asked | None = None
        self._strip: UsageStrip | None = None
        self._dechunk = False
        self._until_close = False

    # the request's way

    def begin(self, length: int, now_ns: int) -> None:
        """It is this request's turn. `length`: that of its body, if it says."""
        forwarder, plan = self._forwarder, self.plan
        forwarder.active.add(self)
        if plan.refusal is not None:
            self.turn_away(plan.refusal)
            return
        forwarder.tally.forwarded += 1
        self._length = length
        observed = self.observation is not None
        held = observed and forwarder.may_hold(plan.path)
        if held or (observed and forwarder.quotas.active):
            admission = self._admission = Admission(forwarder, self, held=held)
            if self.request_complete:
                admission.decide(now_ns)
            elif held and plan.expects:
                self.client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if held:
                return
        self._route.begin(now_ns)

    def begin_whole(self, body: bytes, now_ns: int) -> None:
        """The turn of a request that is there to its end."""
        self.request_complete = True
        if body:
            self._pending.append(body)
        observation = self.observation
        if observation is not None:
            try:
                observation.request_body(body)
                self._request_said(observation)
            except OBSERVATION_ERRORS as error:
                self._forwarder.observation_failed(error)
        self.begin(len(body), now_ns)

    def ask(self) -> Ask:
        """What this request asks for, as far as it is known."""
        plan, seen = self.plan, self.observation
        if seen is None:
            raise RuntimeError("only requests that are observed are asked about")
        said = seen.request_sent()
        size = max(seen.request_bytes, self._length)
        return Ask(
            id=self.request_id.text,
            tenant=seen.caller.tenant,
            model=said.model,
            path=plan.path,
            input_tokens=size // BYTES_PER_TOKEN,
            max_output_tokens=said.most_output_tokens,
            priority=plan.priority,
        )

    def let_go(self, now_ns: int, queued_ns: int | None) -> None:
        """Off to the engine, with the wish for its usage if that is wanted."""
        if self.observation is not None:
            self.observation.queued_ns = queued_ns
        if queued_ns is not None and self._first_byte_ns is not None:
            self._first_byte_ns += queued_ns
        if self._forwarder.asks_for_usage and self.request_complete and self.plan.readable and not self._chunked:
            usage = self._forwarder.settings.usage
            body = b"".join(self._pending)
            self._asked = ask_for_usage(
                body, self.plan.path, continuous=usage.ask == "continuous", most_bytes=usage.max_body_bytes
            )
            if self._asked is not None:
                self._pending = [self._asked.body]
                self._pending_bytes = self._length = len(self._asked.body)
        self._route.begin(now_ns)

    def attach(self, connection: UpstreamConnection) -> None:
        """Go over this connection."""
        self.upstream = connection
        if self.observation is not None:
            self.observation.goes_to(connection.pool.name)
        connection.start(self)
        if self._route.connecting:
            self._route.connecting = False
            self.client.hold_connecting(False)
        self._head_due = self._was_sent = True
        self.flush()

    def rewind(self) -> bool:
        """Be ready to be sent once more, from the beginning; False: it was too long, or has been answered."""
        if self._replay is None:
            return False
        self._pending[:0] = self._replay
        self._pending_bytes += self._replay_bytes
        self._replay, self._replay_bytes = [], 0
        return True

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
                self._request_said(observation)
            except OBSERVATION_ERRORS as error:
                self._forwarder.observation_failed(error)
        if self._admission is not None:
            self._admission.decide(self._forwarder.clock.now_ns())

    def _request_said(self, observation: Observation) -> None:
        said = observation.request_sent()
        if observation.caller.tenant is None and (user := said.shown_user):
            observation.caller = self._forwarder.tenancy.of_user(observation.caller, user, self.plan.peer)

    def flush(self) -> None:
        """Send what has gathered, if there is a connection."""
        pending, upstream = self._pending, self.upstream
        if self.finished or not (pending or self._head_due):
            return
        if upstream is None:
            if self._admission is not None and self._admission.held:
                if self._pending_bytes > HELD_BYTES:
                    self._held_enough(self._admission)
            elif self._pending_bytes > WAITING_BYTES:
                self.client.hold_connecting(True)
            return
        if pending and self._replay is not None:
            self._replay += pending
            self._replay_bytes += self._pending_bytes
            if self._replay_bytes > REPLAY_BYTES:
                self._replay = None
        if self._head_due:
            self._head_due = False
            pool = upstream.pool
            pending.insert(0, self.plan.head_for_engine(self.request_id, self._length, pool.host, pool.authority))
        data = pending[0] if len(pending) == 1 else b"".join(pending)
        pending.clear()
        self._pending_bytes = 0
        upstream.transport.write(data)

    def _held_enough(self, admission: Admission) -> None:
        """So long a request is not waited for: what is known of it must do."""
        self.client.hold_connecting(True)
        self._route.connecting = True  # `attach` lets the client go on
        admission.decide(self._forwarder.clock.now_ns())

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
        self._route.answered(head.status, now_ns)
        observation = self.observation
        if observation is not None:
            try:
                observation.response_head(head.status, head.content_type, head.content_encoding, now_ns)
            except OBSERVATION_ERRORS as error:
                self._forwarder.observation_failed(error)
        added = self._own_fields()
        if self._admission is not None:
            added += self._admission.header_lines(now_ns)
        sent = head.for_client(added, dechunk=self._dechunk)
        if self._asked is not None and (head.chunked or head.until_close):
            self._strip = usage_strip_for(self._asked, head.content_type, head.content_encoding)
        if self._strip is not None:
            self.client.write(sent)
            self._write_stripped(self._strip.feed(b"".join(parts)))
        else:
            self.client.write(sent + (b"".join(parts) if self._dechunk else rest))

    def _write_stripped(self, data: bytes) -> None:
        if data:
            bare = self._dechunk or self._until_close
            self.client.write(data if bare else b"%x\r\n%b\r\n" % (len(data), data))

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
        if self._strip is not None:
            self._write_stripped(self._strip.feed(b"".join(parts)))
        else:
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
        if self._strip is not None:
            self._write_stripped(self._strip.finish())
            if not (self._dechunk or self._until_close):
                self.client.write(b"0\r\n\r\n")
        self._finish(None, None, now_ns=now_ns)

    def upstream_lost(self, reason: str) -> None:
        """The engine's connection is gone before the answer was whole."""
        connection, self.upstream = self.upstream, None
        if self.tunnel is not None:
            self.close_after = True
            self._finish(None, None)
            self.client.cut(abruptly=False)
            return
        route, name = self._route, "the engine"
        if connection is not None:
            name = connection.pool.name
            if not self._responding and (route.again(connection) or route.another(reason)):
                return
        detail = f"{name} closed the connection before its answer was whole ({reason})"
        route.broke_off(reason)
        self.refuse(502, "Engine broke off", detail, "error")

    def upstream_broken(self, reason: str) -> None:
        """The engine's answer cannot be passed on."""
        self._route.failed(reason)
        self._drop_upstream()
        self.refuse(502, "Engine's answer is unusable", reason, "error")

    # upgrades

    def open_tunnel(self, head: ResponseHead, tail: bytes) -> None:
        """The engine answered 101: from here on bytes are passed both ways unread."""
        if not self.upgrade or self.upstream is None:
            self.upstream_broken("the engine switched protocols unasked")
            return
        self.tunnel = Tunnel(self.client, self.upstream)
        self._deadline_ns = 1 << 63  # a tunnel has no end that we could know
        self.client.write(head.for_client(b"", tunnel=True) + tail)
        early = self.client.start_tunnel()
        if early:
            self.upstream.transport.write(early)

    # the end

    def check(self, now_ns: int) -> None:
        """Deadlines and progress."""
        if now_ns >= self._deadline_ns:
            seconds = self._forwarder.settings.request_timeout_seconds
            self._timed_out(f"the request took longer than request_timeout_seconds ({seconds:g} s)")
        elif self._first_byte_ns is not None and now_ns >= self._first_byte_ns and self._waits_for_engine:
            self._first_byte_late(now_ns)
        elif self.observation is not None:
            try:
                self.observation.progress(now_ns)
            except OBSERVATION_ERRORS as error:
                self._forwarder.observation_failed(error)

    def _first_byte_late(self, now_ns: int) -> None:
        """The engine hangs, or is slower than anybody wants to wait for."""
        seconds = self._forwarder.settings.first_byte_timeout_seconds or 0
        detail = f"no byte of an answer within first_byte_timeout_seconds ({seconds:g} s)"
        self._drop_upstream()
        if self._route.another(detail):
            self._first_byte_ns = now_ns + (self._forwarder.first_byte_ns or 0)
        else:
            self.refuse(504, "Time is up", detail, "timeout")

    @property
    def _waits_for_engine(self) -> bool:
        """Not for the rest of the request, nor for a quota to have room."""
        return self.request_complete and not (self._admission is not None and self._admission.held)

    def _timed_out(self, detail: str) -> None:
        self._drop_upstream()
        self.refuse(504, "Time is up", detail, "timeout")

    def shut_down(self) -> None:
        """The sidecar ends and waits no longer: the client is told where it still can be. A tunnel is left as it is."""
        if self.tunnel is None:
            seconds = self._forwarder.settings.drain_seconds
            self._drop_upstream()
            self.refuse(503, "Shutting down", f"not finished within drain_seconds ({seconds:g} s)", "error")

    def reject(self, status: int, title: str, detail: str) -> None:
        """The rest of the request is not taken."""
        self._drop_upstream()
        self.refuse(status, title, detail, "rejected")

    def client_gone(self) -> None:
        """The client has left: the engine must know at once, it frees the request's memory then."""
        self._drop_upstream()
        if self.tunnel is not None:
            self._finish(None, None)
        else:
            self._finish("client_abort", "the client closed its connection")

    def _drop_upstream(self) -> None:
        connection, self.upstream = self.upstream, None
        if connection is not None:
            connection.close()

    def turn_away(self, refusal: Refusal) -> None:
        """The request does not go to the engine."""
        if not self.request_complete:
            self.close_after = True
        challenge = CHALLENGE if refusal.status == 401 else b""
        added = challenge + self._own_fields()
        self.client.write(refusal_answer(refusal, self.plan.path, added, head_only=self.is_head))
        self._finish("rejected", refusal.code, own_status=refusal.status)

    def refuse(self, status: int, title: str, detail: str, outcome: Outcome) -> None:
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
        self._route.leave(now_ns)
        observation, usage = self.observation, _UNKNOWN
        if observation is not None:
            try:
                usage = observation.end(now_ns, cut=cut, error=error, own_status=own_status).usage
            except OBSERVATION_ERRORS as failure:
                self._forwarder.observation_failed(failure)
                usage = self._end_unmetered(observation, now_ns, cut, error, own_status)
        if self._admission is not None:
            self._admission.ended(usage, now_ns, was_sent=self._was_sent)
        self.client.exchange_finished(self, now_ns)

    def _end_unmetered(
        self, observation: Observation, now_ns: int, cut: Outcome | None, error: str | None, own_status: int | None
    ) -> Usage:
        """The meter failed at the end: a record without tokens is better than none."""
        observation.stop_metering()
        try:
            return observation.end(now_ns, cut=cut, error=error, own_status=own_status).usage
        except OBSERVATION_ERRORS as failure:
            self._forwarder.observation_failed(failure)
            return _UNKNOWN
