"""Windows, instants, durations and steps as people and OpenCost's clients write them → Unix nanoseconds."""

import math
import re
from datetime import UTC, datetime

from agent.core.cost.calendar import Calendar, Step

NS = 1_000_000_000
DAY_SECONDS = 86_400
MINUTE_NS = 60 * NS
MAX_STEPS = 11_000
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31536000.0}
_DURATION = re.compile(r"(?:\d+(?:ms|[smhdwy]))+")
_PART = re.compile(r"(\d+)(ms|[smhdwy])")
_FRACTION = re.compile(r"\.(\d+)")
_RUNNING: dict[str, Step] = {"today": "day", "week": "week", "month": "month"}
_ENDED: dict[str, Step] = {"yesterday": "day", "lastweek": "week", "lastmonth": "month"}
_CALENDAR_STEPS: dict[str, Step] = {
    "1h": "hour",
    "hour": "hour",
    "1d": "day",
    "day": "day",
    "1w": "week",
    "week": "week",
    "1M": "month",
    "month": "month",
}
_SECONDS_OF: dict[Step, int] = {"hour": 3600, "day": 82_800, "week": 600_000, "month": 2_400_000}  # at least

WINDOW_FORMS = (
    "today, week or month (since they began), yesterday, lastweek or lastmonth (whole, weeks from Monday), "
    "lasthour (the last 60 minutes), a duration back from now such as 30m, 24h or 7d, "
    "or start,end as RFC 3339 times or Unix seconds"
)
STEP_FORMS = (
    "1h, 1d, 1w or 1M (hours, days, weeks from Monday and months of the node's time zone), "
    "or another length of whole minutes such as 15m, 6h or 3d"
)


def parse_duration(text: str) -> float:
    """Seconds of ``90``, ``1.5`` or ``1h30m``. Raises ValueError."""
    if _DURATION.fullmatch(text):
        return sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a duration; write seconds, or numbers with units such as 1h30m") from None
    if not math.isfinite(seconds):
        raise ValueError(f"{text!r} is not a duration of finite length")
    return seconds


def parse_instant(text: str) -> int:
    """Unix ns of ``1763894400.5`` or ``2026-11-23T10:00:00Z``. Raises ValueError."""
    try:
        if re.fullmatch(r"-?\d+", text):
            return _in_range(int(text) * NS, text)
        seconds = float(text)
    except ValueError:
        return _in_range(_parse_rfc3339(text), text)
    if not math.isfinite(seconds):
        raise ValueError(f"{text!r} is not an instant")
    return _in_range(round(seconds * 1000) * 1_000_000, text)


def _in_range(instant_ns: int, text: str) -> int:
    if not 0 <= instant_ns < 2**63:
        raise ValueError(f"{text!r} is outside the years 1970 to 2262")
    return instant_ns


def _parse_rfc3339(text: str) -> int:
    # A plus sign in a query string arrives as a space.
    candidate = re.sub(r" (\d\d:\d\d)$", r"+\1", text)
    fraction = _FRACTION.search(candidate)
    try:
        whole = datetime.fromisoformat(_FRACTION.sub("", candidate, count=1))
    except ValueError:
        raise ValueError(
            f"{text!r} is not an instant; write Unix seconds or RFC 3339, e.g. 2026-11-23T10:00:00Z"
        ) from None
    if whole.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; add Z for UTC or an offset such as +08:00")
    nanoseconds = int(fraction.group(1)[:9].ljust(9, "0")) if fraction else 0
    return int(whole.timestamp()) * NS + nanoseconds


def window_of(text: str, now_ns: int, calendar: Calendar) -> tuple[int, int]:
    """(start_ns, end_ns) of a window in one of `WINDOW_FORMS`; days are those of `calendar`. Raises ValueError."""
    if text in _RUNNING:
        return calendar.bounds(now_ns, _RUNNING[text])[0], now_ns
    if text in _ENDED:
        # Back by the calendar, not by 24 h: a day may have 23 or 25 hours.
        step = _ENDED[text]
        return calendar.bounds(calendar.bounds(now_ns, step)[0] - 1, step)
    if text == "lasthour":
        return now_ns - 3600 * NS, now_ns
    if "," in text:
        first, _, second = text.partition(",")
        start, end = parse_instant(first.strip()), parse_instant(second.strip())
        if start >= end:
            raise ValueError(f"window {text!r} ends before it starts; write the earlier instant first")
        return start, end
    if _DURATION.fullmatch(text):
        seconds = parse_duration(text)
        if 0 < seconds * NS <= now_ns:
            return now_ns - round(seconds * NS), now_ns
    raise ValueError(f"{text!r} is not a window; write {WINDOW_FORMS}")


def edges_of(text: str, start_ns: int, end_ns: int, calendar: Calendar) -> tuple[int, ...]:
    """The instants strictly inside of a window at which a step, in one of `STEP_FORMS`, cuts it. Raises ValueError.

    Steps that divide a day are counted from local midnight and the last one of a day ends with it; whole days from
    the window's first day; any other length from the window's first minute.
    """
    step = _CALENDAR_STEPS.get(text)
    seconds = _SECONDS_OF[step] if step else _step_seconds(text)
    if (end_ns - start_ns) / NS / seconds > MAX_STEPS:
        raise ValueError(f"{text!r} cuts the window into more than {MAX_STEPS} parts; choose a larger step")
    if step:
        return calendar.edges(start_ns, end_ns, step)
    if seconds % DAY_SECONDS == 0:
        days = seconds // DAY_SECONDS
        return calendar.edges(start_ns, end_ns, "day")[days - 1 :: days]
    length = seconds * NS
    if DAY_SECONDS % seconds:
        return tuple(range(start_ns - start_ns % MINUTE_NS + length, end_ns, length))
    found: list[int] = []
    at = start_ns
    while at < end_ns:
        day_start, day_end = calendar.day_bounds(at)
        found += [edge for edge in range(day_start, day_end, length) if start_ns < edge < end_ns]
        at = day_end
    return tuple(found)


def _step_seconds(text: str) -> int:
    if re.fullmatch(r"\d+M", text):
        raise ValueError(f"{text!r} is not a step; of months only 1M is one; write {STEP_FORMS}")
    try:
        seconds = parse_duration(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a step; write {STEP_FORMS}") from None
    if seconds < 60 or seconds % 60:
        raise ValueError(
            f"{text!r} is not a whole number of minutes, at least 1: nothing finer is kept; write {STEP_FORMS}"
        )
    return int(seconds)


def rfc3339(instant_ns: int) -> str:
    """``2026-11-23T10:00:00.25Z``; fractions only where there are any."""
    text = datetime.fromtimestamp(instant_ns // NS, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f"{instant_ns % NS:09d}".rstrip("0")
    return f"{text}.{fraction}Z" if fraction else f"{text}Z"
