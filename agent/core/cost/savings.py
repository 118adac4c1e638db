"""All that is known of a window in; where its money goes without need, the dearest first, out."""

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from agent.core.cost.avoidable import avoidable
from agent.core.cost.calendar import Calendar
from agent.core.cost.evidence import Facts, Finding, per_month
from agent.core.cost.fitting_hardware import fitting_hardware
from agent.core.cost.reports import Dimension, ReportQuery
from agent.core.cost.unused import unused
from agent.core.cost.waste import wasted

DAY_NS = 24 * 3600 * 1_000_000_000
MOST_HOURS_NS = 7 * DAY_NS  # of the window's end that is looked at hour by hour
SEVERAL_DAYS_NS = 2 * DAY_NS

Question = Literal["places", "requests", "hours"]
PLACES: tuple[Dimension, ...] = ("state", "reason", "engine", "model", "gpu", "gpu_model", "slot", "namespace", "pod")
REQUESTS: tuple[Dimension, ...] = ("state", "outcome", "engine", "model", "tenant")
HOURS: tuple[Dimension, ...] = ("state", "engine", "model")


class Savings(Struct, frozen=True, kw_only=True):
    """Findings of a window, ranked by money. `parts_nano`: the sum of those that are waste and parts of the bill."""

    start_ns: int
    end_ns: int
    covered_ns: int
    currency: str | None
    bill_nano: int | None
    gpu_ns: int
    findings: tuple[Finding, ...]
    parts_nano: int | None
    notes: tuple[str, ...] = ()


def questions(start_ns: int, end_ns: int, zone: str) -> dict[Question, ReportQuery]:
    """What the ledger is asked for a window. One of several days begins with a day: the ledger keeps sums of days."""
    calendar = Calendar(zone)
    if end_ns - start_ns >= SEVERAL_DAYS_NS:
        start_ns = calendar.day_bounds(start_ns)[0]
    recent_ns = max(start_ns, calendar.day_bounds(end_ns - MOST_HOURS_NS)[0])
    days, hours = calendar.edges(start_ns, end_ns, "day"), calendar.edges(recent_ns, end_ns, "hour")
    return {
        "places": ReportQuery(start_ns=start_ns, end_ns=end_ns, aggregate=PLACES, edges=days),
        "requests": ReportQuery(start_ns=start_ns, end_ns=end_ns, aggregate=REQUESTS),
        "hours": ReportQuery(start_ns=recent_ns, end_ns=end_ns, aggregate=HOURS, edges=hours),
    }


def savings(facts: Facts, notes: Iterable[str] = ()) -> Savings:
    """The findings worth telling: each costs at least a hundredth of the bill, or gives no money and says why."""
    everything = (*unused(facts), *wasted(facts), *avoidable(facts), *fitting_hardware(facts))
    found = [
        replace(one, per_month_nano=per_month(one.cost_nano, one.covered_ns))
        for one in everything
        if facts.is_worth_telling(one) or _speaks_without_money(facts, one)
    ]
    found.sort(key=_rank)
    parts = [one.cost_nano for one in found if one.is_waste and one.is_part and one.cost_nano is not None]
    return Savings(
        start_ns=facts.start_ns,
        end_ns=facts.end_ns,
        covered_ns=facts.covered_ns,
        currency=facts.currency,
        bill_nano=facts.bill_nano,
        gpu_ns=facts.gpu_ns,
        findings=tuple(found),
        parts_nano=sum(parts) if parts else None,
        notes=tuple(notes),
    )


def _rank(one: Finding) -> tuple[object, ...]:
    return -(one.cost_nano or 0), not one.is_waste, -one.gpu_ns, one.kind, sorted(one.where.items())


def _speaks_without_money(facts: Facts, finding: Finding) -> bool:
    """Where there is a bill and a finding cannot give money, its own bounds decide whether it is told."""
    return facts.bill_nano is not None and finding.cost_nano is None and bool(finding.limits)
