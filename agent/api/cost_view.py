"""Cost reports → the money part of the page: what the node costs per hour, where today's money went."""

from dataclasses import dataclass, field

from markupsafe import Markup

from agent.api import formats
from agent.api.charts import stacked_bar
from agent.api.services import NodeServices
from agent.api.times import parse_window
from agent.core.cost.reports import Report, ReportQuery
from agent.core.ports import TryLater

NS = 1_000_000_000
MAX_AGE_NS = 5 * NS  # reports of a day cost more than the rest of the page

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


class CostReader:
    """Asks the ledger, at most every 5 seconds."""

    def __init__(self, node: NodeServices) -> None:
        self.node = node
        self.panel: CostPanel | None = None
        self.read_boot_ns = 0

    async def read(self) -> CostPanel:
        now = self.node.boot_ns()
        if self.panel is None or now - self.read_boot_ns >= MAX_AGE_NS:
            self.panel = await self._read()
            self.read_boot_ns = now
        return self.panel

    async def _read(self) -> CostPanel:
        panel = price_panel(self.node)
        now = self.node.unix_ns()
        for title, window in (("Today", "today"), ("Last 5 minutes", "5m")):
            start, end = parse_window(window, now, self.node.time_zone)
            if start >= end:
                continue  # the first instant of a day
            try:
                report = await self.node.ledger.report(ReportQuery(start_ns=start, end_ns=end, aggregate=("state",)))
            except TryLater as error:
                panel.error = f"The ledger does not answer: {error.reason}."
                panel.splits = self.panel.splits if self.panel else []
                return panel
            panel.splits.append(split(title, report))
        return panel


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
    """A report grouped by state, in the fixed order of `STATES`."""
    found: dict[str, list[int | None]] = {}
    requests, request_cost = 0, None
    for row in report.rows:
        state = row.group.get("state", "")
        total = found.setdefault(state, [0, 0])
        total[0] = (total[0] or 0) + row.gpu_ns
        total[1] = None if total[1] is None or row.cost_nano is None else total[1] + row.cost_nano
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
