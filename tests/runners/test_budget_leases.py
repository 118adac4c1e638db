"""Hard budgets from the ledger to the decision: the desk of budgets, the desk of leases, and a sidecar's own code."""

from agent.core.cost.budgets import Budget
from agent.core.quotas.budget_rules import with_budgets
from agent.core.quotas.leases import LeaseRequest
from agent.core.quotas.policy import Policy
from agent.core.requests import Usage
from agent.runners.budgets import BudgetDesk
from agent.runners.leases import LeaseDesk
from agent.sidecar.asks import Ask, Refusal
from agent.sidecar.quota.quotas import Quotas, Ticket
from tests.support.budgets import HOUR_NS, NS, Clock, FakeLedger, budget, ns, term

NOON = ns("2026-11-23T12:00:00+00:00")
MILLION = 1_000_000


class Node:
    """An agent and a sidecar that talk when the test says so."""

    def __init__(self, ledger: FakeLedger, *budgets: Budget, quotas: Policy | None = None) -> None:
        self.ledger, self.clock, self.boot = ledger, Clock(NOON), Clock(10_000 * NS)
        self.budgets = BudgetDesk(budgets, ledger, ledger.cost_nano, self.clock)
        policy = with_budgets(quotas or Policy(), budgets)
        self.desk = LeaseDesk(policy, ledger, ledger.cost_nano, self.clock, self.boot, self.budgets)
        self.sidecar = Quotas(Policy(), sidecar="s", epoch=1, clock=self.boot)
        self.number = 0
        self.tick(policy.lease_ns)

    def tick(self, by_ns: int = NS) -> None:
        self.clock.at_ns += by_ns
        self.boot.at_ns += by_ns

    async def step(self) -> None:
        """The agent's second, and the sidecar's two renewals."""
        await self.budgets.step()
        await self.desk.step()
        for _ in range(2):
            self.renew()
        self.tick()

    def renew(self) -> None:
        self.number += 1
        book, now = self.sidecar.book, self.boot.at_ns
        revision = book.policy.revision if book.from_agent else ""
        request = LeaseRequest(sidecar="s", epoch=1, number=self.number, claims=book.claims(now), revision=revision)
        book.apply(self.desk.answer("", None, request), now, now)

    def ask(self, tenant: str = "acme", model: str = "m", tokens: int = 10) -> Ticket | Refusal | None:
        ask = Ask(id="r", tenant=tenant, model=model, path="/", input_tokens=tokens, max_output_tokens=0, priority=None)
        return self.sidecar.admit(ask, self.boot.at_ns)


async def started(node: Node, *tenants: str) -> Node:
    """The rules have come, and there is a lease for each of these."""
    await node.step()
    node.desk.prices = {"m": (MILLION, MILLION)}
    node.desk.currency = "CNY"
    node.renew()
    for tenant in tenants or ("acme",):
        node.ask(tenant)
        await node.step()
    return node


async def test_idle_time_counts_towards_a_hard_budget_and_the_reason_names_it():
    ledger = FakeLedger()
    ledger.book(NOON - HOUR_NS, 100)
    ledger.book(NOON - HOUR_NS, 800, state="loaded_idle", tenant="")
    node = await started(Node(ledger, budget(name="node-day", mode="block", nano=1000)))
    found = node.ask(tokens=50)
    assert isinstance(found, Ticket)
    ledger.book(NOON, 500, state="unallocated", tenant="")
    await node.step()
    refused = node.ask(tokens=1)
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.code) == (402, "budget_exceeded")
    assert "budget:node-day" in refused.message
    assert "a day" in refused.message
    # Until midnight.
    assert refused.retry_after_seconds is not None
    assert 11 * 3600 < refused.retry_after_seconds <= 12 * 3600


async def test_requests_alone_where_idle_time_does_not_count():
    ledger = FakeLedger()
    ledger.book(NOON - HOUR_NS, 100)
    ledger.book(NOON - HOUR_NS, 10**9, state="loaded_idle", tenant="")
    node = await started(Node(ledger, budget(mode="block", nano=1000, counts="requests")))
    assert isinstance(node.ask(), Ticket)


async def test_reservations_before_admission_and_the_truth_at_the_end():
    ledger = FakeLedger()
    ledger.book(NOON - HOUR_NS, 0)
    node = await started(Node(ledger, budget(mode="block", nano=1000, scope=(term("tenant", "acme"),))))
    first = node.ask(tokens=900)
    assert isinstance(first, Ticket)
    assert isinstance(node.ask(tokens=200), Refusal)
    assert isinstance(node.ask("zeta", tokens=200), Ticket)
    first.done(Usage(input_tokens=100), node.boot.at_ns)
    assert isinstance(node.ask(tokens=200), Ticket)


async def test_overlapping_budgets_all_hold():
    ledger = FakeLedger()
    ledger.book(NOON - HOUR_NS, 10)
    budgets = (
        budget(name="all", mode="block", nano=10_000),
        budget(name="acme", mode="block", nano=100, scope=(term("tenant", "acme"),)),
        budget(name="m", mode="warn", nano=5, scope=(term("model", "m"),)),
    )
    node = await started(Node(ledger, *budgets), "acme", "zeta")
    refused = node.ask(tokens=500)
    assert isinstance(refused, Refusal)
    assert "budget:acme" in refused.message
    ticket = node.ask("zeta", tokens=500)
    assert isinstance(ticket, Ticket)
    assert b"rule=budget:m; limit=money" in ticket.warnings


async def test_a_rolling_budget_tells_no_end_and_opens_as_it_rolls():
    ledger = FakeLedger()
    ledger.book(NOON - 23 * HOUR_NS, 990)
    node = await started(Node(ledger, budget(mode="block", period="24h", nano=1000)))
    refused = node.ask(tokens=50)
    assert isinstance(refused, Refusal)
    assert "a rolling 24h" in refused.message
    assert refused.retry_after_seconds == 60.0
    node.tick(2 * HOUR_NS)
    for _ in range(3):
        await node.step()
        node.ask(tokens=1)
    assert isinstance(node.ask(tokens=50), Ticket)


async def test_a_budget_that_has_not_begun_refuses_nothing():
    ledger = FakeLedger()
    ledger.book(NOON - HOUR_NS, 10**9)
    node = await started(Node(ledger, budget(mode="block", nano=1000, begins_ns=NOON + HOUR_NS)))
    assert isinstance(node.ask(), Ticket)
