"""Windows, instants and durations as people and Prometheus' clients write them → integer nanoseconds."""

import math
import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

NS = 1_000_000_000
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31536000.0}
_DURATION = re.compile(r"(?:\d+(?:ms|[smhdwy]))+")
_PART = re.compile(r"(\d+)(ms|[smhdwy])")
_FRACTION = re.compile(r"\.(\d+)")

WINDOW_FORMS = (
    "today, yesterday, lasthour (the last 60 minutes), a duration back from now such as 30m, 24h or 7d, "
    "or start,end as RFC 3339 times or Unix seconds"
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


def parse_window(text: str, now_ns: int, zone: str = "UTC") -> tuple[int, int]:
    """(start_ns, end_ns) of a window in one of `WINDOW_FORMS`; calendar days are those of `zone`. Raises ValueError."""
    if text in ("today", "yesterday"):
        midnight = _midnight(now_ns, zone)
        if text == "today":
            return _ns(midnight), now_ns
        # Back by the calendar, not by 24 h: a day may have 23 or 25 hours.
        return _ns(midnight - timedelta(days=1)), _ns(midnight)
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


def _midnight(now_ns: int, zone: str) -> datetime:
    now = datetime.fromtimestamp(now_ns // NS, ZoneInfo(zone))
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def _ns(moment: datetime) -> int:
    return int(moment.timestamp()) * NS


def rfc3339(instant_ns: int) -> str:
    """``2026-11-23T10:00:00.25Z``; fractions only where there are any."""
    text = datetime.fromtimestamp(instant_ns // NS, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f"{instant_ns % NS:09d}".rstrip("0")
    return f"{text}.{fraction}Z" if fraction else f"{text}Z"
