"""Rows of a price book as they were written, and what is found wrong in them: the values of the price checks."""

from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Literal, NamedTuple

from agent.core.cost.exchange import SINCE_EVER_NS
from agent.core.cost.prices import Kind

Severity = Literal["error", "warning", "note"]


class Finding(NamedTuple):
    """What is wrong, where, and what to do about it."""

    severity: Severity
    where: str
    text: str
    advice: str


@dataclass(frozen=True, slots=True)
class Bought:
    """The figures of a purchase that can be typed wrong; energy prices are all that the tariff has."""

    price: Fraction
    gpus: int
    life_years: Fraction
    salvage: Fraction
    power_watts: Fraction
    pue: Fraction
    energy_per_kwh: tuple[Fraction, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """One row as it was written: either `per_gpu_hour` or `bought`. `where` names it for people."""

    where: str
    currency: str
    pattern: str
    kind: Kind
    region: str = ""
    sku: str = ""
    from_ns: int = SINCE_EVER_NS
    per_gpu_hour: Fraction | None = None
    bought: Bought | None = None


def shown(number: Fraction) -> str:
    """An amount for people."""
    return f"{float(number):,.10g}"


def span(low: float, high: float, dollars: float) -> str:
    """A range in dollars, in a currency of which a dollar is worth so much."""
    return f"{low * dollars:,.3g} to {high * dollars:,.3g}" if high * dollars < 1000 else (
        f"{low * dollars:,.0f} to {high * dollars:,.0f}"
    )  # fmt: skip


def year(at_ns: int) -> int:
    """Of an instant in Unix ns."""
    return datetime.fromtimestamp(at_ns // 1_000_000_000, UTC).year
