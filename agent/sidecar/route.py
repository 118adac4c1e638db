"""One request's way to an engine: which one, over which connection, and another if it fails before its first byte."""

from typing import Protocol

from agent.core.requests import Outcome
from agent.sidecar.forward import Forwarder
from agent.sidecar.gateway.balance import Engine
from agent.sidecar.gateway.upstream import UpstreamConnection, UpstreamPool
from agent.sidecar.plans import Plan
from agent.sidecar.records.record import Observation


class Traveller(Protocol):
    """What a route needs of the request."""

    plan: Plan
    observation: Observation | None
    finished: bool

    def attach(self, connection: UpstreamConnection) -> None:
        """Go over this connection."""

    def rewind(self) -> bool:
        """Be ready to be sent once more, from the beginning; False: it cannot be."""

    def refuse(self, status: int, title: str, detail: str, outcome: Outcome) -> None:
        """No engine takes it."""


class Route:
    """The engine that counts this request, and what to say of it in the end.

    A kept-alive connection that the engine was just closing is replaced by a fresh one, and an engine that fails by
    another one, once each.
    """

    __slots__ = ("_again", "_engine", "_fault", "_forwarder", "_ok", "_other", "_request", "_spell", "connecting")

    def __init__(self, forwarder: Forwarder, request: Traveller) -> None:
        self._forwarder = forwarder
        self._request = request
        self._engine: Engine | None = None
        self._spell = 0
        self._ok: bool | None = None  # None: it is not known, or not the engine's fault
        self._fault = ""  # why not
        self._again = False
        self._other = False
        self.connecting = False

    def begin(self, now_ns: int, exclude: tuple[Engine, ...] = ()) -> bool:
        """Choose an engine and find a connection to it; whether there is one."""
        upstreams, request = self._forwarder.upstreams, self._request
        seen, header = request.observation, upstreams.sticky_header
        said = None if seen is None or not upstreams.by_model else seen.request_sent()
        engine = upstreams.choose(
            now_ns,
            exclude,
            model=None if said is None else said.model,
            key=None if header is None else request.plan.head.fields.get(header),
        )
        if engine is None:
            return False
        self._engine, self._spell, self._ok = engine, engine.spell, None
        pool = upstreams.pools[engine.index]
        connection = pool.take(now_ns)
        if connection is not None:
            request.attach(connection)
        else:
            self._connect_to(pool)
        return True

    def _connect_to(self, pool: UpstreamPool) -> None:
        self.connecting = True
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
            if self._request.finished:
                pool.give(connection, self._forwarder.clock.now_ns())
            else:
                self._request.attach(connection)

    def _not_reached(self, pool: UpstreamPool, status: int, title: str, error: str, outcome: Outcome) -> None:
        pool.reached(error)
        if not self._request.finished and not self.another(error):
            self._request.refuse(status, title, error, outcome)

    def again(self, connection: UpstreamConnection) -> bool:
        """A connection has died before a byte of the answer: whether it was a kept one, which a fresh one replaces."""
        if not connection.used or self._again or not self._request.rewind():
            return False
        self._again = True
        self._forwarder.tally.retries += 1
        self._connect_to(connection.pool)
        return True

    def another(self, reason: str) -> bool:
        """The engine failed before its first byte: whether another one gets the request instead."""
        engine = self._engine
        self.failed(reason)
        if engine is None or self._other or self._forwarder.draining or not self._request.rewind():
            return False
        self._other = True
        now_ns = self._forwarder.clock.now_ns()
        self.leave(now_ns)
        if not self.begin(now_ns, (engine,)):
            return False
        self._forwarder.tally.retries += 1
        return True

    def answered(self, status: int, now_ns: int) -> None:
        """The head of the answer is there."""
        if status >= 500:
            self.failed(f"it answered {status}")
            return
        self._ok, self._fault = True, ""
        if self._engine is not None:
            self._forwarder.upstreams.balance.answered(self._engine, self._spell, now_ns)

    def broke_off(self, reason: str) -> None:
        """The connection has died: the engine's fault, unless it had begun to answer well."""
        if not self._ok:
            self.failed(reason)

    def failed(self, reason: str) -> None:
        """It is the engine's fault."""
        self._ok, self._fault = False, reason

    def leave(self, now_ns: int) -> None:
        """The engine is done with this request, however it went."""
        engine, self._engine = self._engine, None
        if engine is not None:
            self._forwarder.upstreams.balance.ended(engine, self._spell, now_ns, ok=self._ok, reason=self._fault)
