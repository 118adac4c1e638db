"""One request on its way: client → engine → client, byte for byte; what fails becomes a problem answer."""

import random
from typing import Protocol

import anyio

from agent.core.requests import Outcome, Usage
from agent.sidecar.asks import Ask, Refusal, refusal_answer
from agent.sidecar.forward import Forwarder
from agent.sidecar.gateway.balance import Engine
from agent.sidecar.gateway.upstream import UpstreamConnection, UpstreamPool
from agent.sidecar.ids import RANDOM_BITS, uuid7
from agent.sidecar.meter.request import BYTES_PER_TOKEN
from agent.sidecar.plans import Plan
from agent.sidecar.quota.quotas import Ticket
from agent.sidecar.records.record import Observation
from agent.sidecar.tenancy.tenancy import CHALLENGE
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
        "_asked",
        "_asked_for_room",
        "_chunked",
        "_connecting",
        "_deadline_ns",
        "_dechunk",
        "_engine",
        "_engine_ok",
        "_fault",
        "_first_byte_ns",
        "_forwarder",
        "_half_closed",
        "_head_due",
        "_held",
        "_length",
        "_pending",
        "_pending_bytes",
        "_replay",
        "_replay_bytes",
        "_responding",
        "_retried",
        "_spell",
        "_strip",
        "_ticket",
        "_tried_another",
        "_until_close",
        "_waiting",
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
        self._tried_another = False
        self._connecting = False
        self._engine: Engine | None = None  # that counts this request
        self._engine_ok: bool | None = None  # None: it is not known, or not the engine's fault
        self._fault = ""  # why not
        self._spell = 0
        self._head_due = False
        self._was_sent = False  # an engine got at least a part of it
        self._held = False  # until the request is whole, or a quota has room
        self._length = 0  # of the body, if the head says one
        self._ticket: Ticket | None = None
        self._asked: Asked | None = None
        self._asked_for_room = False
        self._waiting: anyio.CancelScope | None = None
        self._strip: UsageStrip | None = None
        self._dechunk = False
        self._until_close = False
        self._half_closed = False  # one side of the tunnel has no more to send

    # the request's way

    def begin(self, length: int, now_ns: int) -> None:
        """It is this request's turn. `length`: that of its body, if it says."""
        forwarder, plan = self._forwarder, self.plan
        forwarder.active.add(self)
        if plan.refusal is not None:
            self._turn_away(plan.refusal)
            return
        forwarder.tally.forwarded += 1
        self._length = length
        if self.observation is not None and forwarder.may_hold(plan.path):
            self._held = True
            if self.request_complete:
                self._let_in(now_ns)
            elif plan.expects:
                self.client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        if self.request_complete and forwarder.quotas.active:
            self._count_in(now_ns)
        self._dispatch(now_ns)

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

    def _let_in(self, now_ns: int) -> None:
        """The request is whole, or longer than we wait for: may it go on?"""
        quotas = self._forwarder.quotas
        if not quotas.active:
            self._go(now_ns)
            return
        ask = self._ask()
        answer = quotas.admit(ask, now_ns)
        if answer is None:
            self._waiting = anyio.CancelScope()  # already here: the client may leave before the task begins
            self._forwarder.group.start_soon(self._wait_for_room, ask, self._waiting)
        else:
            self._admitted(answer, now_ns)

    def _count_in(self, now_ns: int) -> None:
        """It counts, and its answer may carry a warning, where rules refuse nothing and so it was not held for them."""
        if self.observation is None or self._asked_for_room or self not in self._forwarder.active:
            return
        self._asked_for_room = True
        answer = self._forwarder.quotas.admit(self._ask(), now_ns)
        if isinstance(answer, Ticket):
            self._ticket = answer

    async def _wait_for_room(self, ask: Ask, scope: anyio.CancelScope) -> None:
        with scope:
            answer = await self._forwarder.quotas.wait(ask)
            self._waiting = None
            now_ns = self._forwarder.clock.now_ns()
            if not self.finished:
                self._admitted(answer, now_ns)
            elif isinstance(answer, Ticket):
                answer.withdraw(now_ns)

    def _admitted(self, answer: Ticket | Refusal, now_ns: int) -> None:
        if isinstance(answer, Refusal):
            self._turn_away(answer)
            return
        self._ticket = answer
        if self.observation is not None:
            self.observation.queued_ns = answer.queued_ns
        if answer.queued_ns is not None and self._first_byte_ns is not None:
            self._first_byte_ns += answer.queued_ns
        self._go(now_ns)

    def _ask(self) -> Ask:
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

    def _go(self, now_ns: int) -> None:
        """Off to the engine, with the wish for its usage if that is wanted."""
        self._held = False
        if self._forwarder.asks_for_usage and self.request_complete and self.plan.readable and not self._chunked:
            usage = self._forwarder.settings.usage
            body = b"".join(self._pending)
            self._asked = ask_for_usage(
                body, self.plan.path, continuous=usage.ask == "continuous", most_bytes=usage.max_body_bytes
            )
            if self._asked is not None:
                self._pending = [self._asked.body]
                self._pending_bytes = self._length = len(self._asked.body)
        self._dispatch(now_ns)

    def _dispatch(self, now_ns: int, exclude: tuple[Engine, ...] = ()) -> bool:
        """Choose an engine and find a connection to it; whether there is one."""
        upstreams, plan = self._forwarder.upstreams, self.plan
        said = None if self.observation is None or not upstreams.by_model else self.observation.request_sent()
        header = upstreams.sticky_header
        engine = upstreams.choose(
            now_ns,
            exclude,
            model=None if said is None else said.model,
            key=None if header is None else plan.head.fields.get(header),
        )
        if engine is None:
            return False
        self._engine, self._spell, self._engine_ok = engine, engine.spell, None
        self._find_connection(upstreams.pools[engine.index], now_ns)
        return True

    def _find_connection(self, pool: UpstreamPool, now_ns: int) -> None:
        connection = pool.take(now_ns)
        if connection is not None:
            self._attach(connection)
        else:
            self._connect_to(pool)

    def _connect_to(self, pool: UpstreamPool) -> None:
        self._connecting = True
        self._forwarder.group.start_soon(self._connect, pool)

    async def _connect(self, pool: UpstreamPool) -> None:
        try:
            connection = await pool.connect()
        except TimeoutError:
            seconds = self._forwarder.settings.dial.connect_timeout_seconds
            error = f"no connection to {pool.name} within {seconds:g} s"
            self._not_reached(pool, 504, "Engine does not answer", error, "timeout")
        except OSError as failure:
            error = f"no connection to {pool.name}: {failure.strerror or failure}"
            self._not_reached(pool, 502, "Engine cannot be reached", error, "error")
        else:
            pool.reached("")
            self._forwarder.tally.connects += 1
            if self.finished:
                pool.give(connection, self._forwarder.clock.now_ns())
            else:
                self._attach(connection)

    def _not_reached(self, pool: UpstreamPool, status: int, title: str, error: str, outcome: Outcome) -> None:
        pool.reached(error)
        if not self.finished and not self._try_another(error):
            self._refuse(status, title, error, outcome)

    def _try_another(self, reason: str) -> bool:
        """The engine failed before its first byte: whether another one gets the request instead."""
        engine, self._engine_ok, self._fault = self._engine, False, reason
        if engine is None or self._tried_another or self._replay is None or self._forwarder.draining:
            return False
        self._tried_another = True
        now_ns = self._forwarder.clock.now_ns()
        self._leave_engine(now_ns)
        self._pending[:0] = self._replay
        self._pending_bytes += self._replay_bytes
        self._replay, self._replay_bytes = [], 0
        if not self._dispatch(now_ns, (engine,)):
            return False
        self._forwarder.tally.retries += 1
        return True

    def _leave_engine(self, now_ns: int) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            balance = self._forwarder.upstreams.balance
            balance.ended(engine, self._spell, now_ns, ok=self._engine_ok, reason=self._fault)

    def _attach(self, connection: UpstreamConnection) -> None:
        self.upstream = connection
        if self.observation is not None:
            self.observation.goes_to(connection.pool.name)
        connection.start(self)
        if self._connecting:
            self._connecting = False
            self.client.hold_connecting(False)
        self._head_due = self._was_sent = True
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
                self._request_said(observation)
            except OBSERVATION_ERRORS as error:
                self._forwarder.observation_failed(error)
        if self._held and not self._asked_for_room:
            self._asked_for_room = True
            self._let_in(self._forwarder.clock.now_ns())
        elif self._forwarder.quotas.active:
            self._count_in(self._forwarder.clock.now_ns())

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
            if self._held:
                if self._pending_bytes > HELD_BYTES:
                    self._held_enough()
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

    def _held_enough(self) -> None:
        """So long a request is not waited for: what is known of it must do."""
        self.client.hold_connecting(True)
        self._connecting = True  # `_attach` lets the client go on
        if not self._asked_for_room:
            self._asked_for_room = True
            self._let_in(self._forwarder.clock.now_ns())

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
        self._judge_engine(head.status, now_ns)
        observation = self.observation
        if observation is not None:
            try:
                observation.response_head(head.status, head.content_type, head.content_encoding, now_ns)
            except OBSERVATION_ERRORS as error:
                self._forwarder.observation_failed(error)
        added = self._own_fields()
        if self._ticket is not None:
            added += self._ticket.header_lines(now_ns)
        sent = head.for_client(added, dechunk=self._dechunk)
        if self._asked is not None and (head.chunked or head.until_close):
            self._strip = usage_strip_for(self._asked, head.content_type, head.content_encoding)
        if self._strip is not None:
            self.client.write(sent)
            self._write_stripped(self._strip.feed(b"".join(parts)))
        else:
            self.client.write(sent + (b"".join(parts) if self._dechunk else rest))

    def _judge_engine(self, status: int, now_ns: int) -> None:
        self._engine_ok = status < 500
        self._fault = "" if self._engine_ok else f"it answered {status}"
        if self._engine_ok and self._engine is not None:
            self._forwarder.upstreams.balance.answered(self._engine, self._spell, now_ns)

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
        if self.tunnelled:
            self.close_after = True
            self._finish(None, None)
            self.client.cut(abruptly=False)
            return
        if connection is not None and not self._responding and self._replay is not None:
            if connection.used and not self._retried:
                self._retried = True
                self._forwarder.tally.retries += 1
                self._pending[:0] = self._replay
                self._pending_bytes += self._replay_bytes
                self._replay, self._replay_bytes = [], 0
                self._connect_to(connection.pool)
                return
            if self._try_another(reason):
                return
        name = "the engine" if connection is None else connection.pool.name
        detail = f"{name} closed the connection before its answer was whole ({reason})"
        if not self._engine_ok:
            self._engine_ok, self._fault = False, reason
        self._refuse(502, "Engine broke off", detail, "error")

    def upstream_broken(self, reason: str) -> None:
        """The engine's answer cannot be passed on."""
        self._engine_ok, self._fault = False, reason
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
        if self._try_another(detail):
            self._first_byte_ns = now_ns + (self._forwarder.first_byte_ns or 0)
        else:
            self._refuse(504, "Time is up", detail, "timeout")

    @property
    def _waits_for_engine(self) -> bool:
        """Not for the rest of the request, nor for a quota to have room."""
        return self.request_complete and not self._held

    def _timed_out(self, detail: str) -> None:
        self._drop_upstream()
        self._refuse(504, "Time is up", detail, "timeout")

    def shut_down(self) -> None:
        """The sidecar ends and waits no longer: the client is told where it still can be. A tunnel is left as it is."""
        if not self.tunnelled:
            seconds = self._forwarder.settings.drain_seconds
            self._drop_upstream()
            self._refuse(503, "Shutting down", f"not finished within drain_seconds ({seconds:g} s)", "error")

    def reject(self, status: int, title: str, detail: str) -> None:
        """The rest of the request is not taken."""
        self._drop_upstream()
        self._refuse(status, title, detail, "rejected")

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

    def _turn_away(self, refusal: Refusal) -> None:
        """The request does not go to the engine."""
        if not self.request_complete:
            self.close_after = True
        challenge = CHALLENGE if refusal.status == 401 else b""
        added = challenge + self._own_fields()
        self.client.write(refusal_answer(refusal, self.plan.path, added, head_only=self.is_head))
        self._finish("rejected", refusal.code, own_status=refusal.status)

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
        if self._waiting is not None:
            self._waiting.cancel()
        if now_ns is None:
            now_ns = self._forwarder.clock.now_ns()
        self._leave_engine(now_ns)
        observation, usage = self.observation, _UNKNOWN
        if observation is not None:
            try:
                usage = observation.end(now_ns, cut=cut, error=error, own_status=own_status).usage
            except OBSERVATION_ERRORS as failure:
                self._forwarder.observation_failed(failure)
                usage = self._end_unmetered(observation, now_ns, cut, error, own_status)
        if self._ticket is not None:
            if self._was_sent:
                self._ticket.done(usage, now_ns)
            else:
                self._ticket.withdraw(now_ns)
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
