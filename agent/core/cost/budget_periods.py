"""The period of a budget and an instant in, its bounds out: calendar periods of a time zone, and rolling windows."""

import re
from typing import NamedTuple

from agent.core.cost.calendar import MINUTE_NS, Calendar

DAY_SECONDS = 86_400
CALENDAR_PERIODS = ("day", "week", "month", "quarter", "year")
FORMS = "day, week, month, quarter, year, or a rolling window of 1h to 366d such as 24h, 7d or 30d"
_ROLLING = re.compile(r"([1-9]\d{0,3})([hd])")


class Span(NamedTuple):
    """[start, end) in Unix ns. `whole_ns` is the length of the period, also where a budget begins in its middle."""

    start_ns: int
    end_ns: int
    whole_ns: int


def rolling_seconds(period: str) -> int | None:
    """Length of a rolling window; None for a calendar period. Raises ValueError for what is neither."""
    if period in CALENDAR_PERIODS:
        return None
    match = _ROLLING.fullmatch(period)
    seconds = int(match[1]) * (3600 if match[2] == "h" else DAY_SECONDS) if match else 0
    if not 0 < seconds <= 366 * DAY_SECONDS:
        raise ValueError(f"{period!r} is no period; expected {FORMS}")
    return seconds


def span_of(period: str, calendar: Calendar, now_ns: int, begins_ns: int | None = None) -> Span:
    """The period that holds `now_ns`; nothing before `begins_ns` is in it. Weeks begin on Monday (ISO 8601).

    A rolling window ends with the minute that holds `now_ns`, since that is how finely the ledger books. Quarters are
    those of the calendar year. A budget that begins later than now has an empty span. Raises ValueError.
    """
    seconds = rolling_seconds(period)
    if seconds is not None:
        end = now_ns - now_ns % MINUTE_NS + MINUTE_NS
        start = end - seconds * 1_000_000_000
    else:
        start, end = _calendar_bounds(period, calendar, now_ns)
    whole = end - start
    if begins_ns is not None:
        start = min(max(start, begins_ns), end)
    return Span(start, end, whole)


def _calendar_bounds(period: str, calendar: Calendar, now_ns: int) -> tuple[int, int]:
    if period == "day":
        return calendar.day_bounds(now_ns)
    if period == "week":
        return calendar.week_bounds(now_ns)
    if period == "month":
        return calendar.month_bounds(now_ns)
    day = calendar.local_date(now_ns)
    first = 1 if period == "year" else day.month - (day.month - 1) % 3
    start = day.replace(month=first, day=1)
    after = first + (12 if period == "year" else 3)
    end = start.replace(year=start.year + after // 13, month=(after - 1) % 12 + 1)
    return calendar.date_start(start), calendar.date_start(end)
