"""Findings of the last 30 days → the list of the page, asked for seldom: it takes more than the rest of it."""

from dataclasses import dataclass, field

from agent.api import formats
from agent.api.savings import DEFAULT_WINDOW, find_savings
from agent.api.savings_sources import SavingsSources
from agent.api.services import NodeServices
from agent.api.times import parse_window, rfc3339
from agent.core.cost.evidence import Figure, Finding, Kind
from agent.core.cost.savings import Savings
from agent.core.ports import TryLater

NS = 1_000_000_000
AGE_PART = 100  # a list is shown for a hundredth of the time that it tells of,
MIN_AGE_NS, MAX_AGE_NS = 15 * NS, 1800 * NS  # within these bounds
MOST_SHOWN = 8

KINDS: dict[Kind, str] = {
    "loaded_idle": "Idle engine",
    "warmup": "Warm-up",
    "unallocated": "Free GPUs",
    "allocated_idle": "Held, unused",
    "stranded": "Stranded",
    "broken": "Broken",
    "gap": "Not watched",
    "other_workload": "Other workload",
    "error": "Errors",
    "timeout": "Timeouts",
    "client_abort": "Aborts",
    "lost": "Lost requests",
    "retries": "Retries",
    "preemptions": "Preemptions",
    "cold_prefix": "Cold prefixes",
    "unused_limit": "Unused limits",
    "smaller_hardware": "Smaller hardware",
}
"""What a kind of finding is called on the page."""

NAMES = {"gpus": "GPUs", "gpus_mean": "GPUs on average", "kv_cache_peak": "KV cache, peak"}
"""What figures are called that cannot be read from their names."""


@dataclass(slots=True)
class FindingLine:
    """One finding, as text."""

    id: str
    kind: str
    tone: str
    summary: str
    advice: str
    cost: str
    share: str
    per_month: str
    evidence: list[tuple[str, str]]
    limits: str
    note: str


@dataclass(slots=True)
class SavingsPanel:
    """The list, and what it is made from."""

    lines: list[FindingLine] = field(default_factory=list)
    more: int = 0
    basis: str = ""
    parts: str = ""
    error: str = ""


class SavingsCache:
    """Looks for findings, the more seldom the more time they are about: that asks a lot of the ledger."""

    def __init__(self, node: NodeServices, sources: SavingsSources) -> None:
        self._node = node
        self._sources = sources
        self._panel: SavingsPanel | None = None
        self._until_boot_ns = 0

    async def read(self) -> SavingsPanel:
        """The list; the last one, with the reason, while the ledger does not answer."""
        now = self._node.boot_ns()
        if self._panel is None or now >= self._until_boot_ns:
            start, end = parse_window(DEFAULT_WINDOW, self._node.unix_ns(), self._node.time_zone)
            try:
                told = await find_savings(self._node, self._sources, start, end)
            except TryLater as error:
                self._panel = self._panel or SavingsPanel()
                self._panel.error = f"The ledger does not answer: {error.reason}."
                self._until_boot_ns = now + MIN_AGE_NS
                return self._panel
            self._panel = savings_panel(told)
            self._until_boot_ns = now + min(MAX_AGE_NS, max(MIN_AGE_NS, told.covered_ns // AGE_PART))
        return self._panel


def savings_panel(told: Savings) -> SavingsPanel:
    """The dearest findings as text."""
    span = formats.duration(told.covered_ns / NS) if told.covered_ns else formats.ABSENT
    panel = SavingsPanel(basis=f"the last {span} of at most 30 days")
    panel.lines = [_line(told, number, one) for number, one in enumerate(told.findings[:MOST_SHOWN])]
    panel.more = max(0, len(told.findings) - MOST_SHOWN)
    if told.parts_nano is not None and told.bill_nano:
        cost = formats.money(told.parts_nano, told.currency, told.bill_nano)
        panel.parts = f"{cost} of {formats.money(told.bill_nano, told.currency)} served nobody"
    return panel


def _line(told: Savings, number: int, one: Finding) -> FindingLine:
    bill = told.bill_nano
    month = formats.money(one.per_month_nano, told.currency) if one.per_month_nano is not None else ""
    note = "" if one.is_waste else "information"
    if one.is_waste and not one.is_part:
        note = "estimate, overlaps with others" if one.cost_nano is not None else "no money can be given"
    evidence = [
        (NAMES.get(figure.name, figure.name.replace("_", " ")), shown(figure, told.currency)) for figure in one.figures
    ]
    if one.since_ns is not None:
        evidence.append(("since", rfc3339(one.since_ns)[:10]))
    return FindingLine(
        id=f"finding-{number}-{one.kind}",
        kind=KINDS[one.kind],
        tone="seen" if not one.is_waste else "pending",
        summary=one.summary,
        advice=one.advice,
        cost=formats.money(one.cost_nano, told.currency, bill) if one.cost_nano is not None else formats.ABSENT,
        share=formats.percent(one.cost_nano / bill) if bill and one.cost_nano is not None else "",
        per_month=month,
        evidence=evidence,
        limits=one.limits,
        note=note,
    )


def shown(figure: Figure, currency: str | None = None) -> str:
    """A figure with its unit, for people."""
    value = figure.value
    if isinstance(value, str):
        return value
    match figure.unit:
        case "gpu_seconds":
            return formats.gpu_time(round(value * NS))
        case "seconds":
            return formats.duration(value)
        case "ratio":
            return formats.percent(value) if value <= 1 else formats.figure(value, "×")
        case "bytes":
            return formats.gib(value)
        case "nano_per_hour":
            return f"{formats.money(value, currency)} per hour"
        case "requests" | "tokens":
            return formats.figure(value, figure.unit)
    return formats.figure(value)
