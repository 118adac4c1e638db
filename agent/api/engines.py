"""``/api/v1/engines``: how every engine is, what each of its models did in a window, and what it does not tell."""

from collections.abc import Iterable, Mapping
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from agent.api.engine_figures import WINDOW_SECONDS, Counted, Figures, Latency, Served, read_figures
from agent.api.problems import Problem
from agent.api.services import NodeServices, QueryRefused
from agent.api.slots import WorkloadView
from agent.api.times import parse_duration, rfc3339
from agent.core.cost.present import PresentSlot
from agent.core.quantiles import mean, quantile
from agent.core.readings import EngineReading, EngineSnapshot, EngineStatus

LEAST_SECONDS, MOST_SECONDS = 10.0, 86_400.0
UNWATCHED = "A sidecar sees its requests, and nobody watches it: name it under engines.targets."
_NONE = Counted("", {})


class EnginesParameters(BaseModel):
    """Query parameters."""

    model_config = ConfigDict(extra="forbid")

    window: str = Field(
        "5m", description="Time that quantiles and rates cover, back from now: 10s to 1d, e.g. 30s, 5m or 1h."
    )


class QuantileView(BaseModel):
    """A quantile, and the bounds of the histogram between which the true one lies."""

    value: float = Field(description="Seconds, interpolated; the largest bound where `upper` is null.")
    lower: float = Field(description="It is more than this.")
    upper: float | None = Field(description="It is not more than this; null: above the histogram's largest bound.")


class LatencyView(BaseModel):
    """What was observed of a latency within the window."""

    source: str = Field(description="Who measured it: sidecar or engine.")
    observations: float = Field(description="How many, extrapolated to the whole window.")
    mean_seconds: float | None = Field(description="Null where the source tells no sum.")
    p50: QuantileView | None = Field(description="Null where the source has no buckets.")
    p90: QuantileView | None
    p99: QuantileView | None


class ModelView(BaseModel):
    """One served model. What nobody reports is null."""

    model: str
    role: str | None = Field(description="prefill or decode, of an engine that does only that.")
    model_memory_bytes: float | None
    requests_running: float | None
    requests_waiting: float | None
    kv_cache_usage_ratio: float | None
    preemptions_total: float | None
    requests_total: dict[str, float] | None = Field(description="Outcome → requests since the source began to count.")
    tokens_total: dict[str, float] | None = Field(description="Kind (input, input_cached, output) → tokens.")
    requests_per_second: dict[str, float] | None = Field(description="Outcome → mean over the window.")
    tokens_per_second: dict[str, float] | None = Field(description="Kind → mean over the window.")
    request_duration_seconds: LatencyView | None
    time_to_first_token_seconds: LatencyView | None
    time_per_output_token_seconds: LatencyView | None
    queue_seconds: LatencyView | None
    sources: dict[str, str] = Field(description="Signal → who tells it: sidecar or engine.")


class EngineSlotView(BaseModel):
    """A slot that the engine works on."""

    gpu: str
    index: int | None
    slot: str
    kind: str
    profile: str
    state: str


class AdviceView(BaseModel):
    """Something the engine does not tell."""

    signal: str
    text: str = Field(description="The flag, mount or right that would give it, or who else can.")


class EngineView(BaseModel):
    """One engine: its health, where it runs, and its models."""

    engine: str
    kind: str | None = Field(description="vllm, sglang, ...; null until a page could be read.")
    url: str = Field(description="Empty for a worker, which answers nobody.")
    state: str | None = Field(description="starting, ready, not_ready, down, unknown_format; null: nobody watches it.")
    reason: str
    version: str | None
    live: bool | None = Field(description="Whether its process answers; null: it does not say.")
    ready: bool | None = Field(description="Whether it would serve a request now.")
    started: bool | None = Field(description="Whether it has been ready since its process began.")
    scraped_at: str | None = Field(description="Last success, RFC 3339.")
    scrape_seconds: float | None
    process_started_at: str | None
    ready_after_seconds: float | None = Field(description="How long it took to become ready.")
    restarts: int = Field(description="Seen by this agent.")
    crash_looping: bool
    found_by: str | None = Field(description="config, process or kubernetes.")
    workload: WorkloadView | None = Field(description="The pod, container or job that it runs in.")
    part: str = Field(description="server, or worker: it works for a server, perhaps on another node.")
    group: str = Field(description="The same on every node of an engine that runs over several.")
    nodes: int | None
    node_rank: int | None
    role: str | None
    service: str = Field(description="One name for engines that do parts of one service's work.")
    pids: list[int]
    gpus: list[str] = Field(description="As configured; empty: found through its processes.")
    slots: list[EngineSlotView]
    models: list[ModelView]
    advice: list[AdviceView]


def engines_router(node: NodeServices) -> APIRouter:
    """The path ``/api/v1/engines``."""
    router = APIRouter(tags=["Engines"])

    @router.get("/api/v1/engines", summary="Engines: health, figures of each model with their resolution and source.")
    async def engines(parameters: Annotated[EnginesParameters, Query()]) -> list[EngineView]:
        seconds = _window(parameters.window)
        try:
            figures = read_figures(node.queries, node.unix_ns() // 1_000_000, seconds)
        except QueryRefused as error:
            raise Problem(503, "Not available now", f"The history cannot be asked: {error.reason}.") from error
        return engine_views(node.board.engines, figures, node.slots())

    return router


def _window(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise Problem(400, "Invalid request", f"window: {error}.", f"Write for example {WINDOW_SECONDS:g}s.") from error
    if not LEAST_SECONDS <= seconds <= MOST_SECONDS:
        detail = f"window: {text!r} is outside of {LEAST_SECONDS:g}s to {MOST_SECONDS:g}s."
        raise Problem(400, "Invalid request", detail, "Rates need some scrapes; what is kept is at most a day.")
    return seconds


def engine_views(
    engines: Mapping[str, EngineSnapshot], figures: Figures, slots: Iterable[PresentSlot]
) -> list[EngineView]:
    """All engines that are watched or that a sidecar sees, by name."""
    models: dict[str, list[str]] = {name: [r.model for r in snapshot.readings] for name, snapshot in engines.items()}
    for engine, model in figures.served():
        models.setdefault(engine, []).append(model)
    owned: dict[str, list[PresentSlot]] = {}
    for slot in slots:
        for engine in slot.engines:
            owned.setdefault(engine, []).append(slot)
    return [
        _engine(name, engines.get(name), dict.fromkeys(models[name]), figures, owned.get(name, []))
        for name in sorted(models)
    ]


def _engine(
    name: str, snapshot: EngineSnapshot | None, models: Iterable[str], figures: Figures, slots: list[PresentSlot]
) -> EngineView:
    unknown = EngineStatus(engine=name, kind=None, url="", state="starting", reason=UNWATCHED)
    status = snapshot.status if snapshot else unknown
    readings = {reading.model: reading for reading in (snapshot.readings if snapshot else ())}
    work = status.workload
    return EngineView(
        engine=name,
        kind=status.kind,
        url=status.url,
        state=status.state if snapshot else None,
        reason=status.reason,
        version=status.version,
        live=status.live,
        ready=status.ready,
        started=status.started,
        scraped_at=_instant(status.scraped_at_ns),
        scrape_seconds=status.scrape_seconds,
        process_started_at=_instant(status.process_started_at_ns),
        ready_after_seconds=status.ready_after_seconds,
        restarts=status.restarts,
        crash_looping=status.crash_looping,
        found_by=status.found_by if snapshot else None,
        workload=work and WorkloadView(namespace=work.namespace, pod=work.pod, container=work.container, job=work.job),
        part=status.part,
        group=status.group,
        nodes=status.nodes,
        node_rank=status.node_rank,
        role=status.role,
        service=status.service,
        pids=list(status.pids),
        gpus=list(status.gpus),
        slots=[_slot(slot) for slot in slots],
        models=[_model((name, model), readings.get(model), figures) for model in models],
        advice=[AdviceView(signal=one.signal, text=one.text) for one in status.advice],
    )


def _slot(slot: PresentSlot) -> EngineSlotView:
    return EngineSlotView(
        gpu=slot.gpu, index=slot.index, slot=slot.slot, kind=slot.kind, profile=slot.profile, state=slot.state
    )


def _model(served: Served, reading: EngineReading | None, figures: Figures) -> ModelView:
    gauges = figures.gauges.get(served, {})
    totals, rates = figures.totals.get(served, {}), figures.rates.get(served, {})
    latencies = figures.latencies.get(served, {})
    requests, tokens = rates.get("requests_total", _NONE), rates.get("tokens_total", _NONE)
    sources = {signal: of.source for part in (gauges, totals, latencies) for signal, of in part.items()}
    return ModelView(
        model=served[1],
        role=reading.role if reading else None,
        model_memory_bytes=_value(gauges, "model_memory_bytes"),
        requests_running=_value(gauges, "requests_running"),
        requests_waiting=_value(gauges, "requests_waiting"),
        kv_cache_usage_ratio=_value(gauges, "kv_cache_usage_ratio"),
        preemptions_total=_value(gauges, "preemptions_total"),
        requests_total=totals.get("requests_total", _NONE).values or None,
        tokens_total=totals.get("tokens_total", _NONE).values or None,
        requests_per_second=requests.values or None,
        tokens_per_second=tokens.values or None,
        request_duration_seconds=_latency(latencies.get("request_duration_seconds")),
        time_to_first_token_seconds=_latency(latencies.get("time_to_first_token_seconds")),
        time_per_output_token_seconds=_latency(latencies.get("time_per_output_token_seconds")),
        queue_seconds=_latency(latencies.get("queue_seconds")),
        sources=sources,
    )


def _value(gauges: Mapping[str, Counted], signal: str) -> float | None:
    return gauges[signal].values.get("") if signal in gauges else None


def _latency(found: Latency | None) -> LatencyView | None:
    if found is None:
        return None
    return LatencyView(
        source=found.source,
        observations=found.histogram.count,
        mean_seconds=mean(found.histogram),
        p50=_quantile(found, 0.5),
        p90=_quantile(found, 0.9),
        p99=_quantile(found, 0.99),
    )


def _quantile(found: Latency, q: float) -> QuantileView | None:
    told = quantile(found.histogram, q)
    return None if told is None else QuantileView(value=told.value, lower=told.lower, upper=told.upper)


def _instant(at_ns: int | None) -> str | None:
    return None if at_ns is None else rfc3339(at_ns)
