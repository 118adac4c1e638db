"""A node of sidecars and an agent for tests of leases: messages by hand, every fault between them, and the truth."""

from dataclasses import dataclass, field

from msgspec.structs import replace

from agent.core.quotas.allocator import Allocator
from agent.core.quotas.book import Book
from agent.core.quotas.leases import LeaseAnswer, LeaseRequest
from agent.core.quotas.policy import Policy, Rule
from agent.core.quotas.reservations import Reservation, Wish
from agent.core.requests import Usage

NS = 1_000_000_000
RULE = Rule(name="r", tenant="acme", mode="block")


def rule(**changes: object) -> Rule:
    return replace(RULE, **changes)


def policy(*rules: Rule, **changes: object) -> Policy:
    return replace(Policy(rules=rules), **changes)


def wish(tokens: int = 10, output: int | None = 10, tenant: str = "acme", model: str = "m") -> Wish:
    return Wish(tenant=tenant, model=model, input_tokens=tokens, max_output_tokens=output)


@dataclass(eq=False)
class Running:
    """One admitted request. `loose`: nobody answers for it any more, see `Node`."""

    reservation: Reservation
    admitted_ns: int
    tokens: int
    loose: bool
    actual: int | None = None
    ended_ns: int | None = None
    dead: bool = False


@dataclass(eq=False)
class Machine:
    """One sidecar, the message it waits for, and everything it ever admitted."""

    name: str
    book: Book
    epoch: int = 1
    number: int = 0
    sent: tuple[LeaseRequest, int] | None = None
    answer: LeaseAnswer | None = None
    requests: list[Running] = field(default_factory=list)
    former: list[Running] = field(default_factory=list)  # of starts before

    @property
    def open(self) -> list[Running]:
        return [one for one in self.requests if one.ended_ns is None]


class Node:
    """Sidecars and an agent. A request is `loose` when it was admitted without a lease, or its lease lapsed, or the
    agent that answered for it is gone: for these other bounds hold."""

    def __init__(self, policy: Policy, sidecars: int, now_ns: int = 1000 * NS) -> None:
        self.policy = policy
        self.now = now_ns
        self.allocator = Allocator(policy, self.now - policy.lease_ns)
        self.machines = [Machine(f"s{i}", self._book()) for i in range(sidecars)]
        self.late: list[LeaseRequest] = []

    def _book(self) -> Book:
        book = Book(Policy())
        book.install(self.policy, from_agent=True)
        return book

    def tick(self, ns: int) -> None:
        self.now += ns
        for machine in self.machines:
            if not machine.book.in_touch(self.now):
                self.lapse(machine)

    def lapse(self, machine: Machine) -> None:
        for one in machine.open:
            one.loose = True
        if not self.knows(machine):
            for one in machine.requests:
                one.loose = True

    def knows(self, machine: Machine) -> bool:
        return ("", machine.name, machine.epoch) in self.allocator._heard

    def begin(self, machine: Machine, tokens: int = 10) -> Running | None:
        verdict = machine.book.judge(wish(tokens, 0), self.now)
        if verdict.reservation is None:
            machine.book.want(wish(tokens, 0), self.now)
            return None
        leased = machine.book.in_touch(self.now) and all(
            share.leased and share.allowance is not None for share, _ in verdict.reservation.plan.limits
        )
        running = Running(verdict.reservation, self.now, tokens, loose=not leased)
        machine.requests.append(running)
        return running

    def finish(self, running: Running, actual: int) -> None:
        running.reservation.done(Usage(input_tokens=actual), self.now)
        running.ended_ns, running.actual = self.now, actual

    # Messages

    def send(self, machine: Machine) -> None:
        machine.number += 1
        claims = machine.book.claims(self.now)
        request = LeaseRequest(
            sidecar=machine.name,
            epoch=machine.epoch,
            number=machine.number,
            claims=claims,
            revision=self.policy.revision,
        )
        machine.sent, machine.answer = (request, self.now), None

    def arrive(self, request: LeaseRequest) -> LeaseAnswer | None:
        if self.allocator.is_late("", request):
            return None
        grants = self.allocator.renew("", request, self.now, lambda rule, _, kind: rule.limit(kind) or 0)
        sidecars = self.allocator.sidecars(self.now)
        me = ("", request.sidecar)
        return LeaseAnswer(
            number=request.number,
            lease_ns=self.policy.lease_ns,
            sidecars=max(1, len(sidecars)),
            place=sidecars.index(me) if me in sidecars else 0,
            revision=self.policy.revision,
            grants=grants,
            hurry=self.allocator.hurry,
        )

    def deliver(self, machine: Machine) -> None:
        if machine.sent is not None and machine.answer is None:
            machine.answer = self.arrive(machine.sent[0])

    def receive(self, machine: Machine) -> None:
        if machine.sent is not None and machine.answer is not None:
            machine.book.apply(machine.answer, machine.sent[1], self.now)
            machine.sent = machine.answer = None

    def give_up(self, machine: Machine) -> None:
        """The sidecar's patience ends; its renewal may still be on its way."""
        if machine.sent is not None:
            if machine.answer is None:
                self.late.append(machine.sent[0])
            machine.sent = machine.answer = None

    def renew(self, machine: Machine) -> None:
        self.send(machine)
        self.deliver(machine)
        self.receive(machine)

    # Restarts

    def restart(self, machine: Machine) -> None:
        for one in machine.open:
            one.ended_ns, one.actual, one.dead = self.now, one.tokens, True
        if not self.knows(machine):
            for one in machine.requests:
                one.loose = True
        machine.former += machine.requests
        machine.requests = []
        machine.book, machine.epoch, machine.sent, machine.answer = self._book(), machine.epoch + 1, None, None

    def restart_agent(self) -> None:
        self.allocator = Allocator(self.policy, self.now)
        for machine in self.machines:
            for one in machine.former:
                one.loose = True
            if not machine.book.in_touch(self.now):
                self.lapse(machine)
            if machine.sent is not None and machine.answer is None:
                machine.sent = None  # the connection is gone

    # The truth

    def running(self, *, loose: bool) -> int:
        return sum(1 for machine in self.machines for one in machine.open if loose or not one.loose)

    def in_last_minute(self, *, loose: bool, tokens: bool) -> int:
        total = 0
        for machine in self.machines:
            for one in machine.former + machine.requests:
                if one.admitted_ns > self.now - 60 * NS and (loose or not one.loose):
                    total += min(one.tokens, one.tokens if one.actual is None else one.actual) if tokens else 1
        return total
