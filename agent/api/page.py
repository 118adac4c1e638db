"""The page at ``/`` and its live part: view values → HTML through jinja2, rendered at most once a second."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import jinja2
import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response

from agent.api import formats
from agent.api.charts import Frame
from agent.api.cost_view import CostPanel, CostReader
from agent.api.engine_figures import Latencies, LatencyCache
from agent.api.engine_view import MOST_CARDS, QUANTILES, engine_cards
from agent.api.gpu_view import gpu_notice, gpu_rows
from agent.api.history_view import LATEST_MS, WINDOW_MS, chart_caches, frame_for, latest
from agent.api.problems import Problem
from agent.api.services import NodeServices, QueryRefused
from agent.api.times import rfc3339
from agent.api.view import (
    SLOW_SECONDS,
    Cell,
    Charts,
    alert_cards,
    rule_chips,
)

log = structlog.get_logger()

NS = 1_000_000_000
FRESH_NS = NS  # a rendering serves every reader for this long
_FOLDER = Path(__file__).parent
_HTML = "text/html; charset=utf-8"
_KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


@dataclass(slots=True, frozen=True)
class StaticFile:
    """A file of the page, in memory."""

    body: bytes
    kind: str
    etag: str


class Static:
    """The files of ``static/``, read once; their address changes with their content."""

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, StaticFile] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix in _KINDS:
                body = path.read_bytes()
                self.files[path.name] = StaticFile(body, _KINDS[path.suffix], hashlib.sha256(body).hexdigest()[:16])

    def address(self, name: str) -> str:
        return f"/static/{name}?v={self.files[name].etag}"

    def answer(self, name: str, request: Request) -> Response:
        file = self.files.get(name)
        if file is None:
            raise Problem(404, "Unknown file", f"There is no file {name!r} here.")
        # An address with the content's own hash never changes its content.
        current = request.query_params.get("v") == file.etag
        headers = {
            "ETag": f'"{file.etag}"',
            "Cache-Control": "public, max-age=31536000, immutable" if current else "no-cache",
        }
        if f'"{file.etag}"' in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(file.body, headers=headers, media_type=file.kind)


class Page:
    """Renders the live part, and the page around it."""

    def __init__(self, node: NodeServices) -> None:
        self.node = node
        self.caches = chart_caches()
        self.latencies = LatencyCache()
        self.cost = CostReader(node, node.budgets, node.savings)
        self.static = Static(_FOLDER / "static")
        self.templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.globals["static"] = self.static.address
        for name in ("fragment.html.j2", "engines.html.j2", "cost.html.j2", "page.html.j2"):
            self.templates.get_template(name)  # compiled now rather than while the first reader waits
        self.rendering = anyio.Lock()
        self.fragment = ""
        self.refused: set[str] = set()
        self.rendered_boot_ns: int | None = None

    async def live(self) -> str:
        """The live part; the same text for everybody within a second."""
        async with self.rendering:
            now = self.node.boot_ns()
            if self.rendered_boot_ns is None or now - self.rendered_boot_ns >= FRESH_NS:
                context = await self.context()
                self.fragment = self.templates.get_template("fragment.html.j2").render(context)
                self.rendered_boot_ns = now
            return self.fragment

    async def whole(self) -> str:
        return self.templates.get_template("page.html.j2").render(node=self.node, live=await self.live())

    async def context(self) -> dict[str, Any]:
        """Everything the live part's template names."""
        node = self.node
        cost = await self.cost.read()
        now_ns = node.unix_ns()
        frame = frame_for(now_ns // 1_000_000, (node.boot_ns() - node.health.started_boot_ns) / NS)
        charts = await self.charts(now_ns // 1_000_000)
        groups = node.rule_groups()
        alerts = alert_cards(groups, now_ns)
        slots = node.slots()
        return {
            "node": node,
            "simulated": simulated_notice(node),
            "now": rfc3339(now_ns - now_ns % NS),
            "minutes": (frame.end_ms - frame.start_ms) // 60_000,
            "alerts": alerts,
            "firing": sum(alert.state == "firing" for alert in alerts),
            "rules": rule_chips(groups),
            "tiles": self.tiles(charts, frame, cost),
            "gpus": gpu_rows(node.board.gpus, charts, frame, node.board.workloads, slots),
            "gpu_notice": gpu_notice(node),
            "engines": engine_cards(
                node.board.engines, charts, frame, self.observed(now_ns // 1_000_000), slots, now_ns
            ),
            "most_cards": MOST_CARDS,
            "quantiles": [f"p{q * 100:g}" for q in QUANTILES],
            "cost": cost,
            "deliveries": [_delivery(view, now_ns) for view in node.deliveries()],
            "cycles": cycle_rows(node),
            "failing": len(node.health.failing()),
        }

    async def charts(self, now_ms: int) -> Charts:
        """Every chart's series. A refused query leaves its charts empty: the rest of the page matters more."""
        found: Charts = {}
        listed = len(self.node.board.engines) > MOST_CARDS  # so many engines come without charts
        for name, cache in self.caches.items():
            window_ms = LATEST_MS if listed and cache.labels[0] == "engine" else WINDOW_MS
            try:
                found[name] = cache.refresh(self.node.queries, now_ms, window_ms)
                await anyio.lowlevel.checkpoint()  # the first look at a long window takes a while: let others run
            except QueryRefused as error:
                found[name] = {}
                self.note_refused(name, error)
            else:
                self.refused.discard(name)
        return found

    def observed(self, now_ms: int) -> Latencies:
        """What each engine's latencies were lately; nothing when the history refuses to say."""
        try:
            found = self.latencies.refresh(self.node.queries, now_ms)
        except QueryRefused as error:
            self.note_refused("latencies", error)
            return {}
        self.refused.discard("latencies")
        return found

    def note_refused(self, name: str, error: QueryRefused) -> None:
        """Said once, until it works again."""
        if name not in self.refused:
            log.warning("chart_query_refused", chart=name, reason=error.reason)
        self.refused.add(name)

    def tiles(self, charts: Charts, frame: Frame, cost: CostPanel) -> list[Cell]:
        """The figures of the whole node; worst engine for latencies."""

        def all_of(kind: str, wanted: Callable[[tuple[str, ...]], bool] = lambda _: True) -> list[float]:
            values = [latest(points, frame) for key, points in charts[kind].items() if wanted(key)]
            return [value for value in values if value is not None and formats.known(value)]

        requests, output = all_of("requests"), all_of("tokens", lambda key: key[1] == "output")
        slowest, first = all_of("duration_p99"), all_of("first_token_p99")
        gpus = self.node.board.gpus.gpus if self.node.board.gpus else ()
        watts = [gpu.power_watts for gpu in gpus if gpu.power_watts is not None]
        busy = [gpu.utilization_ratio for gpu in gpus if gpu.utilization_ratio is not None]
        slow = bool(slowest) and max(slowest) > SLOW_SECONDS
        return [
            Cell("Requests", formats.figure(sum(requests) if requests else None, "/s"), "all engines, last minute"),
            Cell("Latency p99", formats.seconds(max(slowest, default=None)), "slowest engine", "warn" if slow else ""),
            Cell("First token p99", formats.seconds(max(first, default=None)), "slowest engine"),
            Cell("Output tokens", formats.figure(sum(output) if output else None, "/s"), "all engines, last minute"),
            Cell(
                "GPU power",
                formats.figure(sum(watts) if watts else None, "W"),
                f"mean utilisation {formats.percent(sum(busy) / len(busy) if busy else None)}",
            ),
            Cell("Cost per hour", cost.per_hour, cost.per_hour_note or "no price configured"),
        ]


def simulated_notice(node: NodeServices) -> str:
    """What is not real on this page; empty when all of it is."""
    gpus = node.board.gpus.gpus if node.board.gpus else ()
    made_up = sum(gpu.simulated for gpu in gpus)
    if node.simulated or not made_up:
        return node.simulated
    return f"{made_up} of {len(gpus)} GPUs play back a recording; what they cost is not real money."


def cycle_rows(node: NodeServices) -> list[dict[str, str]]:
    """Health of every periodic part, failing ones first."""
    now = node.boot_ns()
    rows = []
    for name, cycle in node.health.cycles.items():
        state = {None: "starting", True: "ok", False: "failing"}[cycle.ok]
        age = None if cycle.last_success_boot_ns is None else (now - cycle.last_success_boot_ns) / NS
        rows.append(
            {
                "name": name,
                "state": state,
                "error": cycle.error,
                "age": formats.ago(age),
                "took": formats.seconds(cycle.last_seconds),
                "every": formats.duration(cycle.interval_seconds or None),
                "runs": formats.figure(cycle.successes),
                "failures": formats.figure(cycle.failures),
                "missed": formats.figure(cycle.missed),
            }
        )
    return sorted(rows, key=lambda row: (row["state"] != "failing", row["name"]))


def _delivery(view: Any, now_ns: int) -> dict[str, str]:
    age = None if view.last_success_at_ns is None else max(0, now_ns - view.last_success_at_ns) / NS
    return {
        "destination": view.destination,
        "state": {None: "idle", True: "ok", False: "failing"}[view.ok],
        "reason": view.reason,
        "pending": formats.figure(view.pending),
        "delivered": formats.figure(view.delivered),
        "rejected": formats.figure(view.rejected),
        "age": formats.ago(age),
    }


def page_router(node: NodeServices) -> APIRouter:
    """``/``, ``/fragment``, ``/static/...``."""
    router = APIRouter(include_in_schema=False)
    page = Page(node)

    @router.get("/", response_class=Response)
    async def whole() -> Response:
        return Response(await page.whole(), headers={"Cache-Control": "no-store"}, media_type=_HTML)

    @router.get("/fragment", response_class=Response)
    async def fragment() -> Response:
        return Response(await page.live(), headers={"Cache-Control": "no-store"}, media_type=_HTML)

    @router.get("/static/{name}", response_class=Response)
    async def static(name: str, request: Request) -> Response:
        return page.static.answer(name, request)

    @router.get("/favicon.ico", response_class=Response)
    async def favicon(request: Request) -> Response:
        return page.static.answer("favicon.svg", request)

    @router.get("/docs", response_class=Response)
    async def docs(request: Request) -> Response:
        groups = operations(request.app.openapi())
        html = page.templates.get_template("docs.html.j2").render(node=node, groups=groups)
        return Response(html, media_type=_HTML)

    return router


def operations(schema: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The OpenAPI document as tag → operations, for the page at ``/docs``."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, methods in schema["paths"].items():
        first = next(iter(methods.values()))  # GET and POST of a path mean the same here
        entry = {
            "methods": [method.upper() for method in methods],
            "path": path,
            "summary": first.get("summary", ""),
            "parameters": first.get("parameters", []),
        }
        groups.setdefault((first.get("tags") or ["Other"])[0], []).append(entry)
    return groups
