"""A schedule and the time in → the periods that are over, due, and not reported yet."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

from agent.core.cost.calendar import Calendar, Step
from agent.runners.reports_settings import Every

NS = 1_000_000_000
_STEPS: dict[Every, Step] = {"daily": "day", "weekly": "week", "monthly": "month"}


class Period(NamedTuple):
    """A day, week or month, [start_ns, end_ns). Labels sort as their periods do."""

    start_ns: int
    end_ns: int
    label: str  # 2026-11-23, 2026-W48, 2026-11


class Periods:
    """The periods of one schedule. They end at local midnight, and are due the next time that it is `at` o'clock.

    When that is, also on days when a clock is turned, is said by APScheduler's trigger; its scheduler is not used,
    because it runs on a clock of its own.
    """

    def __init__(self, every: Every, at: str, calendar: Calendar) -> None:
        self._every: Every = every
        self._calendar = calendar
        from apscheduler.triggers.cron import CronTrigger  # 100 ms that a node without schedules does not need

        hour, minute = at.split(":")
        self._trigger: Any = CronTrigger(hour=int(hour), minute=int(minute), timezone=calendar.zone)

    def due(self, made_through_ns: int | None, now_ns: int, most: int) -> list[Period]:
        """The periods after `made_through_ns` that are due, oldest first; the last `most` of them.

        Where nothing was made yet (None), only the last one.
        """
        step = _STEPS[self._every]
        found: list[Period] = []
        at_ns = self._calendar.bounds(now_ns, step)[0] - 1
        while len(found) < most:
            start_ns, end_ns = self._calendar.bounds(at_ns, step)
            if made_through_ns is not None and end_ns <= made_through_ns:
                break
            if self.due_ns(end_ns) <= now_ns:
                found.append(Period(start_ns, end_ns, self._label(start_ns)))
                if made_through_ns is None:
                    break
            at_ns = start_ns - 1
        return found[::-1]

    def due_ns(self, end_ns: int) -> int:
        """When the report of a period that ended at `end_ns` is made."""
        ended = datetime.fromtimestamp(end_ns // NS, UTC)
        return int(self._trigger.get_next_fire_time(None, ended).timestamp()) * NS

    def _label(self, start_ns: int) -> str:
        day = self._calendar.local_date(start_ns)
        if self._every == "monthly":
            return day.strftime("%Y-%m")
        if self._every == "weekly":
            year, week, _ = day.isocalendar()
            return f"{year}-W{week:02d}"
        return day.isoformat()
