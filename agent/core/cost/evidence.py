"""What is known of a window (report rows, engines, statistics) in; sums, rates and the shape of a finding out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from msgspec import Struct

from agent.core.cost.engine_days import Observed
from agent.core.cost.present import PresentSlot
from agent.core.cost.reports import GpuPrice, ReportRow
from agent.core.cost.request_statistics import NOTHING_COUNTED, Counted
from agent.core.cost.shapes import ModelShape
from agent.core.cost.work import Constants
from agent.core.readings import EngineSnapshot

HOUR_NS = 3600 * 1_000_000_000
MONTH_NS = 730 * HOUR_NS  # a twelfth of a year of 365 days
LEAST_EXTRAPOLATED_NS = HOUR_NS  # from less than this nothing is said of a month

ENGINE_STATES = ("request", "unattributed", "loaded_idle", "warmup")
ACTIVE_STATES = ("request", "unattributed")

Kind = Literal[
    "loaded_idle",
    "warmup",
    "unallocated",
    "allocated_idle",
    "stranded",
    "broken",
    "gap",
    "other_workload",
    "error",
    "timeout",
    "client_abort",
    "lost",
    "retries",
    "preemptions",
    "cold_prefix",
    "unused_limit",
    "smaller_hardware",
]
Unit = Literal["gpu_seconds", "seconds", "ratio", "requests", "tokens", "bytes", "count", "text", "nano_per_hour"]


class Figure(Struct, frozen=True):
    """One figure of a finding's evidence; `value` is in `unit`."""

    name: str
    value: float | int | str
    unit: Unit


class Finding(Struct, frozen=True, kw_only=True):
    """Where money goes that need not, or need not without somebody knowing, and what can be done.

    `cost_nano` is what it cost in the window; None where no price, or no honest figure, can be given (`limits` says
    why). `is_waste` False: information, somebody uses it. `is_part`: a part of the bill that no other such finding
    holds; the others are estimates that overlap with those.
    """

    kind: Kind
    where: dict[str, str]  # engine, model, gpu, gpu_model, tenant, namespace, pod: those that tell it apart
    summary: str
    figures: tuple[Figure, ...]
    advice: str
    gpu_ns: int = 0
    cost_nano: int | None = None
    per_month_nano: int | None = None  # extrapolated from `covered_ns`; None: less than an hour, or no cost
    covered_ns: int = 0
    since_ns: int | None = None  # start of the first day of the window with it; None: days are not told apart
    is_waste: bool = True
    is_part: bool = True
    limits: str = ""


def _no_constants(_engine: str, _model: str) -> Constants | None:
    return None


def _no_shape(_engine: str, _model: str) -> ModelShape | None:
    return None


def _no_price(_gpu_model: str) -> GpuPrice | None:
    return None


@dataclass(kw_only=True)
class Facts:
    """Everything findings are made of. Rows are grouped as `savings.QUESTIONS` ask; `hours` may cover less time."""

    start_ns: int
    end_ns: int
    # By state, reason, engine, model, gpu, gpu_model, slot, namespace, pod; cut at days.
    places: Sequence[ReportRow]
    requests: Sequence[ReportRow] = ()  # by state, outcome, engine, model, tenant
    hours: Sequence[ReportRow] = ()  # by state, engine, model, cut at hours of `zone`
    currency: str | None = None
    zone: str = "UTC"
    engines: Mapping[str, EngineSnapshot] = field(default_factory=dict)
    slots: Sequence[PresentSlot] = ()
    statistics: Counted = NOTHING_COUNTED
    observed: Mapping[str, Observed] = field(default_factory=dict)  # engine -> its gauges since the window began
    constants_of: Callable[[str, str], Constants | None] = _no_constants
    shape_of: Callable[[str, str], ModelShape | None] = _no_shape
    price_of: Callable[[str], GpuPrice | None] = _no_price  # of a GPU model, in force now

    @cached_property
    def gpu_ns(self) -> int:
        """GPU time of the window, of all GPUs."""
        return sum(row.gpu_ns for row in self.places)

    @cached_property
    def bill_nano(self) -> int | None:
        """The window's bill; None without any price."""
        return money(self.places)

    @cached_property
    def covered_ns(self) -> int:
        """How much of the window is booked: that of the GPU with the longest record, whose parts are its wall time."""
        by_gpu: dict[str, int] = {}
        for row in self.places:
            if gpu := row.group.get("gpu"):
                by_gpu[gpu] = by_gpu.get(gpu, 0) + row.gpu_ns
        return max(by_gpu.values(), default=0)

    @cached_property
    def engine_rows(self) -> dict[str, list[ReportRow]]:
        """Rows of time that an engine had a slot, by engine."""
        return grouped((row for row in self.places if row.group["state"] in ENGINE_STATES), "engine")

    @cached_property
    def hours_of(self) -> dict[str, list[ReportRow]]:
        """The rows of hours, by engine."""
        return grouped(self.hours, "engine")

    def gpus_of(self, engine: str) -> int:
        """Slots that the engine has for most of its time."""
        held: dict[tuple[str, str], int] = {}
        for row in self.engine_rows.get(engine, ()):
            key = (row.group.get("gpu", ""), row.group.get("slot", ""))
            held[key] = held.get(key, 0) + row.gpu_ns
        most = max(held.values(), default=0)
        return sum(2 * ns >= most for ns in held.values()) if most else 0

    def cost_of(self, engine: str, gpu_ns: float) -> int | None:
        """What so much GPU time costs at the mean price of this engine in the window; None without a price."""
        rows = [row for row in self.engine_rows.get(engine, ()) if row.cost_nano is not None]
        time, nano = sum(row.gpu_ns for row in rows), money(rows)
        return None if not time or nano is None else round(nano * gpu_ns / time)

    def is_worth_telling(self, finding: Finding) -> bool:
        """At least one part in a hundred of the bill; of the GPU time where there is no price."""
        if finding.cost_nano is not None and self.bill_nano:
            return 100 * finding.cost_nano >= self.bill_nano
        return not self.bill_nano and bool(self.gpu_ns) and 100 * finding.gpu_ns >= self.gpu_ns


def grouped(rows: Iterable[ReportRow], name: str) -> dict[str, list[ReportRow]]:
    """Rows by the value of one dimension; those without a value are left out."""
    found: dict[str, list[ReportRow]] = {}
    for row in rows:
        if key := row.group.get(name, ""):
            found.setdefault(key, []).append(row)
    return found


def money(rows: Iterable[ReportRow]) -> int | None:
    """What these rows cost, as far as they have a price; None when none has."""
    known = [row.cost_nano for row in rows if row.cost_nano is not None]
    return sum(known) if known else None


def time_of(rows: Iterable[ReportRow], *states: str) -> int:
    """GPU time of rows, of these states only if there are any."""
    return sum(row.gpu_ns for row in rows if not states or row.group["state"] in states)


def since(rows: Iterable[ReportRow]) -> int | None:
    """Where the first of these rows with any GPU time begins."""
    return min((row.start_ns for row in rows if row.gpu_ns > 0), default=None)


def per_month(nano: int | None, covered_ns: int) -> int | None:
    """The same for a month; None when too little is covered to say."""
    return None if nano is None or covered_ns < LEAST_EXTRAPOLATED_NS else nano * MONTH_NS // covered_ns


def gpu_seconds(name: str, gpu_ns: int) -> Figure:
    """Evidence in GPU time."""
    return Figure(name, gpu_ns / 1e9, "gpu_seconds")


def ratio(name: str, part: float, whole: float) -> Figure:
    """Evidence as a part of a whole, 0 where there is no whole."""
    return Figure(name, part / whole if whole else 0.0, "ratio")


def hours(ns: float) -> str:
    """GPU time for a sentence: `3.2 h`, `12 min`."""
    seconds = ns / 1e9
    if seconds >= 5940:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 99.5 else f"{seconds:.0f} s"


def percent(part: float, whole: float) -> str:
    """A part of a whole for a sentence."""
    return f"{100 * part / whole:.0f} %" if whole else "0 %"


def most_of(weights: Mapping[str, float], count: int = 3) -> str:
    """The heaviest names with their shares, for a sentence: `acme 61 %, zeta 12 %`; names of nobody are left out."""
    total = sum(weights.values())
    ranked = sorted(weights.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {percent(weight, total)}" for name, weight in ranked[:count] if name and weight > 0)
