"""An electricity tariff by time of day, weekday and month in; the price at an instant and every change of it out."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

NS = 1_000_000_000
DAY_MINUTES = 24 * 60
EVERY_DAY = frozenset(range(7))
EVERY_MONTH = frozenset(range(1, 13))


@dataclass(frozen=True, slots=True)
class Period:
    """Minutes [start, end) of a local day, counted from midnight by the clock on the wall; `end` <= `start` runs over
    midnight and belongs to the day it begins on. `days`: 0 is Monday. `months`: 1 is January."""

    start_minute: int
    end_minute: int
    per_kwh: Fraction
    days: frozenset[int] = EVERY_DAY
    months: frozenset[int] = EVERY_MONTH

    def covers(self, local: datetime) -> bool:
        """Whether the wall clock's `local` lies in the period."""
        minute = local.hour * 60 + local.minute
        if self.start_minute < self.end_minute:
            return self.start_minute <= minute < self.end_minute and self._on(local.date())
        if minute >= self.start_minute:
            return self._on(local.date())
        return minute < self.end_minute and self._on(local.date() - timedelta(days=1))

    def _on(self, day: date) -> bool:
        return day.weekday() in self.days and day.month in self.months


class EnergyTariff:
    """`per_kwh` outside all periods; where several cover an instant, the first decides. Price in units of the row's
    currency for a kilowatt hour. The wall clock of `zone` decides, also on the days on which it is changed."""

    def __init__(self, zone: str, per_kwh: Fraction, periods: tuple[Period, ...] = ()) -> None:
        self.zone = zone
        self.per_kwh = per_kwh
        self.periods = periods
        self._zone = ZoneInfo(zone)
        edges = {0} | {p.start_minute for p in periods} | {p.end_minute % DAY_MINUTES for p in periods}
        self._edges = tuple(sorted(edges))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EnergyTariff):
            return NotImplemented
        return (self.zone, self.per_kwh, self.periods) == (other.zone, other.per_kwh, other.periods)

    def __hash__(self) -> int:
        return hash((self.zone, self.per_kwh, self.periods))

    @property
    def is_flat(self) -> bool:
        """True when the price never changes."""
        return all(period.per_kwh == self.per_kwh for period in self.periods)

    def price_at(self, at_ns: int) -> Fraction:
        """Price of a kilowatt hour at `at_ns` (Unix ns)."""
        local = datetime.fromtimestamp(at_ns // NS, self._zone)
        return next((period.per_kwh for period in self.periods if period.covers(local)), self.per_kwh)

    def changes(self, from_ns: int, until_ns: int) -> list[tuple[int, Fraction]]:
        """(from Unix ns, price) of every change strictly inside (`from_ns`, `until_ns`), ascending."""
        if self.is_flat:
            return []
        price = self.price_at(from_ns)
        found = []
        for at_ns in self._candidates(from_ns, until_ns):
            now = self.price_at(at_ns)
            if now != price:
                found.append((at_ns, now))
                price = now
        return found

    def _candidates(self, from_ns: int, until_ns: int) -> list[int]:
        """Every instant at which the wall clock shows an edge, and every jump of the wall clock, ascending."""
        day = datetime.fromtimestamp(from_ns // NS, self._zone).date() - timedelta(days=1)
        last = datetime.fromtimestamp(until_ns // NS, self._zone).date() + timedelta(days=1)
        instants = set()
        while day <= last:
            for minute in self._edges:
                wall = datetime(day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=self._zone)
                for fold in (0, 1):  # an hour that comes twice has each edge twice
                    instants.add(int(wall.replace(fold=fold).timestamp()) * NS)
            jump = self._jump(day)
            if jump is not None:
                instants.add(jump)
            day += timedelta(days=1)
        return sorted(at_ns for at_ns in instants if from_ns < at_ns < until_ns)

    def _jump(self, day: date) -> int | None:
        """When the wall clock was changed within a day around `day`, to the second; None when it was not."""
        noon = int(datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp())
        low, high = noon - 86400, noon + 86400
        after = self._offset(high)
        if self._offset(low) == after:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset(middle) == after:
                high = middle
            else:
                low = middle
        return high * NS

    def _offset(self, at: int) -> timedelta | None:
        return datetime.fromtimestamp(at, self._zone).utcoffset()
