"""Windows, instants and durations in query parameters → integer nanoseconds: `core.cost.report_windows` for HTTP."""

from agent.core.cost.calendar import Calendar
from agent.core.cost.report_windows import NS, WINDOW_FORMS, parse_duration, parse_instant, rfc3339, window_of

__all__ = ["NS", "WINDOW_FORMS", "parse_duration", "parse_instant", "parse_window", "rfc3339"]


def parse_window(text: str, now_ns: int, zone: str = "UTC") -> tuple[int, int]:
    """(start_ns, end_ns) of a window in one of `WINDOW_FORMS`; calendar days are those of `zone`. Raises ValueError."""
    return window_of(text, now_ns, Calendar(zone))
