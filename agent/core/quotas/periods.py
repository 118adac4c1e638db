"""Calendar periods in a named time zone: an instant in, the period's first and last instant out."""

from datetime import date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

Period = Literal["day", "week", "month"]
NS = 1_000_000_000


def period_bounds(period: str, time_zone: str, now_ns: int) -> tuple[int, int]:
    """[start, end) of the `Period` that holds `now_ns`, Unix ns. Weeks begin on Monday (ISO 8601).

    Days of 23 or 25 hours are as long as they are. Raises ValueError or KeyError for an unknown time zone or period.
    """
    zone = ZoneInfo(time_zone)
    today = datetime.fromtimestamp(now_ns // NS, zone).date()
    if period == "day":
        first, after = today, today + timedelta(days=1)
    elif period == "week":
        first = today - timedelta(days=today.weekday())
        after = first + timedelta(days=7)
    elif period == "month":
        first = today.replace(day=1)
        after = (first + timedelta(days=32)).replace(day=1)
    else:
        raise ValueError(f"{period!r} is no calendar period")
    return _midnight(first, zone), _midnight(after, zone)


def _midnight(day: date, zone: ZoneInfo) -> int:
    # Where the clock jumps over midnight, `fold=0` names the instant of the jump's old offset: the day's first instant.
    return int(datetime.combine(day, time(), zone).timestamp()) * NS
