"""Hours of the ledger in, what each budget usually and lately spends out. A cache: a restart reads it again.

Complete days are read once, one day at a time, and again a day later, since corrections reach back; the last hours are
read every minute. An hour in which the agent watched less than half of the GPU time says nothing about spending.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from zoneinfo import ZoneInfo

import anyio.lowlevel

from agent.clock import NS
from agent.core.cost.budgets import Budget, covers, dimensions_of
from agent.core.cost.calendar import HOUR_NS, MINUTE_NS, Calendar
from agent.core.cost.forecast import DAY_NS, HISTORY_DAYS, Hour, Pattern, SlotOf, pattern_of
from agent.core.cost.reports import ReportQuery
from agent.runners.spending import Reports

BURN_HOURS = (1, 6)
MAX_KNOWN = 50_000  # sets of labels of which is remembered what they count towards
REFRESH_NS = 60 * NS
REREAD_NS = DAY_NS
ROWS_AT_ONCE = 100
ROWS_PER_STEP = 2000  # of the history, on average while it is read for the first time


class Matching:
    """Which of some budgets that what is booked under labels counts towards; remembered, since the same come again.

    All calls of one must have the same names of labels, in the same order.
    """

    def __init__(self, budgets: Mapping[int, Budget]) -> None:
        self._budgets = budgets
        self._known: dict[tuple[str, ...], tuple[int, ...]] = {}

    def of(self, labels: Mapping[str, str]) -> tuple[int, ...]:
        """Their numbers."""
        key = tuple(labels.values())
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            found = self._known[key] = tuple(n for n, budget in self._budgets.items() if covers(budget, labels))
        return found


@dataclass(slots=True)
class _Booked:
    """One hour, or a part of one. `nano` is by the number of the budget."""

    start_ns: int
    end_ns: int
    gpu_ns: int = 0
    gap_ns: int = 0
    nano: dict[int, int] = field(default_factory=dict)

    def add(self, other: "_Booked") -> None:
        self.gpu_ns += other.gpu_ns
        self.gap_ns += other.gap_ns
        for number, nano in other.nano.items():
            self.nano[number] = self.nano.get(number, 0) + nano


class History:
    """The last weeks by hours, for all budgets at once."""

    def __init__(self, budgets: Sequence[Budget], ledger: Reports, calendar: Calendar) -> None:
        self._budgets = budgets
        self._ledger = ledger
        self._calendar = calendar
        self._matching = Matching(dict(enumerate(budgets)))
        self._dimensions = dimensions_of(budgets)
        self._hours: dict[int, _Booked] = {}
        self._days: dict[int, int] = {}  # start of a day -> when it was read
        self._lately: dict[int, _Booked] = {}  # by hours, of `BURN_HOURS`
        self._read_ns: int | None = None
        self._filling = True
        self._rest = 0  # how many times nothing is read, after a day of many rows
        self._known: list[_Booked] = []  # in order, without those that say nothing
        self._slots = {zone: _slots(zone) for zone in {budget.time_zone for budget in budgets}}

    @property
    def is_filled(self) -> bool:
        """Whether all of it was read once."""
        return not self._filling

    async def read(self, at_ns: int) -> bool:
        """Read what is due at `at_ns`, at most one day and the last hours. True when there is something new."""
        new = False
        if self._read_ns is None or at_ns - self._read_ns >= REFRESH_NS or at_ns < self._read_ns:
            await self._read_lately(at_ns)
            self._read_ns, new = at_ns, True
        self._rest -= 1
        if new or (self._filling and self._rest < 0):
            day = self._due_day(at_ns)
            if day is not None:
                await self._read_day(day, at_ns)
            elif self._filling:
                self._filling, new = False, True
        if new:
            # The first hour of all is not whole.
            hours = [self._hours[at] for at in sorted(self._hours)][1:]
            self._known = [hour for hour in hours if hour.gpu_ns > 0 and hour.gap_ns * 2 <= hour.gpu_ns]
        return new

    def _due_day(self, at_ns: int) -> tuple[int, int] | None:
        """The newest day that was never read, else the one that was read longest ago, if that is a day ago."""
        today = self._calendar.day_bounds(at_ns)[0]
        days = []
        start = today
        for _ in range(HISTORY_DAYS + 1):
            days.append(start)
            start = self._calendar.day_bounds(start - 1)[0]
        self._days = {day: read for day, read in self._days.items() if day in days}
        for old in [hour for hour in self._hours if hour < days[-1]]:
            del self._hours[old]
        found = next((day for day in days if day not in self._days), None)
        if found is None:
            oldest = min(days, key=lambda day: self._days[day])
            found = oldest if at_ns - self._days[oldest] >= REREAD_NS else None
        return None if found is None else self._calendar.day_bounds(found)

    async def _read_day(self, day: tuple[int, int], at_ns: int) -> None:
        end = min(day[1], self._calendar.hour_bounds(at_ns)[0])
        if day[0] < end:
            for piece in await self._pieces(day[0], end, self._calendar.edges(day[0], end, "hour")):
                self._hours[piece.start_ns] = piece
        self._days[day[0]] = at_ns

    async def _read_lately(self, at_ns: int) -> None:
        end = at_ns - at_ns % MINUTE_NS + MINUTE_NS
        begins = {hours: end - MINUTE_NS - hours * HOUR_NS for hours in BURN_HOURS}
        start = self._calendar.hour_bounds(min(begins.values()))[0]
        edges = set(self._calendar.edges(start, end, "hour")) | set(begins.values())
        pieces = await self._pieces(start, end, tuple(sorted(edge for edge in edges if start < edge < end)))
        self._lately = {hours: _Booked(begin, at_ns) for hours, begin in begins.items()}
        complete: dict[int, _Booked] = {}
        for piece in pieces:
            for hours, begin in begins.items():
                if piece.start_ns >= begin:
                    self._lately[hours].add(piece)
            bounds = self._calendar.hour_bounds(piece.start_ns)
            if bounds[1] <= at_ns:
                complete.setdefault(bounds[0], _Booked(*bounds)).add(piece)
        self._hours |= complete

    async def _pieces(self, start: int, end: int, edges: tuple[int, ...]) -> list[_Booked]:
        """What was booked between each two edges; nothing for those in which nothing was."""
        query = ReportQuery(start_ns=start, end_ns=end, aggregate=self._dimensions, edges=edges)
        report = await self._ledger.report(query)
        self._rest = len(report.rows) // ROWS_PER_STEP
        bounds = dict(zip((start, *edges), (*edges, end), strict=True))
        found: dict[int, _Booked] = {}
        for count, row in enumerate(report.rows):
            if count % ROWS_AT_ONCE == ROWS_AT_ONCE - 1:
                await anyio.lowlevel.checkpoint()
            at = max(start, row.start_ns)
            piece = found.get(at) or found.setdefault(at, _Booked(at, bounds.get(at, row.end_ns)))
            piece.gpu_ns += row.gpu_ns
            piece.gap_ns += row.gpu_ns if row.group["state"] == "gap" else 0
            for number in self._matching.of(row.group):
                counts = self._budgets[number].currency == report.currency
                piece.nano[number] = piece.nano.get(number, 0) + ((row.cost_nano or 0) if counts else 0)
        return [found[at] for at in sorted(found)]

    def covers(self, number: int) -> bool:
        """Whether anything at all was booked towards a budget."""
        return any(number in hour.nano for hour in self._hours.values())

    def lately(self, number: int, hours: int) -> tuple[int, int, int]:
        """(nano, start, end) of the last hours, to the minute; these are a minute longer at most."""
        found = self._lately[hours]
        return found.nano.get(number, 0), found.start_ns, found.end_ns

    def hours(self, number: int) -> list[Hour]:
        """The complete hours of a budget that say something, in order."""
        return [Hour(hour.start_ns, hour.end_ns - hour.start_ns, hour.nano.get(number, 0)) for hour in self._known]

    def pattern(self, number: int) -> Pattern | None:
        """What a budget usually spends; None while too little is known."""
        budget = self._budgets[number]
        return pattern_of(self.hours(number), self._slots[budget.time_zone], committed=budget.is_committed)


def _slots(time_zone: str) -> SlotOf:
    """Local hour of the week of an instant, remembered by quarters of an hour: zones differ by these."""
    zone = ZoneInfo(time_zone)
    known: dict[int, int] = {}

    def slot_of(at_ns: int) -> int:
        quarter = at_ns // (15 * MINUTE_NS)
        slot = known.get(quarter)
        if slot is None:
            if len(known) > 10_000:
                known.clear()
            local = datetime.fromtimestamp(quarter * 900, zone)
            slot = known[quarter] = local.weekday() * 24 + local.hour
        return slot

    return slot_of
