"""Quotas on the request path: an `Ask` in, a `Ticket`, a wait or a `Refusal` out; leases renewed with the agent."""

from collections.abc import Callable, Iterable
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import structlog

from agent.clock import NS, boot_ns
from agent.core.metrics.samples import Sample
from agent.core.ports import TryLater
from agent.core.quotas.book import Book, Short
from agent.core.quotas.leases import LeaseRequest
from agent.core.quotas.policy import Policy
from agent.core.quotas.reservations import Reservation
from agent.core.requests import Usage
from agent.lifecycle import CycleHealth, Health, record_success
from agent.sidecar.asks import Ask, Refusal
from agent.sidecar.quota.client import LeaseClient
from agent.sidecar.quota.numbers import Counts, samples
from agent.sidecar.quota.queue import Waiter, WaitingRoom
from agent.sidecar.quota.words import refusal, remaining_lines, warning_lines

log = structlog.get_logger()

KICK_SECONDS = 0.05  # least time between two renewals that somebody waits for
HURRY_SECONDS = 0.005  # before the renewal that gives something back
HUNGRY_SECONDS = 0.2  # between renewals while somebody waits for what others hold
LAST_WORD_SECONDS = 1.0
MAX_PATIENT = 1000  # of those that wait for room held elsewhere


class Ticket:
    """Leave to go to the engine. `done` or `withdraw` must end it, on every path; a second end does nothing."""

    __slots__ = ("_quotas", "_reservation", "queued_ns", "warnings")

    def __init__(
        self,
        quotas: "Quotas | None",
        reservation: Reservation | None,
        warnings: bytes = b"",
        queued_ns: int | None = None,
    ) -> None:
        self._quotas = quotas
        self._reservation = reservation
        self.warnings = warnings  # header lines, each with its CRLF
        self.queued_ns = queued_ns  # how long it waited; None: it did not

    def header_lines(self, now_ns: int) -> bytes:
        """Lines to add to the head of the answer: warnings, and what remains. Empty in mode `observe`."""
        if self._quotas is None or self._reservation is None:
            return b""
        if not self._quotas.policy.remaining_headers:
            return self.warnings
        return self.warnings + remaining_lines(self._reservation.buckets, now_ns)

    def done(self, usage: Usage, now_ns: int) -> None:
        """The request ended, however it did: what it used in truth takes the place of what was reserved.

        Of an unknown number of input tokens the estimate stays charged; output tokens nobody told are none.
        """
        if self._quotas is not None and self._reservation is not None and self._reservation.done(usage, now_ns):
            self._quotas.freed(now_ns)

    def withdraw(self, now_ns: int) -> None:
        """The request never reached the engine: it counts for nothing."""
        if self._quotas is not None and self._reservation is not None and self._reservation.undo(now_ns):
            self._quotas.freed(now_ns)


FREE = Ticket(None, None)
"""The ticket of a request that no rule is about."""


class Quotas:
    """The quotas of one sidecar. All instants are of `clock`, also those that callers pass.

    `client` None: nobody grants leases; `policy` holds, of which this sidecar has its part (`sidecars`). `kept` is a
    file that keeps the agent's rules, so that they hold after a restart while the agent is away.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        client: LeaseClient | None = None,
        sidecar: str = "",
        epoch: int = 0,
        clock: Callable[[], int] = boot_ns,
        kept: Path | None = None,
    ) -> None:
        self.book = Book(policy)
        self.room = WaitingRoom(self.book)
        self.counts = Counts()
        self.heard = anyio.Event()  # the first renewal was answered, or failed
        self._client = client
        self._sidecar = sidecar
        self._epoch = epoch
        self._clock = clock
        self._kept = kept
        self._number = 0
        self._kick = anyio.Event()
        if kept is not None and client is not None:
            self._remember(kept)

    @property
    def policy(self) -> Policy:
        """The rules in force."""
        return self.book.policy

    @property
    def active(self) -> bool:
        """Whether there are any rules."""
        return bool(self.book.policy.rules)

    @property
    def decides(self) -> bool:
        """Whether a rule can refuse anything: only then must the request path know what a request asks for."""
        return self.book.policy.can_refuse

    # On the request path

    def admit(self, ask: Ask, now_ns: int) -> Ticket | Refusal | None:
        """Without waiting. None: it does not fit now and may wait, with `wait`."""
        book = self.book
        if not book.policy.rules:
            return FREE
        if self.room.waiters and any(bucket.waiting for bucket in book.plan_for(ask, now_ns).buckets):
            return None  # who came first is served first
        reservation = book.take(ask, now_ns)
        if reservation is not None:
            self.counts.passed(reservation.plan.buckets)
            return Ticket(self, reservation)
        verdict = book.judge(ask, now_ns)
        if verdict.reservation is not None:
            self.counts.admitted(verdict)
            return Ticket(self, verdict.reservation, warning_lines(verdict.ignored) if verdict.ignored else b"")
        if self._deadline_ns(verdict.short, now_ns) is not None:
            return None
        book.want(ask, now_ns)
        self.counts.refused(verdict.short)
        return refusal(book, verdict.short, now_ns)

    async def wait(self, ask: Ask) -> Ticket | Refusal:
        """Until it fits, or its time is over. Cancel it when the client leaves: its place is free then."""
        began = self._clock()
        buckets = self.book.plan_for(ask, began).buckets
        verdict = self.book.judge(ask, began)
        if verdict.reservation is not None:
            if not any(bucket.waiting for bucket in buckets):
                self.counts.admitted(verdict)
                return Ticket(self, verdict.reservation, warning_lines(verdict.ignored))
            verdict.reservation.undo(began)
        self.book.want(ask, began)
        full = next((b for b in buckets if b.rule.queue is not None and b.waiting >= b.rule.queue.max_waiting), None)
        deadline = self._deadline_ns(verdict.short, began)
        if verdict.short and (full is not None or deadline is None):
            self.counts.refused(verdict.short)
            text = "" if full is None else f"{full.waiting} requests wait already. "
            return refusal(self.book, verdict.short, began, queued=text)
        rank = min((b.rule.queue.rank(ask.priority) for b in buckets if b.rule.queue is not None), default=0)
        if deadline is None:  # it fits, but others were here before
            queues = [b.rule.queue.deadline_ns for b in buckets if b.rule.queue is not None]
            deadline = began + min(queues, default=self.policy.patience_ns)
        waiter = Waiter(ask, buckets, (rank, self.room.number()), deadline, verdict.short)
        return await self._wait(waiter, began)

    async def _wait(self, waiter: Waiter, began_ns: int) -> Ticket | Refusal:
        self.room.enter(waiter)
        self.counts.queued(waiter.buckets)
        handed_over = False
        try:
            self._kick.set()
            while waiter.reservation is None and (now := self._clock()) < waiter.deadline_ns:
                self.room.serve(now)
                if waiter.reservation is None:
                    with anyio.move_on_after(max(0, waiter.next_ns - now) / NS):
                        await waiter.changed.wait()
            now = self._clock()
            if waiter.reservation is None:
                self.counts.refused(waiter.short)
                text = f"It waited for {(now - began_ns) / NS:.1f} s. "
                if not waiter.short:
                    return Refusal(429, "rate_limit_exceeded", text + "Others were before it. Try again in 1 s.", 1.0)
                return refusal(self.book, waiter.short, now, queued=text)
            handed_over = True
            self.counts.passed(waiter.buckets)
            return Ticket(self, waiter.reservation, queued_ns=now - began_ns)
        finally:
            self.room.leave(waiter)
            if waiter.reservation is not None and not handed_over:
                waiter.reservation.undo(self._clock())
            if len(self.room):
                self.room.serve(self._clock())

    def freed(self, now_ns: int) -> None:
        """A request ended: somebody may fit now."""
        if len(self.room):
            self.room.serve(now_ns)

    def _deadline_ns(self, short: Iterable[Short], now_ns: int) -> int | None:
        """How long a request that does not fit may wait; None: it is refused at once."""
        deadline: int | None = None
        asks_agent = self.book.in_touch(now_ns) and not self.book.unanswered
        for one in short:
            queue = one.bucket.rule.queue
            if one.amount > one.share.limit:
                return None  # it will never fit
            if queue is not None:
                until = now_ns + queue.deadline_ns
            elif asks_agent and one.reclaimable:
                if len(self.room) >= MAX_PATIENT:
                    return None
                until = now_ns + self.policy.patience_ns
            else:
                return None
            deadline = until if deadline is None else min(deadline, until)
        return deadline

    # With the agent

    async def run(self, health: Health) -> None:
        """Renew leases until cancelled, then give them back. Ends at once without a client."""
        if self._client is None:
            self.heard.set()
            return
        cycle = health.cycle("quota_leases", self.policy.renew_ns / NS)
        try:
            while True:
                hurry = await self._renew(self._client, cycle)
                self.heard.set()
                await anyio.sleep(HURRY_SECONDS if hurry else KICK_SECONDS)
                if not hurry:
                    with anyio.move_on_after(self._pause_seconds()):
                        await self._kick.wait()
                self._kick = anyio.Event()
        finally:
            with anyio.move_on_after(LAST_WORD_SECONDS, shield=True):
                await self._leave(self._client)

    def _pause_seconds(self) -> float:
        renew = self.policy.renew_ns / NS
        return (min(renew, HUNGRY_SECONDS) if len(self.room) else renew) - KICK_SECONDS

    async def _renew(self, client: LeaseClient, cycle: CycleHealth) -> bool:
        """One renewal; whether the next one should follow at once."""
        sent_ns = self._clock()
        had = self.book.policy
        request = self._request(sent_ns)
        try:
            answer = await client.renew(request)
        except TryLater as error:
            if cycle.ok is not False:
                log.warning("quota_leases_not_renewed", reason=error.reason)
            cycle.ok, cycle.error = False, error.reason
            cycle.failures += 1
            self.book.unanswered = True
            self.room.serve(self._clock())
            return False
        now_ns = self._clock()
        self.book.apply(answer, sent_ns, now_ns)
        record_success("quota_leases", cycle)
        if self.book.policy is not had:
            log.info("quota_rules_changed", rules=len(self.policy.rules), from_agent=self.book.from_agent)
            if self._kept is not None:
                await anyio.to_thread.run_sync(self._keep, self._kept)
        self.room.serve(now_ns, note=True)
        return answer.hurry

    def _request(self, now_ns: int, *, leaving: bool = False) -> LeaseRequest:
        self._number += 1
        return LeaseRequest(
            sidecar=self._sidecar,
            epoch=self._epoch,
            number=self._number,
            claims=self.book.claims(now_ns),
            revision=self.policy.revision if self.book.from_agent else "",
            leaving=leaving,
        )

    async def _leave(self, client: LeaseClient) -> None:
        try:
            await client.renew(self._request(self._clock(), leaving=True))
        except TryLater:
            pass  # what this sidecar holds comes back when its lease ends

    def _remember(self, file: Path) -> None:
        try:
            policy = msgspec.json.decode(file.read_bytes(), type=Policy)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("kept_quota_rules_unreadable", file=str(file), reason=str(error))
            return
        if policy.rules:
            self.book.install(policy, from_agent=True)
            self.book.sidecars, self.book.place = policy.sidecars, policy.sidecars - 1

    def _keep(self, file: Path) -> None:
        """Raises nothing: without the file only a restart while the agent is away is worse off."""
        policy = self.policy if self.book.from_agent else Policy()
        temporary = file.with_suffix(".new")
        try:
            temporary.write_bytes(msgspec.json.encode(policy))
            temporary.replace(file)
        except OSError as error:
            log.warning("quota_rules_not_kept", file=str(file), reason=error.strerror)

    def numbers(self) -> Iterable[Sample]:
        """For /metrics."""
        return samples(self.book, self.counts, len(self.room), self._clock(), leased=self._client is not None)
