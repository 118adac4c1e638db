"""Price rows in; what a GPU costs at an instant, and the bill of a span of time, out. Exact: fractions and integers."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from fractions import Fraction
from itertools import pairwise

from agent.core.cost.bill_line import BillLine
from agent.core.cost.exchange import SINCE_EVER_NS, Exchange
from agent.core.cost.money import NANO, split
from agent.core.cost.price_rows import HOUR_NS, NS, Choice, EnergyUse, Kind, Part, PriceRow, purchase_parts
from agent.core.cost.reports import GpuPrice, PricePart

# Rows and the bill clock are files of their own, and a price book is little without them.
__all__ = [
    "HOUR_NS",
    "SINCE_EVER_NS",
    "BillLine",
    "Choice",
    "EnergyUse",
    "Kind",
    "Part",
    "PastChange",
    "PriceBook",
    "PriceRow",
    "purchase_parts",
]

WEEK_NS = 7 * 24 * HOUR_NS
Segments = list[tuple[int, Fraction]]


@dataclass(frozen=True, slots=True)
class PastChange:
    """The book says another price than the one that was booked for [from_ns, to_ns) of a GPU. What is booked stays.

    Prices in nano-units per nanosecond; `book` is None where the book has no price any more.
    """

    gpu: str
    gpu_model: str
    from_ns: int
    to_ns: int
    booked: Fraction
    book: Fraction | None


class _Series:
    """The prices of one model over time: rows of one pattern, kind and region, and what their currency was worth."""

    def __init__(self, rows: Sequence[PriceRow], currency: str, rates: Sequence[tuple[int, Fraction]]) -> None:
        first: dict[int, PriceRow] = {}
        for row in rows:
            first.setdefault(row.from_ns, row)
        self.rows = tuple(first[at] for at in sorted(first))
        self.currency = currency
        self.rates = tuple(rates)
        self._row_starts = [row.from_ns for row in self.rows]
        self._rate_starts = [at for at, _ in self.rates]
        self.moves = any(row.changes_by_itself for row in self.rows)
        # None: there is no rate, so there is no price.
        self.from_ns = max(self._row_starts[0], self._rate_starts[0]) if self.rates else None

    def row_at(self, at_ns: int) -> PriceRow | None:
        if self.from_ns is None or at_ns < self.from_ns:
            return None
        return self.rows[bisect_right(self._row_starts, at_ns) - 1]

    def rate_at(self, at_ns: int) -> Fraction:
        return self.rates[bisect_right(self._rate_starts, at_ns) - 1][1]

    def price_at(self, at_ns: int) -> Fraction | None:
        row = self.row_at(at_ns)
        return None if row is None else row.nano_per_ns_at(at_ns) * self.rate_at(at_ns)

    def cuts(self, from_ns: int, until_ns: int | None) -> list[int]:
        """Where the price may change strictly inside (from, until), ascending."""
        found = {at for at in (*self._row_starts, *self._rate_starts) if at > from_ns}
        if until_ns is None:
            return sorted(found)
        for row, end in zip(self.rows, (*self._row_starts[1:], until_ns), strict=True):
            if row.energy is not None and row.changes_by_itself and end > from_ns:
                changes = row.energy.tariff.changes(max(row.from_ns, from_ns), min(end, until_ns))
                found.update(at for at, _ in changes)
        return sorted(at for at in found if at < until_ns)


class PriceBook:
    """All price rows of one currency. The first row in the book whose pattern matches a model, and that `choice` (or
    the GPU's own one in `gpus`, by uuid) takes, decides for it: rows of its pattern, kind and region are the prices.

    A model without such a row is looked for in `others` (currency, rows) and converted at the dated rates of
    `exchange`; without a rate it has no price.
    """

    def __init__(
        self,
        currency: str,
        rows: Sequence[PriceRow],
        *,
        others: Sequence[tuple[str, Sequence[PriceRow]]] = (),
        exchange: Exchange | None = None,
        choice: Choice | None = None,
        gpus: Mapping[str, Choice] | None = None,
    ) -> None:
        self.currency = currency
        self.rows = tuple(rows)
        self.others = tuple((name, tuple(theirs)) for name, theirs in others if name != currency)
        self.exchange = exchange or Exchange()
        self.choice = choice or Choice()
        self.gpus = dict(gpus or {})
        self._found: dict[tuple[str, Choice], _Series | None] = {}
        everything = [*self.rows, *(row for _, theirs in self.others for row in theirs)]
        self._moves = any(row.changes_by_itself for row in everything)

    def _series(self, gpu_model: str, gpu: str) -> _Series | None:
        choice = self.gpus.get(gpu, self.choice)
        key = (gpu_model, choice)
        if key not in self._found:
            self._found[key] = self._find(gpu_model, choice)
        return self._found[key]

    def _find(self, gpu_model: str, choice: Choice) -> _Series | None:
        unpriced = None
        for currency, rows in ((self.currency, self.rows), *self.others):
            chosen = _rows_of(rows, gpu_model, choice)
            if chosen:
                series = _Series(chosen, currency, self.exchange.steps(currency, self.currency))
                if series.from_ns is not None:
                    return series
                unpriced = unpriced or series
        return unpriced

    def rows_of(self, gpu_model: str, gpu: str = "") -> tuple[PriceRow, ...]:
        """The rows that apply to a model, earliest first; empty when there is none, or none with a rate."""
        series = self._series(gpu_model, gpu)
        return series.rows if series and series.from_ns is not None else ()

    def row_at(self, gpu_model: str, at_ns: int, gpu: str = "") -> PriceRow | None:
        """The row in force, or None: no price is not a price of 0. Its amounts are in the row's own currency."""
        series = self._series(gpu_model, gpu)
        return series.row_at(at_ns) if series else None

    def price_at(self, gpu_model: str, at_ns: int, gpu: str = "") -> Fraction | None:
        """Nano-units per nanosecond, or None."""
        series = self._series(gpu_model, gpu)
        return series.price_at(at_ns) if series else None

    def priced_from(self, gpu_model: str, at_ns: int, gpu: str = "") -> int | None:
        """First instant >= `at_ns` at which the model has a price, or None if there is none."""
        series = self._series(gpu_model, gpu)
        return max(at_ns, series.from_ns) if series and series.from_ns is not None else None

    def sku_of(self, gpu_model: str, at_ns: int, gpu: str = "") -> str:
        """What an invoice calls it: the SKU of the row in force, else the model."""
        row = self.row_at(gpu_model, at_ns, gpu)
        return (row.sku if row else "") or gpu_model

    def segments(self, gpu_model: str, from_ns: int, until_ns: int | None = None, gpu: str = "") -> Segments:
        """Prices from `from_ns` on, for a `BillLine`; empty when none is in force at `from_ns`.

        Without `until_ns`: all of them, or where prices go on changing by themselves, those of four to five weeks.
        The line must then be asked for anew (`accounts.reprice`) by `extends_at`; what it had is the beginning of that.
        """
        series = self._series(gpu_model, gpu)
        price = series.price_at(from_ns) if series else None
        if series is None or price is None:
            return []
        if until_ns is None and series.moves:
            until_ns = (from_ns // WEEK_NS + 5) * WEEK_NS
        found = [(from_ns, price)]
        for at_ns in series.cuts(from_ns, until_ns):
            now = series.price_at(at_ns)
            if now is not None and now != found[-1][1]:
                found.append((at_ns, now))
        return found

    def extends_at(self, at_ns: int) -> int | None:
        """When the lines made at `at_ns` can be made longer: weeks before they end. None: they never end."""
        return (at_ns // WEEK_NS + 1) * WEEK_NS if self._moves else None

    def bill(self, gpu_model: str, from_ns: int, to_ns: int, gpu: str = "") -> int | None:
        """Whole nano-units for one GPU from `from_ns` to `to_ns`; None when a part of that time has no price."""
        segments = self.segments(gpu_model, from_ns, max(to_ns, from_ns + 1), gpu)
        return BillLine(segments).nano(to_ns) if segments else None

    def shown(self, gpu_model: str, at_ns: int, gpu: str = "") -> GpuPrice | None:
        """The price in force for people: rounded to nano-units per hour, and the parts add up to it."""
        series = self._series(gpu_model, gpu)
        row = series.row_at(at_ns) if series else None
        if series is None or row is None:
            return None
        parts = row.parts_at(at_ns)
        exact_parts = [part.per_hour * series.rate_at(at_ns) * NANO for part in parts]
        total = round(sum(exact_parts, Fraction()))
        scale = math.lcm(*(part.denominator for part in exact_parts))
        weights = [int(part * scale) for part in exact_parts]
        amounts = split(total, weights) if any(weights) else [0] * len(weights)
        return GpuPrice(
            gpu_model=gpu_model,
            currency=self.currency,
            nano_per_hour=total,
            effective_from=_instant(row.from_ns),
            parts=tuple(PricePart(name=p.name, nano_per_hour=n) for p, n in zip(parts, amounts, strict=True)),
        )

    def why_unpriced(self, gpu_model: str, at_ns: int, gpu: str = "") -> str | None:
        """Why a model has no price at an instant, in one sentence for people; None when it has one."""
        series = self._series(gpu_model, gpu)
        if series is None:
            return self._why_no_row(gpu_model, self.gpus.get(gpu, self.choice))
        if series.from_ns is None:
            return (
                f"{gpu_model} has a price in {series.currency} only, and there is no exchange rate from "
                f"{series.currency} to {self.currency}; add one under `exchange`, or a row in {self.currency}"
            )
        if at_ns < series.from_ns:
            return f"{gpu_model} has a price from {_instant(series.from_ns)} on only"
        return None

    def _why_no_row(self, gpu_model: str, choice: Choice) -> str:
        books = ((self.currency, self.rows), *self.others)
        there = [row for _, rows in books for row in rows if _matches(row, gpu_model)]
        if not there:
            return f"no row of the price book matches {gpu_model}"
        wanted = " ".join(
            f"{name} {value}"
            for name, value in (("kind", choice.kind), ("region", choice.region), ("SKU", choice.sku))
            if value is not None
        )
        kinds = ", ".join(sorted({" ".join(filter(None, (row.kind, row.region, row.sku))) for row in there}))
        return f"no row for {gpu_model} has {wanted}; there are {kinds}"

    def changed_past(
        self, gpu: str, gpu_model: str, booked: Sequence[tuple[int, Fraction]], through_ns: int
    ) -> list[PastChange]:
        """Where the book differs from the prices `booked` (segments of an account) up to `through_ns`.

        Somebody edited a row, or added one that begins in the past. For a warning: what is booked keeps its price.
        """
        if not booked or booked[0][0] >= through_ns:
            return []
        series = self._series(gpu_model, gpu)
        starts = [at for at, _ in booked]
        cuts = {at for at in starts if at < through_ns}
        if series is not None:
            cuts.update(series.cuts(starts[0], through_ns))
        edges = [*sorted(cuts), through_ns]
        found: list[PastChange] = []
        for start, end in pairwise(edges):
            was = booked[bisect_right(starts, start) - 1][1]
            now = series.price_at(start) if series else None
            if now == was:
                continue
            last = found[-1] if found else None
            if last and (last.to_ns, last.booked, last.book) == (start, was, now):
                found[-1] = PastChange(gpu, gpu_model, last.from_ns, end, was, now)
            else:
                found.append(PastChange(gpu, gpu_model, start, end, was, now))
        return found


def _matches(row: PriceRow, gpu_model: str) -> bool:
    return fnmatchcase(gpu_model.casefold(), row.pattern.casefold())


def _rows_of(rows: Iterable[PriceRow], gpu_model: str, choice: Choice) -> list[PriceRow]:
    taken = [row for row in rows if choice.takes(row) and _matches(row, gpu_model)]
    if not taken:
        return []
    first = taken[0]
    key = (first.pattern, first.kind, first.region)
    return [row for row in taken if (row.pattern, row.kind, row.region) == key]


def _instant(at_ns: int) -> str:
    if at_ns == SINCE_EVER_NS:
        return "always"
    return datetime.fromtimestamp(at_ns // NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
