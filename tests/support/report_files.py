"""A node whose reports are made by themselves: a ledger that knows every window, clocks turned by hand, a receiver."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
from aiohttp import web

from agent.core.cost.calendar import Calendar
from agent.core.cost.reports import Report, ReportQuery, ReportRow
from agent.core.ports import TryLater
from agent.runners.report_files import ReportFiles
from agent.runners.reports_settings import ReportsSettings

NS = 10**9
SECOND_NS = NS


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * NS


@dataclass
class Books:
    """A ledger in which each nanosecond costs a nano-unit, from `since_ns` on."""

    since_ns: int = 0
    asked: list[ReportQuery] = field(default_factory=list)
    trouble: str = ""

    async def report(self, query: ReportQuery, /) -> Report:
        if self.trouble:
            raise TryLater(self.trouble)
        self.asked.append(query)
        group = dict.fromkeys(query.aggregate, "") | {
            name: value
            for name, value in {"tenant": "=acme", "state": "request", "gpu": "GPU-0"}.items()
            if name in query.aggregate
        }
        bounds = pairwise((query.start_ns, *query.edges, query.end_ns))
        rows = tuple(
            ReportRow(start_ns=start, end_ns=end, group=group, gpu_ns=end - start, cost_nano=end - start)
            for start, end in bounds
            if end > self.since_ns
        )
        total = sum(row.gpu_ns for row in rows)
        return Report(query=query, currency="CNY", rows=rows, total_gpu_ns=total, total_cost_nano=total)


@dataclass
class Node:
    """A folder, a ledger and clocks; `start` is a start of the agent."""

    data: Path
    now_ns: int
    zone: str = "Asia/Shanghai"
    books: Books = field(default_factory=Books)
    settled_ns: int | None = None  # None: up to now
    boot_ns: int = 1
    webhooks: dict[str, Any] = field(default_factory=dict)

    def start(self, *schedules: dict[str, Any], focus: dict[str, Any] | None = None) -> ReportFiles:
        settings = ReportsSettings.model_validate({"schedules": schedules, "focus": focus or {}})
        return ReportFiles(
            settings,
            self.books,
            self.data,
            "node-a",
            Calendar(self.zone),
            settled_through_ns=lambda: self.now_ns if self.settled_ns is None else self.settled_ns,
            unix_ns=lambda: self.now_ns,
            boot_ns=lambda: self.boot_ns,
            webhooks=self.webhooks,
        )

    def files(self) -> list[str]:
        folder = self.data / "reports"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def waiting(self) -> list[str]:
        folder = self.data / "reports.outbox"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


class Receiver:
    """Keeps what it gets; answers the statuses in line, then 200."""

    def __init__(self, *statuses: int, **headers: str) -> None:
        self.statuses = list(statuses)
        self.headers = headers
        self.got: list[tuple[dict[str, str], bytes]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        status = self.statuses.pop(0) if self.statuses else 200
        return web.Response(status=status, headers={name.replace("_", "-"): v for name, v in self.headers.items()})


@asynccontextmanager
async def receiving(receiver: Receiver) -> AsyncIterator[str]:
    """The receiver on a random port of loopback; gives its address."""
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        yield f"http://127.0.0.1:{port}/hook?key=secret-in-the-address"
    finally:
        with anyio.CancelScope(shield=True):
            await runner.cleanup()
