"""Reports, budgets and the ledger's proof → the tables beside the split of the page's money part."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from markupsafe import Markup

from agent.api import formats
from agent.api.charts import meter
from agent.core.cost.budgets import Standing
from agent.core.cost.reports import Reconciliation, Report, ReportRow
from agent.core.cost.waste import waste_of

MOST_LINES = 6
WH_UJ = 3_600_000_000  # microjoules of a watt-hour
OVER, NEAR = 1.0, 0.8  # of a budget


class BudgetStanding(Protocol):
    """How one budget stands. Amounts are nano-units of `currency`; None: not known (yet)."""

    @property
    def name(self) -> str: ...

    @property
    def period(self) -> str:
        """For people: "day", "month", "30 days"."""
        ...

    @property
    def currency(self) -> str: ...

    @property
    def limit_nano(self) -> int: ...

    @property
    def spent_nano(self) -> int | None: ...

    @property
    def forecast_nano(self) -> int | None:
        """At the end of the period."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Why something of it is not known, for people."""
        ...


class BudgetFigures(NamedTuple):
    """A `BudgetStanding` as a value."""

    name: str
    period: str
    currency: str
    limit_nano: int
    spent_nano: int | None
    forecast_nano: int | None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, standing: Standing) -> "BudgetFigures":
        """Of a budget as its runner keeps it."""
        budget, forecast = standing.budget, standing.forecast
        expected = None if forecast is None else forecast.nano
        return cls(
            budget.name, budget.period, budget.currency, budget.nano, standing.spent_nano, expected, standing.notes
        )


Budgets = Callable[[], Sequence[BudgetStanding]]


def no_budgets() -> Sequence[BudgetStanding]:
    """Where none is configured."""
    return ()


@dataclass(slots=True)
class BudgetLine:
    """One budget, as text."""

    name: str
    period: str
    spent: str
    limit: str
    ratio: str
    forecast: str
    tone: str
    bar: Markup
    note: str


def budget_lines(budgets: Iterable[BudgetStanding]) -> list[BudgetLine]:
    """Budgets, the fullest first."""
    return [_budget_line(one) for one in sorted(budgets, key=lambda one: (-_ratio(one.spent_nano, one), one.name))]


def _ratio(nano: int | None, budget: BudgetStanding) -> float:
    return 0.0 if nano is None or budget.limit_nano <= 0 else nano / budget.limit_nano


def _budget_line(one: BudgetStanding) -> BudgetLine:
    spent, forecast = _ratio(one.spent_nano, one), _ratio(one.forecast_nano, one)
    tone = "bad" if spent > OVER else "warn" if spent > NEAR or forecast > OVER else ""
    known = one.spent_nano is not None and one.limit_nano > 0
    label = f"{one.name}: {formats.percent(spent)} spent" if known else f"{one.name}: not known"
    return BudgetLine(
        one.name,
        one.period,
        formats.money(one.spent_nano, one.currency, one.limit_nano),
        formats.money(one.limit_nano, one.currency),
        formats.percent(spent) if known else formats.ABSENT,
        formats.percent(forecast) if one.forecast_nano is not None and one.limit_nano > 0 else formats.ABSENT,
        tone,
        meter(spent if known else None, f"m-{tone or 'ok'}", label),
        "; ".join(one.notes),
    )


@dataclass(slots=True)
class TopLine:
    """One tenant or model, as text."""

    name: str
    cost: str
    share: str
    requests: str
    energy: str
    waste: str
    tone: str


@dataclass(slots=True)
class Top:
    """Who spent most."""

    title: str
    lines: list[TopLine]
    more: int = 0


def top(title: str, report: Report, dimension: str, nameless: str) -> Top:
    """Requests of a report (by `dimension`, state and outcome among others), by what they cost."""
    rows = [row for row in report.rows if row.group.get("state") == "request"]
    groups: dict[str, list[ReportRow]] = {}
    for row in rows:
        groups.setdefault(row.group.get(dimension, ""), []).append(row)
    ranked = sorted(groups.items(), key=lambda item: (-(_cost(item[1]) or 0), -_time(item[1]), item[0]))
    lines = [_top_line(name or nameless, of, rows, report) for name, of in ranked[:MOST_LINES]]
    return Top(title, lines, max(0, len(ranked) - MOST_LINES))


def _top_line(name: str, rows: list[ReportRow], all_rows: list[ReportRow], report: Report) -> TopLine:
    wasted = [row for row in rows if waste_of(row.group.get("outcome", ""))]
    priced, whole = _cost(rows) is not None, _time(all_rows)
    part = (_cost(wasted) or 0) if priced else _time(wasted)
    of = (_cost(rows) or 0) if priced else _time(rows)
    waste = part / of if of > 0 else None
    return TopLine(
        name,
        formats.money(_cost(rows), report.currency, report.total_cost_nano),
        formats.percent(_time(rows) / whole) if whole else formats.ABSENT,
        f"{sum(row.requests for row in rows):,}",
        energy(rows),
        formats.percent(waste),
        "warn" if waste is not None and waste > 0.1 else "",
    )


def energy(rows: Iterable[ReportRow]) -> str:
    """What rows drew, in Wh or kWh, as far as it was metered; absent where none of it was."""
    known = [row.energy_uj for row in rows if row.energy_uj is not None]
    if not known:
        return formats.ABSENT
    watt_hours = sum(known) / WH_UJ
    return formats.figure(watt_hours / 1000, "kWh") if watt_hours >= 1000 else formats.figure(watt_hours, "Wh")


def _cost(rows: Iterable[ReportRow]) -> int | None:
    known = [row.cost_nano for row in rows if row.cost_nano is not None]
    return sum(known) if known else None


def _time(rows: Iterable[ReportRow]) -> int:
    return sum(row.gpu_ns for row in rows)


@dataclass(slots=True)
class Proof:
    """Whether the parts are the bill, in one sentence."""

    holds: bool
    text: str


def proof(found: Reconciliation) -> Proof | None:
    """The ledger's identity in words; None before anything is booked."""
    slots = found.slots
    if not slots:
        return None
    gpus = len({slot.gpu for slot in slots})
    of = "1 GPU" if gpus == 1 else f"{gpus} GPUs"
    wrong = [slot.gpu for slot in slots if not slot.reconciles]
    if wrong or not found.reconciles:
        named = ", ".join(dict.fromkeys(wrong[:3]))
        return Proof(False, f"The parts do not add up to the bill on {named or of}: see /api/v1/cost/reconcile.")
    time = formats.gpu_time(sum(slot.wall_ns for slot in slots))
    if found.bill_nano is None:
        return Proof(True, f"Parts = wall time, to the last nanosecond: {time} of {of}.")
    bill = formats.money(found.bill_nano, found.currency)
    return Proof(True, f"Parts = bill, to the last nano-unit: {bill} for {time} of {of}.")
