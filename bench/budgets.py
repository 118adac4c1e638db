"""How long a decision about a request takes while its agent settles a thousand requests a second in the same process.

One process does the work of an agent and of a sidecar: the settlement of 1,000 requests a second of 50 tenants on a
real ledger, 60 budgets (50 of them hard), the desk of leases behind the agent's real HTTP API, and the sidecar's real
quota code, which renews its leases over loopback. In production the two are processes of their own.

`decision` is the sidecar's: may this request go to the engine? It asks nobody. `lease answer` is the agent's to a
renewal of 50 claims, which no request waits for; over HTTP it also waits for whatever the event loop is doing.
"""

import tempfile
from pathlib import Path
from statistics import quantiles
from time import perf_counter_ns

import aiohttp
import anyio
import structlog

from agent.clock import boot_ns
from agent.core.cost.budgets import Budget
from agent.core.cost.reports import Term
from agent.core.quotas.budget_rules import with_budgets
from agent.core.quotas.leases import Claim, LeaseRequest
from agent.core.quotas.policy import Policy
from agent.core.requests import Usage
from agent.ledger.ledger import Ledger
from agent.lifecycle import Health
from agent.runners.budgets import BudgetDesk
from agent.runners.leases import LeaseDesk
from agent.runners.settlement import Settlement
from agent.sidecar.asks import Ask
from agent.sidecar.quota.client import AgentLeases
from agent.sidecar.quota.quotas import Quotas, Ticket
from bench.figures import Figure
from tests.support.api import node, served
from tests.support.money import NS, Sidecar, book, engine, gpus, record

SECONDS = 20
WARM_UP_SECONDS = 8  # leases of an agent that has just started do not grow for five seconds
REQUESTS_PER_SECOND = 1000
SPENT = 5  # of the tenants have nothing left: their requests are refused with a reason
TENANTS = tuple(f"tenant-{number}" for number in range(50))
BURST, PAUSE_SECONDS = 50, 0.01  # decisions at once, and between
BAR_DECISION_MS = 2.0
BAR_ANSWER_MS = 50.0
BAR_HTTP_MS = 1000.0  # a lease is renewed every second and holds for five
GPUS = tuple(str(index) for index in range(8))


def _budgets() -> tuple[Budget, ...]:
    common = {"nano": 10**18, "currency": "CNY"}
    hard = [
        Budget(
            name=name,
            nano=1 if number < SPENT else 10**18,
            currency="CNY",
            period="month",
            mode="block",
            scope=(Term("tenant", "is", (name,)),),
        )
        for number, name in enumerate(TENANTS)
    ]
    periods = ("day", "week", "month", "quarter", "7d")
    soft = [Budget(name=f"soft-{period}", period=period, **common) for period in periods]  # type: ignore[arg-type]
    engines = [
        Budget(name=f"engine-{period}", period=period, scope=(Term("engine", "is", ("vllm",)),), **common)  # type: ignore[arg-type]
        for period in periods
    ]
    return (*hard, *soft, *engines)


class _Node:
    """An agent, its load, and a sidecar; `stop` ends them."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.settlement = Settlement(ledger, book(), "bench", ledger.clock)
        budgets = _budgets()
        counters, now = self.settlement.cost_nano, ledger.clock.now_ns
        self.budgets = BudgetDesk(budgets, ledger, counters, now, through_ns=lambda: self.settlement.settled_through_ns)
        self.desk = LeaseDesk(with_budgets(Policy(), budgets), ledger, counters, now, budgets=self.budgets)
        self.decisions: list[int] = []
        self.refusals: list[int] = []
        self.answers: list[int] = []
        self.over_http: list[int] = []
        self.settled = 0
        self.steps: list[float] = []
        self.counting = False

    async def load(self) -> None:
        """A second's requests in ten batches, as sidecars send them, and one settlement step a second."""
        sidecar, number = Sidecar(), 0
        began = anyio.current_time()
        for tick in range(10**9):
            now = self.ledger.clock.now_ns()
            if tick % 10 == 0:
                self.settlement.observe_gpus(gpus(now, 8, (7,)))
                self.settlement.observe_engine(engine(now, owns=GPUS, output=20.0 * number, running=400.0))
            events = []
            for _ in range(REQUESTS_PER_SECOND // 10):
                number += 1
                tenant = TENANTS[number % len(TENANTS)]
                made = record(f"r{number}", now - NS // 2, now, tokens=20, tenant=tenant)
                events.append(sidecar.end(made))
            await self.settlement.accept(sidecar.batch(now, *events))
            self.settled += len(events) if self.counting else 0
            await anyio.sleep(max(0.0, began + (tick + 1) / 10 - anyio.current_time()))

    async def pulse(self) -> None:
        """What the agent does every second."""
        while True:
            await self.settlement.step()
            await self.budgets.step()
            await self.desk.step()
            await anyio.sleep(1)

    async def decide(self, quotas: Quotas) -> None:
        """Decisions in bursts, each timed by itself."""
        number = 0
        while True:
            for _ in range(BURST):
                number += 1
                ask = Ask(id="r", tenant=TENANTS[number % len(TENANTS)], model="llama", path="/v1/completions",
                          input_tokens=50, max_output_tokens=200, priority=None)  # fmt: skip
                began = perf_counter_ns()
                found = quotas.admit(ask, boot_ns())
                took = perf_counter_ns() - began
                if self.counting:
                    (self.decisions if isinstance(found, Ticket) else self.refusals).append(took)
                if isinstance(found, Ticket):
                    found.done(Usage(input_tokens=50, output_tokens=20), boot_ns())
            await anyio.sleep(PAUSE_SECONDS)

    async def renew(self, client: AgentLeases) -> None:
        """Renewals of a second sidecar with 50 claims, asked directly and over HTTP in turn."""
        number = 0
        rules = [rule for rule in self.desk.policy.rules if rule.tenant != "*"]
        claims = tuple(Claim(rule.name, rule.tenant, "money", 10, 20, 0, 1000, True) for rule in rules)
        revision = self.desk.policy.revision
        while True:
            for ask_http in (False, True):
                number += 1
                request = LeaseRequest(sidecar="other", epoch=1, number=number, claims=claims, revision=revision)
                began = perf_counter_ns()
                if ask_http:
                    await client.renew(request)
                else:
                    self.desk.answer("anonymous", None, request)
                took = perf_counter_ns() - began
                if self.counting:
                    (self.over_http if ask_http else self.answers).append(took)
            await anyio.sleep(0.05)


async def _measure(folder: Path) -> _Node:
    async with await Ledger.open(folder / "ledger.sqlite", "bench") as ledger:
        made = _Node(ledger)
        async with (
            served(node(lease=made.desk.answer)) as url,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
            anyio.create_task_group() as group,
        ):
            client = AgentLeases(url, session, timeout_seconds=5.0)
            quotas = Quotas(Policy(), client=client, sidecar="bench", epoch=1)
            for work in (made.load, made.pulse):
                group.start_soon(work)
            group.start_soon(quotas.run, Health())
            await quotas.heard.wait()
            group.start_soon(made.decide, quotas)
            group.start_soon(made.renew, client)
            await anyio.sleep(WARM_UP_SECONDS)
            made.counting = True
            await anyio.sleep(SECONDS)
            made.counting = False
            assert quotas.book.from_agent
            group.cancel_scope.cancel()
    return made


def _percentiles(nanoseconds: list[int]) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    parts = quantiles(nanoseconds, n=100)
    return parts[49] / 1e6, parts[98] / 1e6


def run() -> list[Figure]:
    """Milliseconds, and whether the load was really there."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory() as folder:
        made = anyio.run(_measure, Path(folder))
    figures = [
        Figure(name="budget_load", value=made.settled / SECONDS, unit="requests/s", bar=900.0, better="higher"),
        Figure(name="budget_decisions", value=len(made.decisions) / SECONDS, unit="1/s", bar=500.0, better="higher"),
        Figure(name="budget_refusals", value=len(made.refusals) / SECONDS, unit="1/s", bar=50.0, better="higher"),
    ]
    for name, found, bar in (
        ("budget_decision", made.decisions, BAR_DECISION_MS),
        ("budget_refusal", made.refusals, BAR_DECISION_MS),
        ("lease_answer", made.answers, BAR_ANSWER_MS),
        ("lease_answer_http", made.over_http, BAR_HTTP_MS),
    ):
        p50, p99 = _percentiles(found)
        figures.append(Figure(name=f"{name}_p50", value=p50, unit="ms", bar=bar, better="lower"))
        figures.append(Figure(name=f"{name}_p99", value=p99, unit="ms", bar=bar, better="lower"))
    return figures
