"""A node for tests of the API: canned readings, series, money and rules; a real server around it."""

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
from msgspec.structs import replace

from agent.api.app import build_api
from agent.api.doors import Doors
from agent.api.server import serve
from agent.api.services import AlertView, Answer, DeliveryView, GroupView, Line, NodeServices, QueryRefused, RuleView
from agent.core.board import Board
from agent.core.cost.reports import (
    GpuPrice,
    PricePart,
    Reconciliation,
    Report,
    ReportQuery,
    ReportRow,
    RequestCost,
    SlotReconciliation,
)
from agent.core.gpu_readings import GpuReading, GpuSnapshot
from agent.core.readings import EngineReading, EngineSnapshot, EngineStatus
from agent.core.requests import RecordBatch, RecordReceipt, RefusedEvent
from agent.doors.identity import ALL_SCOPES, Identity
from agent.doors.limits import RateLimiter
from agent.doors.settings import LimitSettings
from agent.doors.tls import ServerTls
from agent.lifecycle import Health

NOW_NS = 1_763_894_400_250_000_000  # 2025-11-23T10:40:00.25Z
NS = 1_000_000_000
ENGINES = ("chat", "127.0.0.1:8001")


def gpu(index: int, **changes: object) -> GpuReading:
    base = GpuReading(
        uuid=f"GPU-5c9f1a2e-{index:04d}",
        index=index,
        model="NVIDIA H100 80GB HBM3",
        read_at_ns=NOW_NS - NS // 2,
        state="ok",
        utilization_ratio=0.87,
        memory_used_bytes=76_000_000_000,
        memory_total_bytes=85_520_809_984,
        temperature_celsius=64.0,
        power_watts=612.3,
        power_limit_watts=700.0,
    )
    return replace(base, **changes)


def gpus(count: int = 8) -> GpuSnapshot:
    readings = [
        gpu(index, utilization_ratio=0.9 - index * 0.1, power_watts=640 - 55.0 * index) for index in range(count)
    ]
    if count > 3:
        readings[1] = gpu(1, temperature_celsius=91.0, throttle_reasons=("hw_thermal_slowdown",))
        readings[2] = gpu(2, memory_used_bytes=84_000_000_000, utilization_ratio=None)
        lost = {"utilization_ratio": None, "memory_used_bytes": None, "memory_total_bytes": None, "power_watts": None}
        readings[3] = gpu(
            3,
            state="lost",
            reason="The driver no longer sees this GPU; the node has to be rebooted.",
            temperature_celsius=None,
            power_limit_watts=None,
            **lost,
        )
    return GpuSnapshot(read_at_ns=NOW_NS - NS // 2, driver="ok", gpus=tuple(readings))


def engine(name: str, **changes: object) -> EngineSnapshot:
    status = EngineStatus(
        engine=name, kind="vllm", url=f"http://{name}", state="ready", version="0.33.0", scraped_at_ns=NOW_NS
    )
    reading = EngineReading(
        engine=name,
        kind="vllm",
        url=f"http://{name}",
        model="Qwen/Qwen3-32B",
        read_at_ns=NOW_NS,
        requests_running=14,
        requests_waiting=2,
        kv_cache_usage_ratio=0.62,
    )
    return EngineSnapshot(status=replace(status, **changes), readings=(reading,) if not changes else ())


class WaveQueries:
    """Answers every chart query with waves for known labels; counts what it was asked."""

    def __init__(self, labels: dict[str, list[dict[str, str]]] | None = None) -> None:
        uuids = [{"uuid": f"GPU-5c9f1a2e-{index:04d}"} for index in range(8) if index != 3]
        engines = [{"engine": name} for name in ENGINES]
        kinds = [{"engine": name, "kind": kind} for name in ENGINES for kind in ("input", "output")]
        self.labels = labels or {"gpu": uuids, "engine": engines, "kind": kinds}
        self.asked: list[tuple[str, int, int]] = []

    def instant(self, query: str, at_ms: int) -> Answer:
        if query == "1+1":
            return Answer("scalar", [Line({}, [(at_ms, 2.0)])])
        if query == '"text"':
            return Answer("string", [], "text")
        if query == "bad{":
            raise QueryRefused("bad{: unexpected end of input; close the braces")
        if query == "many":
            raise QueryRefused("many-to-many matching", "execution")
        values = [math.nan, math.inf, -math.inf, 1e21, 0.1, 3.0]
        return Answer("vector", [Line({"__name__": query, "i": str(i)}, [(at_ms, v)]) for i, v in enumerate(values)])

    def range(self, query: str, start_ms: int, end_ms: int, step_ms: int) -> list[Line]:
        self.asked.append((query, start_ms, end_ms))
        if query == "bad{":
            raise QueryRefused("bad{: unexpected end of input; close the braces")
        kind = "gpu" if "_gpu_" in query else "kind" if "kind" in query else "engine"
        if "error|timeout" in query:
            return []
        base, swing = self._shape(query)
        return [
            Line(labels, [(t, base + swing * _wave(t, index)) for t in range(start_ms, end_ms + 1, step_ms)])
            for index, labels in enumerate(self.labels[kind])
        ]

    def series(self, selector: str | None, start_ms: int, end_ms: int) -> list[dict[str, str]]:
        found = [{"__name__": "up", "node": "a"}, {"__name__": "up", "node": "b"}, {"__name__": "down"}]
        if selector == "bad{":
            raise QueryRefused("bad{: unexpected end of input")
        return found if selector is None else [labels for labels in found if labels["__name__"] == selector]

    def _shape(self, query: str) -> tuple[float, float]:
        shapes = {"utilization": (0.7, 0.25), "memory_used": (0.88, 0.02), "temperature": (66, 6), "power": (560, 90)}
        shapes |= {
            "0.99, sum by (engine, le) (rate(engineroom_llm_req": (1.7, 0.6),
            "0.5, sum by (engine, le) (rate(engineroom_llm_req": (0.8, 0.1),
        }
        shapes |= {"0.99": (0.21, 0.05), "0.5": (0.06, 0.01), "tokens": (900, 300), "requests": (12, 4)}
        return next(shape for part, shape in shapes.items() if part in query)


def _wave(at_ms: int, index: int) -> float:
    t = at_ms / 60_000
    return 0.6 * math.sin(t * 1.3 + index) + 0.4 * math.sin(t * 5.1 + index * 2)


class CannedLedger:
    """A ledger that knows one day."""

    def __init__(self, *, priced: bool = True) -> None:
        self.priced = priced
        self.asked: list[ReportQuery] = []

    async def report(self, query: ReportQuery, /) -> Report:
        self.asked.append(query)
        shares = {
            "request": 41,
            "loaded_idle": 27,
            "unattributed": 8,
            "warmup": 3,
            "unallocated": 16,
            "broken": 4,
            "gap": 1,
        }
        total = 8 * min(query.end_ns - query.start_ns, 38_400 * NS)
        rows = tuple(
            ReportRow(
                start_ns=query.start_ns,
                end_ns=query.end_ns,
                group={dimension: state if dimension == "state" else "=1+1" for dimension in query.aggregate},
                gpu_ns=total * share // 100,
                cost_nano=total * share // 100 * 3 if self.priced else None,
                requests=48_211 if state == "request" else 0,
                input_tokens=9_000_000 if state == "request" else 0,
            )
            for state, share in shares.items()
        )
        cost = sum(row.cost_nano or 0 for row in rows)
        return Report(
            query=query,
            currency="CNY" if self.priced else None,
            rows=rows,
            total_gpu_ns=sum(row.gpu_ns for row in rows),
            total_cost_nano=cost if self.priced else None,
        )

    async def reconcile(self) -> Reconciliation:
        slot = SlotReconciliation(
            gpu="GPU-5c9f1a2e-0000",
            gpu_model="NVIDIA H100 80GB HBM3",
            from_ns=NOW_NS - 10 * NS,
            to_ns=NOW_NS,
            wall_ns=10 * NS,
            parts_ns={"request": 4 * NS, "loaded_idle": 6 * NS},
            bill_nano=30,
            parts_nano={"request": 12, "loaded_idle": 18},
            reconciles=True,
        )
        return Reconciliation(
            node="node-a",
            currency="CNY",
            slots=(slot,),
            bill_nano=30,
            parts_nano={"request": 12, "loaded_idle": 18},
            reconciles=True,
        )

    async def request_cost(self, request_id: str, /) -> RequestCost | None:
        if request_id != "019ab-known":
            return None
        return RequestCost(
            id=request_id,
            engine="chat",
            model="Qwen/Qwen3-32B",
            tenant="acme",
            outcome="ok",
            started_at_ns=NOW_NS - 3 * NS,
            ended_at_ns=NOW_NS,
            gpu_ns=1_500_000_000,
            cost_nano=4_500_000,
            currency="CNY",
            settled=True,
        )


async def accept(batch: RecordBatch, _sender: str, refused: Sequence[RefusedEvent]) -> RecordReceipt:
    through = max((event.sequence for event in batch.events), default=0)
    return RecordReceipt(accepted_through=through, refused=tuple(refused))


def rule_group(*, firing: bool = True) -> GroupView:
    def rule(name: str, *alerts: AlertView, query: str = "up == 0") -> RuleView:
        return RuleView(
            kind="alerting",
            name=name,
            query=query,
            for_seconds=300,
            health="ok",
            evaluated_at_ns=NOW_NS - NS,
            alerts=alerts if firing else (),
        )

    hot = AlertView(
        name="GpuTemperatureHigh",
        state="firing",
        labels={"alertname": "GpuTemperatureHigh", "severity": "critical", "gpu": "1", "uuid": "GPU-5c9f1a2e-0001"},
        annotations={
            "summary": "GPU 1 is at 91 °C, above 85 °C for 5 minutes.",
            "description": "It will lower its clocks, and requests get slower. Look at the fans and the inlet air.",
            "runbook_url": "/docs",
        },
        active_at_ns=NOW_NS - 900 * NS,
        fired_at_ns=NOW_NS - 600 * NS,
        value=91.0,
    )
    full = AlertView(
        name="GpuMemoryFull",
        state="pending",
        labels={"alertname": "GpuMemoryFull", "severity": "warning", "gpu": "2"},
        annotations={"summary": "GPU 2 has 98 % of its memory in use."},
        active_at_ns=NOW_NS - 40 * NS,
        value=0.98,
    )
    quiet = ("LatencyP99High", "TrafficDrop", "ErrorRateHigh", "TimeoutRateHigh", "CostOverBudget")
    recorded = RuleView(kind="recording", name="llm:requests:rate5m", query="sum(rate(x[5m]))", health="ok")
    return GroupView(
        name="node",
        file="alert-rules/node.yaml",
        interval_seconds=5,
        rules=(rule("GpuTemperatureHigh", hot), rule("GpuMemoryFull", full), *(rule(n) for n in quiet), recorded),
        evaluated_at_ns=NOW_NS - NS,
    )


def price() -> GpuPrice:
    return GpuPrice(
        gpu_model="NVIDIA H100 80GB HBM3",
        currency="CNY",
        nano_per_hour=10_800_000_000,
        effective_from="2025-11-01",
        parts=(PricePart(name="rent", nano_per_hour=10_800_000_000),),
    )


def node(**changes: object) -> NodeServices:
    """A busy node with eight GPUs; `changes` replace its services."""
    health = Health()
    health.started_boot_ns = 1
    boot = 3_600 * NS
    for name, seconds in (("gpus", 1.0), ("engine chat", 5.0), ("rules", 5.0), ("settlement", 1.0)):
        cycle = health.cycle(name, seconds, essential=name != "engine chat")
        cycle.ok, cycle.successes, cycle.last_success_boot_ns, cycle.last_seconds = True, 3_600, boot - NS, 0.0042
    broken = health.cycle("engine 127.0.0.1:8001", 5.0)
    broken.ok, broken.failures, broken.error = (
        False,
        12,
        "TryLater: connection refused at http://127.0.0.1:8001/metrics",
    )
    refused = {"state": "down", "reason": "Connection refused at http://127.0.0.1:8001/metrics; is the engine running?"}
    board = Board("node-a", gpus(), {"chat": engine("chat"), ENGINES[1]: engine(ENGINES[1], **refused)})
    values: dict[str, object] = {
        "node": "gpu-node-17",
        "version": "0.1.0",
        "board": board,
        "health": health,
        "queries": WaveQueries(),
        "ledger": CannedLedger(),
        "accept": accept,
        "render_metrics": lambda open_metrics: b"# EOF\n" if open_metrics else b"up 1\n" * 1000,
        "rule_groups": lambda: [rule_group()],
        "prices": lambda: [price()],
        "price_source": "prices in engineroom.yaml",
        "deliveries": lambda: [
            DeliveryView(
                destination="alertmanager",
                ok=True,
                pending=0,
                delivered=214,
                rejected=0,
                last_success_at_ns=NOW_NS - 4 * NS,
            )
        ],
        "unix_ns": lambda: NOW_NS,
        "boot_ns": lambda: boot,
        **changes,
    }
    return NodeServices(**values)  # type: ignore[arg-type]


def open_doors(**changes: object) -> Doors:
    """Everybody may do everything, as often as they like; `changes` replace parts."""
    anonymous = Identity(name="anonymous", kind="anonymous", scopes=ALL_SCOPES)
    values: dict[str, object] = {
        "identify": lambda _authorization, _names: anonymous,
        "limits": LimitSettings(),
        "requests": RateLimiter(1e6, 10**6),
        "failures": RateLimiter(1e6, 10**6),
        **changes,
    }
    return Doors(**values)  # type: ignore[arg-type]


@asynccontextmanager
async def served(
    services: NodeServices, doors: Doors | None = None, tls: ServerTls | None = None
) -> AsyncIterator[str]:
    """The API on a random port of loopback; gives its address. Its doors are open unless told otherwise."""
    doors = doors or open_doors()
    async with served_app(build_api(services, doors), doors, tls) as address:
        yield address


@asynccontextmanager
async def served_app(app: Any, doors: Doors, tls: ServerTls | None = None) -> AsyncIterator[str]:
    """An ASGI application behind the agent's own server, on a random port of loopback; gives its address."""
    found: list[tuple[str, int]] = []
    async with anyio.create_task_group() as group:
        ready = anyio.Event()

        def listening(host: str, port: int) -> None:
            found.append((host, port))
            ready.set()

        async def run() -> None:
            await serve(app, "127.0.0.1", 0, on_listening=listening, limits=doors.limits, tls=tls)

        group.start_soon(run)
        with anyio.fail_after(10):
            await ready.wait()
        yield f"{'https' if tls else 'http'}://{found[0][0]}:{found[0][1]}"
        group.cancel_scope.cancel()
