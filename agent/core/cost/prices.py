"""Price rows in; what a GPU costs at an instant, and the bill of a span of time, out. Exact: fractions and integers.

The bill clock of a GPU is ``C(t) = floor(sum over price segments of P_s * overlap)`` in nano-units since the GPU's t0;
a tick costs ``C(end) - C(start)``, so ticks telescope and rounding never adds up.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from fractions import Fraction

from agent.core.cost.money import NANO, split
from agent.core.cost.reports import GpuPrice, PricePart

NS = 1_000_000_000
HOUR_NS = 3600 * NS
HOURS_PER_YEAR = 8760  # a year is 365 days: the life of a purchase is counted in these
SINCE_EVER_NS = -(1 << 62)


@dataclass(frozen=True, slots=True)
class Part:
    """One reason why a GPU costs money; `per_hour` is in units of the currency, exact."""

    name: str
    per_hour: Fraction


@dataclass(frozen=True, slots=True)
class PriceRow:
    """What one GPU of the models matching `pattern` costs from `from_ns` (Unix ns, whole seconds) on.

    `pattern` is a shell glob on NVML's model name, compared without regard to case. Rows are never edited: a new price
    is a new row with a later `from_ns`.
    """

    pattern: str
    parts: tuple[Part, ...]
    from_ns: int = SINCE_EVER_NS

    @property
    def nano_per_ns(self) -> Fraction:
        """Price in nano-units per nanosecond (the same number as units per second)."""
        return sum((part.per_hour for part in self.parts), Fraction()) * NANO / HOUR_NS


def purchase_parts(
    *,
    price: Fraction,
    gpus: int,
    life_years: Fraction,
    salvage: Fraction = Fraction(),
    installation: Fraction = Fraction(),
    maintenance_per_year: Fraction = Fraction(),
    power_watts: Fraction = Fraction(),
    pue: Fraction = Fraction(1),
    energy_price_per_kwh: Fraction = Fraction(),
    other_per_hour: Fraction = Fraction(),
) -> tuple[Part, ...]:
    """Straight-line cost of one of `gpus` bought together; `power_watts` and `other_per_hour` are per GPU.

    Energy is rated power all the time: the node pays for cooling and supply whether or not a kernel runs.
    """
    life_hours = life_years * HOURS_PER_YEAR
    parts = (
        Part("purchase", (price - salvage) / gpus / life_hours),
        Part("installation", installation / gpus / life_hours),
        Part("maintenance", maintenance_per_year / gpus / HOURS_PER_YEAR),
        Part("energy", power_watts / 1000 * pue * energy_price_per_kwh),
        Part("other", other_per_hour),
    )
    return tuple(part for part in parts if part.per_hour)


class BillLine:
    """The bill clock of one GPU: prices from its t0 on, `segments` of (from Unix ns, nano-units per ns), ascending."""

    __slots__ = ("_before", "_denominator", "_rates", "_starts", "segments")

    def __init__(self, segments: Sequence[tuple[int, Fraction]]) -> None:
        self.segments = tuple(segments)
        self._starts = [start for start, _ in self.segments]
        self._denominator = math.lcm(*(price.denominator for _, price in self.segments))
        self._rates = [price.numerator * (self._denominator // price.denominator) for _, price in self.segments]
        self._before = [0]
        for i in range(1, len(self._starts)):
            self._before.append(self._before[-1] + self._rates[i - 1] * (self._starts[i] - self._starts[i - 1]))

    def nano(self, at_ns: int) -> int:
        """Bill from the first segment's start to `at_ns`, whole nano-units, rounded down."""
        i = bisect_right(self._starts, at_ns) - 1
        if i < 0:
            return 0
        return (self._before[i] + self._rates[i] * (at_ns - self._starts[i])) // self._denominator


class PriceBook:
    """All price rows of one currency. The first pattern in the book that matches a model decides for that model."""

    def __init__(self, currency: str, rows: Sequence[PriceRow]) -> None:
        self.currency = currency
        self.rows = tuple(rows)
        self._by_model: dict[str, tuple[PriceRow, ...]] = {}

    def rows_of(self, gpu_model: str) -> tuple[PriceRow, ...]:
        """The rows that apply to a model, earliest first; empty when the book does not know it."""
        found = self._by_model.get(gpu_model)
        if found is None:
            name = gpu_model.casefold()
            pattern = next((r.pattern for r in self.rows if fnmatchcase(name, r.pattern.casefold())), None)
            found = tuple(sorted((r for r in self.rows if r.pattern == pattern), key=lambda row: row.from_ns))
            self._by_model[gpu_model] = found
        return found

    def row_at(self, gpu_model: str, at_ns: int) -> PriceRow | None:
        """The row in force, or None: no price is not a price of 0."""
        found = None
        for row in self.rows_of(gpu_model):
            if row.from_ns <= at_ns:
                found = row
        return found

    def price_at(self, gpu_model: str, at_ns: int) -> Fraction | None:
        """Nano-units per nanosecond, or None."""
        row = self.row_at(gpu_model, at_ns)
        return row.nano_per_ns if row else None

    def priced_from(self, gpu_model: str, at_ns: int) -> int | None:
        """First instant >= `at_ns` at which the model has a price, or None if there is none."""
        rows = self.rows_of(gpu_model)
        return max(at_ns, rows[0].from_ns) if rows else None

    def segments(self, gpu_model: str, from_ns: int) -> list[tuple[int, Fraction]]:
        """Prices from `from_ns` on, for a `BillLine`; empty when none is in force at `from_ns`."""
        first = self.price_at(gpu_model, from_ns)
        if first is None:
            return []
        later = [(row.from_ns, row.nano_per_ns) for row in self.rows_of(gpu_model) if row.from_ns > from_ns]
        return [(from_ns, first), *later]

    def bill(self, gpu_model: str, from_ns: int, to_ns: int) -> int | None:
        """Whole nano-units for one GPU from `from_ns` to `to_ns`; None when a part of that time has no price."""
        segments = self.segments(gpu_model, from_ns)
        return BillLine(segments).nano(to_ns) if segments else None

    def shown(self, gpu_model: str, at_ns: int) -> GpuPrice | None:
        """The price in force for people: rounded to nano-units per hour, and the parts add up to it."""
        row = self.row_at(gpu_model, at_ns)
        if row is None:
            return None
        exact_parts = [part.per_hour * NANO for part in row.parts]
        total = round(sum(exact_parts, Fraction()))
        scale = math.lcm(*(part.denominator for part in exact_parts))
        weights = [int(part * scale) for part in exact_parts]
        amounts = split(total, weights) if any(weights) else [0] * len(weights)
        return GpuPrice(
            gpu_model=gpu_model,
            currency=self.currency,
            nano_per_hour=total,
            effective_from=_instant(row.from_ns),
            parts=tuple(PricePart(name=p.name, nano_per_hour=n) for p, n in zip(row.parts, amounts, strict=True)),
        )


def _instant(at_ns: int) -> str:
    if at_ns == SINCE_EVER_NS:
        return "always"
    return datetime.fromtimestamp(at_ns // NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
