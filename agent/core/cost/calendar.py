"""An instant and a time zone in, the local hour, day, week or month around it out: the buckets of the ledger."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS

Bounds = tuple[int, int]
Step = Literal["hour", "day", "week", "month"]


class Calendar:
    """The calendar of one IANA time zone. Instants are Unix nanoseconds; every bound is a whole minute.

    Minute, hour and day nest always: hours are counted from local midnight, and the last one of a day ends with it,
    also on a day of 23, 23.5 or 25 hours. A day begins at the first instant of its local date; one that a zone left
    out (Samoa, 30 December 2011) does not exist. Weeks begin on Monday. Raises `ValueError` for an unknown zone.
    """

    def __init__(self, zone: str = "UTC") -> None:
        try:
            self._zone = ZoneInfo(zone)
        except (LookupError, ValueError, OSError) as error:  # not there; no name of a zone; a folder of them
            raise ValueError(
                f"there is no time zone {zone!r}; expected an IANA name such as UTC, Europe/Berlin or Asia/Shanghai"
            ) from error
        self.zone = zone
        self._start_of = lru_cache(1024)(self._find_start_of)
        self._last_day = (0, 0)

    def day_bounds(self, at_ns: int) -> Bounds:
        """The local day that holds `at_ns`: 23 to 25 hours."""
        start, end = self._last_day
        if not start <= at_ns < end:
            start, end = self._last_day = self._around(at_ns, self._date_of(at_ns), lambda d, n: d + timedelta(n))
        return start, end

    def hour_bounds(self, at_ns: int) -> Bounds:
        """The hour that holds `at_ns`, counted from local midnight; the last one of a day may be short."""
        start, end = self.day_bounds(at_ns)
        start = at_ns - (at_ns - start) % HOUR_NS
        return start, min(start + HOUR_NS, end)

    def week_bounds(self, at_ns: int) -> Bounds:
        """The week, from Monday on, that holds `at_ns`."""
        day = self._date_of(at_ns)
        monday = day - timedelta(day.weekday())
        return self._around(at_ns, monday, lambda d, n: d + timedelta(7 * n))

    def month_bounds(self, at_ns: int) -> Bounds:
        """The calendar month that holds `at_ns`."""
        return self._around(at_ns, self._date_of(at_ns).replace(day=1), _months_on)

    def bounds(self, at_ns: int, step: Step) -> Bounds:
        """The hour, day, week or month that holds `at_ns`."""
        of: dict[Step, Callable[[int], Bounds]] = {
            "hour": self.hour_bounds,
            "day": self.day_bounds,
            "week": self.week_bounds,
            "month": self.month_bounds,
        }
        return of[step](at_ns)

    def edges(self, start_ns: int, end_ns: int, step: Step) -> tuple[int, ...]:
        """Where a step begins strictly inside of (start, end), ascending."""
        found = []
        at = self.bounds(start_ns, step)[1]
        while at < end_ns:
            found.append(at)
            at = self.bounds(at, step)[1]
        return tuple(found)

    def local_date(self, at_ns: int) -> date:
        """The date of the local day that holds `at_ns`."""
        start, _ = self.day_bounds(at_ns)
        day = self._date_of(start)
        return day if self._start_of(day + timedelta(1)) > start else day + timedelta(1)

    def date_start(self, day: date) -> int:
        """The first instant of a local date."""
        return self._start_of(day)

    def _date_of(self, at_ns: int) -> date:
        return datetime.fromtimestamp(at_ns // SECOND_NS, self._zone).date()

    def _around(self, at_ns: int, first: date, move: Callable[[date, int], date]) -> Bounds:
        """Of the periods that begin on `first` and before and after it, the one that holds `at_ns`.

        The date of an instant is a first guess only: where a clock goes back over midnight, a date comes twice.
        """
        while self._start_of(first) > at_ns:
            first = move(first, -1)
        while (end := self._start_of(move(first, 1))) <= at_ns:
            first = move(first, 1)
        return self._start_of(first), end

    def _find_start_of(self, day: date) -> int:
        midnight = datetime(day.year, day.month, day.day, tzinfo=self._zone)
        first, second = _unix(midnight), _unix(midnight.replace(fold=1))
        if second < first:  # the clock leaves midnight out: the date begins with the instant of that
            while first - second > 1:
                middle = (first + second) // 2
                if datetime.fromtimestamp(middle, self._zone).date() < day:
                    second = middle
                else:
                    first = middle
            if datetime.fromtimestamp(second, self._zone).date() >= day:
                first = second
        return (first - first % 60) * SECOND_NS  # offsets of old times have seconds


def _months_on(day: date, months: int) -> date:
    whole = day.year * 12 + day.month - 1 + months
    return date(whole // 12, whole % 12 + 1, 1)


def _unix(local: datetime) -> int:
    return int(local.astimezone(UTC).timestamp())
