"""Cost reports → the money part of the page: what the node costs per hour, where today's money went, and why."""

from dataclasses import dataclass, field

from markupsafe import Markup

from agent.api import formats
from agent.api.charts import stacked_bar
from agent.api.cost_tables import BudgetLine, Budgets, Proof, Top, budget_lines, no_budgets, proof, top
from agent.api.savings_sources import SavingsSources
from agent.api.savings_view import SavingsCache, SavingsPanel
from agent.api.services import NodeServices
from agent.api.times import parse_window
from agent.core.cost.reports import Dimension, Report, ReportQuery
from agent.core.ports import TryLater

NS = 1_000_000_000
MAX_AGE_NS = 5 * NS  # reports of a day cost more than the rest of the page
PROOF_MAX_AGE_NS = 60 * NS
TODAY: tuple[Dimension, ...] = ("state", "tenant", "model", "outcome")

STATES: dict[str, tuple[str, str]] = {
    "request": ("Requests", "GPU time spent on requests the sidecar measured"),
    "unattributed": ("Unattributed", "the engine worked past the sidecar, or for a server on another node"),
    "loaded_idle": ("Loaded, idle", "an engine holds the GPU and waits for work"),
    "warmup": ("Warm-up", "an engine was starting"),
    "other_workload": ("Other workload", "a process that is no engine"),
    "allocated_idle": ("Allocated, idle", "a pod holds the GPU, nothing runs"),
    "unallocated": ("Unallocated", "nobody uses the GPU"),
    "broken": ("Broken", "lost, hung or in need of a reset"),
    "gap": ("Gap", "the agent was not watching"),
}
"""What a slot state is called on the page, and what it means."""


@dataclass(slots=True)
class StateLine:
    """One state of the split."""

    name: str
    tone: str
    meaning: str
    share: str
    gpu_time: str
    cost: str


@dataclass(slots=True)
class Split:
    """A window's GPU time and money by state."""

    title: str
    cost: str
    gpu_time: str
    bar: Markup
    lines: list[StateLine]
    requests: int = 0
    per_request: str = formats.ABSENT
    requests_share: str = formats.ABSENT


@dataclass(slots=True)
class CostPanel:
    """Everything the page says about money."""

    per_hour: str = formats.ABSENT
    per_hour_note: str = ""
    price_source: str = ""
    hint: str = ""
    splits: list[Split] = field(default_factory=list)
    prices: list[tuple[str, str, str]] = field(default_factory=list)
    error: str = ""
    budgets: list[BudgetLine] = field(default_factory=list)
    tops: list[Top] = field(default_factory=list)
    savings: SavingsPanel | None = None
    proof: Proof | None = None


class CostReader:
    """Asks the ledger, at most every 5 seconds; for proof and findings less often.

    `budgets`: how they stand now. Without `sources` no findings are looked for.
    """

    def __init__(
        self, node: NodeServices, budgets: Budgets = no_budgets, sources: SavingsSources | None = None
    ) -> None:
        self.node = node
        self.panel: CostPanel | None = None
        self.read_boot_ns = 0
        self._budgets = budgets
        self._savings = None if sources is None else SavingsCache(node, sources)
        self._proof: Proof | None = None
        self._proof_until_ns = 0

    async def read(self) -> CostPanel:
        now = self.node.boot_ns()
        if self.panel is None or now - self.read_boot_ns >= MAX_AGE_NS:
            self.panel = await self._read()
            self.read_boot_ns = now
        return self.panel

    async def _read(self) -> CostPanel:
        panel = price_panel(self.node)
        panel.budgets = budget_lines(self._budgets())
        if self._savings is not None:
            panel.savings = await self._savings.read()
        try:
            await self._ask(panel)
        except TryLater as error:
            panel.error = f"The ledger does not answer: {error.reason}."
            if self.panel is not None:
                panel.splits, panel.tops, panel.proof = self.panel.splits, self.panel.tops, self.panel.proof
        return panel

    async def _ask(self, panel: CostPanel) -> None:
        now = self.node.unix_ns()
        splits, tops = [], []
        for title, window in (("Today", "today"), ("Last 5 minutes", "5m")):
            start, end = parse_window(window, now, self.node.time_zone)
            if start >= end:
                continue  # the first instant of a day
            query = ReportQuery(start_ns=start, end_ns=end, aggregate=TODAY if window == "today" else ("state",))
            report = await self.node.ledger.report(query)
            splits.append(split(title, report))
            if window == "today":
                tops = [
                    top("Tenants today", report, "tenant", "no tenant"),
                    top("Models today", report, "model", "no model"),
                ]
        panel.proof = await self._prove()
        panel.splits, panel.tops = splits, [one for one in tops if one.lines]

    async def _prove(self) -> Proof | None:
        now = self.node.boot_ns()
        if self._proof is None or now >= self._proof_until_ns:
            self._proof = proof(await self.node.ledger.reconcile())
            self._proof_until_ns = now + PROOF_MAX_AGE_NS
        return self._proof


def price_panel(node: NodeServices) -> CostPanel:
    """Price per hour of all GPUs present, with the prices it is made of."""
    panel = CostPanel(price_source=node.price_source)
    prices = {price.gpu_model: price for price in node.prices()}
    panel.prices = [
        (p.gpu_model, formats.money(p.nano_per_hour, p.currency), p.effective_from) for p in prices.values()
    ]
    if not prices:
        panel.hint = (
            "No GPU price is configured, so GPU time is shown without money. "
            "Add the section prices to engineroom.yaml to see what it costs."
        )
        return panel
    gpus = node.board.gpus.gpus if node.board.gpus else ()
    priced = [prices[gpu.model] for gpu in gpus if gpu.model in prices]
    currencies = {price.currency for price in priced}
    if priced and len(currencies) == 1:
        panel.per_hour = formats.money(sum(price.nano_per_hour for price in priced), currencies.pop())
    unpriced = sorted({gpu.model for gpu in gpus if gpu.model not in prices})
    if unpriced:
        panel.hint = f"No price covers {', '.join(unpriced)}: its GPU time is shown without money."
        panel.per_hour_note = f"{len(priced)} of {len(gpus)} GPUs have a price"
    else:
        panel.per_hour_note = f"price of {len(gpus)} GPU{'s' if len(gpus) != 1 else ''}"
    return panel


def split(title: str, report: Report) -> Split:
    """A report by state (and more), in the fixed order of `STATES`. The cost of a state is that of what has a price."""
    found: dict[str, list[int | None]] = {}
    requests, request_cost = 0, None
    for row in report.rows:
        state = row.group.get("state", "")
        total = found.setdefault(state, [0, None])
        total[0] = (total[0] or 0) + row.gpu_ns
        if row.cost_nano is not None:
            total[1] = (total[1] or 0) + row.cost_nano
        requests += row.requests
    if "request" in found:
        request_cost = found["request"][1]
    order = [*STATES, *sorted(set(found) - set(STATES))]
    lines, bar = [], []
    for state in order:
        if state not in found or not found[state][0]:
            continue
        gpu_ns, cost_nano = found[state][0] or 0, found[state][1]
        name, meaning = STATES.get(state, (state, ""))
        share = formats.percent(gpu_ns / report.total_gpu_ns) if report.total_gpu_ns else formats.ABSENT
        cost = formats.money(cost_nano, report.currency, report.total_cost_nano)
        lines.append(StateLine(name, f"s-{state}", meaning, share, formats.gpu_time(gpu_ns, report.total_gpu_ns), cost))
        bar.append((name, f"s-{state}", float(gpu_ns)))
    label = f"{title}, GPU time by state: " + ", ".join(f"{line.name} {line.share}" for line in lines)
    result = Split(
        title,
        formats.money(report.total_cost_nano, report.currency),
        formats.gpu_time(report.total_gpu_ns),
        stacked_bar(bar, label),
        lines,
        requests,
    )
    if requests and request_cost is not None:
        result.per_request = formats.money(request_cost / requests, report.currency)
    if report.total_gpu_ns:
        result.requests_share = formats.percent((found.get("request", [0])[0] or 0) / report.total_gpu_ns)
    return result
