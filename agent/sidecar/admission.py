"""Whether and when one request may go to an engine: its quotas are asked, perhaps waited for, and told its end."""

from typing import Protocol

import anyio

from agent.core.requests import Usage
from agent.sidecar.asks import Ask, Refusal
from agent.sidecar.forward import Forwarder
from agent.sidecar.quota.quotas import Ticket


class Applicant(Protocol):
    """What admission needs of the request."""

    finished: bool

    def ask(self) -> Ask:
        """What it asks for, as far as it is known."""

    def let_go(self, now_ns: int, queued_ns: int | None) -> None:
        """It may go, after it has waited so long; None: it did not wait."""

    def turn_away(self, refusal: Refusal) -> None:
        """It may not."""


class Admission:
    """`held`: the request waits here until it was asked for. Else it is on its way, and only counts."""

    __slots__ = ("_asked", "_forwarder", "_request", "_ticket", "_waiting", "held")

    def __init__(self, forwarder: Forwarder, request: Applicant, *, held: bool) -> None:
        self._forwarder = forwarder
        self._request = request
        self.held = held
        self._asked = False
        self._ticket: Ticket | None = None
        self._waiting: anyio.CancelScope | None = None

    def decide(self, now_ns: int) -> None:
        """The request is whole, or longer than we wait for. Only the first call counts."""
        if self._asked:
            return
        self._asked = True
        quotas = self._forwarder.quotas
        if not quotas.active:
            self._go(now_ns, None)
            return
        ask = self._request.ask()
        answer = quotas.admit(ask, now_ns)
        if not self.held:
            if isinstance(answer, Ticket):
                self._ticket = answer
        elif answer is None:
            self._waiting = anyio.CancelScope()  # already here: the client may leave before the task begins
            self._forwarder.group.start_soon(self._wait, ask, self._waiting)
        else:
            self._answered(answer, now_ns)

    async def _wait(self, ask: Ask, scope: anyio.CancelScope) -> None:
        with scope:
            answer = await self._forwarder.quotas.wait(ask)
            self._waiting = None
            now_ns = self._forwarder.clock.now_ns()
            if not self._request.finished:
                self._answered(answer, now_ns)
            elif isinstance(answer, Ticket):
                answer.withdraw(now_ns)

    def _answered(self, answer: Ticket | Refusal, now_ns: int) -> None:
        if isinstance(answer, Refusal):
            self._request.turn_away(answer)
            return
        self._ticket = answer
        self._go(now_ns, answer.queued_ns)

    def _go(self, now_ns: int, queued_ns: int | None) -> None:
        if self.held:
            self.held = False
            self._request.let_go(now_ns, queued_ns)

    def header_lines(self, now_ns: int) -> bytes:
        """What the answer tells of the quotas."""
        return b"" if self._ticket is None else self._ticket.header_lines(now_ns)

    def ended(self, usage: Usage, now_ns: int, *, was_sent: bool) -> None:
        """The request is over. What no engine got counts for nothing."""
        if self._waiting is not None:
            self._waiting.cancel()
        if self._ticket is None:
            return
        if was_sent:
            self._ticket.done(usage, now_ns)
        else:
            self._ticket.withdraw(now_ns)
