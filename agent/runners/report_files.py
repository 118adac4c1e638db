"""Schedules and the ledger in → a file for each period that is over, and news of it to a webhook, at least once.

A period is reported when its time has come and it is settled to its end, also when the agent was down then. The file
is the truth; what a webhook has not taken yet lies in the outbox of the data folder.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import anyio.to_thread
import msgspec
import structlog

from agent.core.cost.calendar import Calendar
from agent.core.cost.focus import COLUMNS, Focus, FocusNames, questions, unpriced_ns
from agent.core.cost.report_forms import (
    MAX_ROWS,
    Page,
    ReportNews,
    csv_text,
    exact_text,
    report_csv,
    report_json,
)
from agent.core.cost.report_language import Question, question
from agent.core.cost.report_windows import rfc3339
from agent.core.cost.reports import Report, ReportQuery
from agent.core.ports import Exporter, Rejected, TooLarge, TryLater
from agent.runners.report_periods import Period, Periods
from agent.runners.report_store import State, Store, prune, write_whole
from agent.runners.reports_settings import ReportsSettings, ScheduleSettings

log = structlog.get_logger()

NS = 1_000_000_000
FOLDER = "reports"
ROWS_AT_ONCE = 500  # made in a thread, so that nobody else waits
FIRST_RETRY_SECONDS = 30.0
LAST_RETRY_SECONDS = 3600.0
SUFFIXES = {"json": ".json", "csv": ".csv", "focus": ".focus.csv"}


class Reports(Protocol):
    """What is asked of the ledger."""

    async def report(self, query: ReportQuery, /) -> Report: ...


@dataclass(slots=True)
class _Schedule:
    """One schedule, and how its webhook is doing."""

    settings: ScheduleSettings
    folder: Path
    periods: Periods
    webhook: Exporter[ReportNews] | None
    failures: int = 0
    retry_at_ns: int = 0  # boot time
    sent: int = 0
    refused: int = 0
    trouble: str = field(default="")

    @property
    def suffix(self) -> str:
        return SUFFIXES[self.settings.format]


class ReportFiles:
    """Every schedule of a node. `step` is called every half minute or so.

    `settled_through_ns` says how far the ledger is final; `webhooks` are by the names of their schedules.
    """

    def __init__(
        self,
        settings: ReportsSettings,
        ledger: Reports,
        data: Path,
        node: str,
        calendar: Calendar,
        *,
        settled_through_ns: Callable[[], int | None],
        unix_ns: Callable[[], int],
        boot_ns: Callable[[], int],
        webhooks: Mapping[str, Exporter[ReportNews]] | None = None,
    ) -> None:
        self._ledger = ledger
        self._node = node
        self._calendar = calendar
        self._names: FocusNames = settings.focus.to_names()
        self._settled_through_ns = settled_through_ns
        self._unix_ns = unix_ns
        self._boot_ns = boot_ns
        self._store = Store(data)
        self._state: State | None = None
        self.schedules = [
            _Schedule(
                schedule,
                schedule.folder or data / FOLDER,
                Periods(schedule.every, schedule.at, calendar),
                (webhooks or {}).get(schedule.name),
            )
            for schedule in settings.schedules
        ]

    async def step(self) -> None:
        """Make what is due and send what waits. Raises `TryLater` at the end where something could not be done."""
        if self._state is None:
            self._state = await anyio.to_thread.run_sync(self._store.load)
        troubles = []
        for schedule in self.schedules:
            try:
                await self._make_due(schedule, self._state)
            except OSError as error:
                troubles.append(f"{schedule.folder} cannot be written: {error.strerror or error}")
            except TryLater as error:
                troubles.append(error.reason)
            await self._send_waiting(schedule)
            if schedule.trouble:
                troubles.append(schedule.trouble)
        if troubles:
            raise TryLater("; ".join(dict.fromkeys(troubles)))

    async def _make_due(self, schedule: _Schedule, state: State) -> None:
        name = schedule.settings.name
        made = state.made_through_ns.get(name)
        settled = self._settled_through_ns()
        for period in schedule.periods.due(made, self._unix_ns(), schedule.settings.keep):
            if settled is None or settled < period.end_ns:
                return  # the agent has just started, or is behind
            await self._make(schedule, period, is_first=made is None)
            state.made_through_ns[name] = period.end_ns
            await anyio.to_thread.run_sync(self._store.save, state)

    async def _make(self, schedule: _Schedule, period: Period, *, is_first: bool) -> None:
        settings = schedule.settings
        asked = self._question(settings, period)
        found = await self._ledger.report(asked.query)
        if is_first and not found.rows:
            return  # a new ledger: of the time before it there is nothing to say
        path = schedule.folder / f"{settings.name}-{period.label}{schedule.suffix}"
        if settings.format == "focus":
            await self._write_focus(path, asked.query)
        else:
            page = Page(limit=MAX_ROWS)

            def write() -> None:
                is_json = settings.format == "json"
                text = msgspec.json.encode(report_json(asked, found, page)) if is_json else b""
                write_whole(path, [text or report_csv(found, page).encode()])

            await anyio.to_thread.run_sync(write)
        await anyio.to_thread.run_sync(prune, schedule.folder, settings.name, schedule.suffix, settings.keep)
        log.info("report_made", report=settings.name, period=period.label, file=str(path), rows=len(found.rows))
        if schedule.webhook is not None:
            told = await anyio.to_thread.run_sync(report_json, asked, found)
            news = self._news(settings, period, path, told)
            await anyio.to_thread.run_sync(self._store.put, settings.name, period.label, news, settings.keep)

    def _question(self, settings: ScheduleSettings, period: Period) -> Question:
        window = settings.window or f"{period.start_ns // NS},{period.end_ns // NS}"
        return question(settings.asked(window), period.end_ns, self._calendar)

    def _news(self, settings: ScheduleSettings, period: Period, path: Path, report: object) -> bytes:
        return msgspec.json.encode(
            {
                "version": 1,
                "schedule": settings.name,
                "node": self._node,
                "period": {
                    "name": period.label,
                    "start": rfc3339(period.start_ns),
                    "end": rfc3339(period.end_ns),
                    "time_zone": self._calendar.zone,
                },
                "file": path.name,
                "format": settings.format,
                "report": report,
            }
        )

    async def _write_focus(self, path: Path, query: ReportQuery) -> None:
        """Days are read one after the other into a file that gets its name at the end."""
        focus = Focus(names=self._names, node=self._node, calendar=self._calendar, now_ns=self._unix_ns())
        part = path.with_name(f".{path.name}.part")
        await anyio.to_thread.run_sync(partial(path.parent.mkdir, parents=True, exist_ok=True))
        try:
            async with await anyio.open_file(part, "wb") as file:
                async for chunk in self._focus_chunks(focus, query):
                    await file.write(chunk)
            await anyio.to_thread.run_sync(lambda: write_whole(path, _pieces(part)))
        finally:
            await anyio.to_thread.run_sync(partial(part.unlink, missing_ok=True))

    async def _focus_chunks(self, focus: Focus, query: ReportQuery) -> AsyncIterator[bytes]:
        yield csv_text([COLUMNS]).encode()
        unpriced = 0
        for day in questions(query, self._calendar):
            found = await self._ledger.report(day)
            unpriced += unpriced_ns(found)
            for at in range(0, len(found.rows), ROWS_AT_ONCE):
                rows = focus.rows(found, at, at + ROWS_AT_ONCE)
                yield (await anyio.to_thread.run_sync(csv_text, rows)).encode()
        if unpriced:
            log.warning("report_without_unpriced_time", gpu_seconds=exact_text(unpriced))

    async def _send_waiting(self, schedule: _Schedule) -> None:
        """Oldest first, one at a time; the first that is not taken now makes the others wait."""
        webhook = schedule.webhook
        if webhook is None or self._boot_ns() < schedule.retry_at_ns:
            return
        for path in await anyio.to_thread.run_sync(self._store.waiting, schedule.settings.name):
            body = await anyio.to_thread.run_sync(path.read_bytes)
            try:
                await webhook.send([ReportNews(key=f"{self._node}-{path.stem}", body=body)])
            except TryLater as later:
                self._put_off(schedule, webhook.name, later)
                return
            except (Rejected, TooLarge) as refusal:
                schedule.refused += 1
                log.error("report_refused", report=path.stem, destination=webhook.name, reason=refusal.reason)
            else:
                schedule.sent += 1
            schedule.failures, schedule.retry_at_ns, schedule.trouble = 0, 0, ""
            await anyio.to_thread.run_sync(partial(path.unlink, missing_ok=True))

    def _put_off(self, schedule: _Schedule, name: str, later: TryLater) -> None:
        wait = min(FIRST_RETRY_SECONDS * 2**schedule.failures, LAST_RETRY_SECONDS)
        wait = max(wait, min(later.after_seconds or 0.0, LAST_RETRY_SECONDS))
        schedule.failures = min(schedule.failures + 1, 20)
        schedule.retry_at_ns = self._boot_ns() + int(wait * NS)
        schedule.trouble = f"{name}: {later.reason}"


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece
