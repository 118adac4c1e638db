"""Lines of real invoices in, their days out, exactly."""

from fractions import Fraction
from functools import lru_cache
from typing import Literal

from msgspec import Struct

from agent.core.cost.calendar import Calendar
from agent.core.cost.money import NANO, split

MOST_NANO = (1 << 63) - 1  # what a 64-bit column holds: 9.2e9 units
LONGEST_DAYS = 3700  # a line over more than ten years is a mistake

Kind = Literal["", "correction"]


class InvoiceLine(Struct, frozen=True, kw_only=True):
    """One line of an invoice. [start_ns, end_ns) is the time it is for; `amount` is exact, in units of `currency`."""

    source: str
    number: int
    start_ns: int
    end_ns: int
    sku: str
    currency: str
    amount: Fraction
    quantity: Fraction | None = None
    unit: str | None = None
    kind: Kind = ""


class BilledDay(Struct, frozen=True, kw_only=True):
    """What an invoice asks for one SKU and local day (2026-01-31), in nano-units; negative for credits.

    One row of the ledger's table: `line` is the first of the file that it is made of.
    """

    source: str
    day: str
    sku: str
    currency: str
    nano: int
    kind: Kind = ""
    line: int = 0
    quantity: Fraction | None = None
    unit: str | None = None


class DaySums:
    """Adds lines up into days. Amounts below a nano-unit are carried on, so the sum of a file is exact to half of one.

    Memory goes with days x SKUs, not with lines.
    """

    def __init__(self, calendar: Calendar) -> None:
        self.calendar = calendar
        self._sums: dict[tuple[str, str, str, str, str], list[int]] = {}  # -> [nano, first line]
        self._quantities: dict[tuple[str, str, str, str, str], tuple[Fraction | int, str] | None] = {}
        self._rest: dict[tuple[str, str], Fraction] = {}
        self._days_of = lru_cache(2048)(self._find_days)

    def __len__(self) -> int:
        return len(self._sums)

    def add(self, line: InvoiceLine) -> None:
        """One line. Raises `ValueError` for a time that is none, and amounts beyond 64 bits."""
        days = self._days_of(line.start_ns, line.end_ns)
        nano = self._nano(line)
        if len(days) == 1:
            self._add(days[0][0], line, nano, None)
            return
        weights = [length for _, length in days]
        parts = split(abs(nano), weights)
        whole = sum(weights)
        for (day, length), part in zip(days, parts, strict=True):
            self._add(day, line, part if nano >= 0 else -part, Fraction(length, whole))

    def _nano(self, line: InvoiceLine) -> int:
        """Whole nano-units of a line; what is below one is carried on to the next of its source and currency."""
        nano, below = divmod(line.amount.numerator * NANO, line.amount.denominator)
        key = (line.source, line.currency)
        if below or key in self._rest:
            exact = line.amount * NANO + self._rest.get(key, 0)
            nano = round(exact)
            self._rest[key] = exact - nano
        if abs(nano) > MOST_NANO:
            raise ValueError(f"{float(line.amount):g} {line.currency} is more than {MOST_NANO // NANO:,}")
        return nano

    def _add(self, day: str, line: InvoiceLine, nano: int, share: Fraction | None) -> None:
        at = (line.source, day, line.sku, line.currency, line.kind)
        found = self._sums.get(at)
        if found is None:
            self._sums[at] = [nano, line.number]
        else:
            found[0] += nano
        self._add_quantity(at, line, share)

    def _add_quantity(self, at: tuple[str, str, str, str, str], line: InvoiceLine, share: Fraction | None) -> None:
        """The day's quantity, while every line of it tells one in the same unit; `share` None: all of the line's."""
        before = self._quantities.get(at, (0, line.unit or ""))
        if line.quantity is None or before is None or before[1] != (line.unit or ""):
            self._quantities[at] = None
        else:
            more = line.quantity if share is None else line.quantity * share
            self._quantities[at] = (before[0] + more, before[1])

    def _find_days(self, start_ns: int, end_ns: int) -> list[tuple[str, int]]:
        """(local date, nanoseconds of the time in it), ascending."""
        if end_ns <= start_ns:
            raise ValueError("ends before it begins; expected the end of the charge period after its start")
        if end_ns - start_ns > LONGEST_DAYS * 86_400 * NANO:
            raise ValueError("is for more than ten years; expected the time of one invoice")
        found = []
        at = start_ns
        while at < end_ns:
            end = min(self.calendar.day_bounds(at)[1], end_ns)
            found.append((self.calendar.local_date(at).isoformat(), end - at))
            at = end
        return found

    def days(self) -> list[BilledDay]:
        """Every day, by source, day and SKU. Raises `ValueError` where a sum is beyond 64 bits."""
        found = []
        for at, (nano, number) in sorted(self._sums.items()):
            source, day, sku, currency, kind = at
            if abs(nano) > MOST_NANO:
                raise ValueError(f"{sku} on {day} is more than {MOST_NANO // NANO:,} {currency}")
            quantity = self._quantities[at]
            found.append(
                BilledDay(
                    source=source,
                    day=day,
                    sku=sku,
                    currency=currency,
                    nano=nano,
                    kind="correction" if kind else "",
                    line=number,
                    quantity=Fraction(quantity[0]) if quantity else None,
                    unit=(quantity[1] or None) if quantity else None,
                )
            )
        return found
