"""Engines, their charts and latencies → the cards of the page. Plain values, already in words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from agent.api import formats
from agent.api.charts import Frame, meter
from agent.api.engine_charts import ChartCell, engine_charts
from agent.api.engine_figures import Latencies, Latency
from agent.api.view import Cell, Charts
from agent.core.advising import open_advice
from agent.core.cost.present import PresentSlot
from agent.core.quantiles import quantile
from agent.core.readings import EngineReading, EngineSnapshot, EngineStatus
from agent.engines.registry import BY_KIND

NS = 1_000_000_000
MOST_CARDS = 8  # more engines than this are listed in rows that open
MOST_MODELS = 4
QUANTILES = (0.5, 0.9, 0.99)
LATENCY_NAMES = {
    "request_duration_seconds": "Request",
    "time_to_first_token_seconds": "First token",
    "time_per_output_token_seconds": "Per token",
    "queue_seconds": "In queue",
}
_WORST_FIRST = ("down", "not_ready", "unknown_format", "starting", "seen", "ready")


@dataclass(slots=True)
class QuantileCell:
    """A quantile, and between which bounds it lies."""

    value: str
    between: str = ""
    title: str = ""


@dataclass(slots=True)
class LatencyRow:
    """One latency of one model. `quantiles` are those of `QUANTILES`."""

    label: str
    source: str
    observations: str
    quantiles: list[QuantileCell]


@dataclass(slots=True)
class ModelBlock:
    """One model of an engine: what it does now, and its latencies."""

    name: str
    facts: str
    rows: list[LatencyRow]


@dataclass(slots=True)
class EngineCard:
    """One engine. `state` is a class of the style sheet, `pill` its words; `probes` are live, ready, started."""

    name: str
    kind: str = ""
    served: str = ""
    state: str = "seen"
    pill: str = "seen by the sidecar"
    reason: str = ""
    crash_looping: bool = False
    is_worker: bool = False
    probes: list[tuple[str, bool | None]] = field(default_factory=list)
    traits: list[tuple[str, str]] = field(default_factory=list)
    facts: list[Cell] = field(default_factory=list)
    models: list[ModelBlock] = field(default_factory=list)
    more_models: int = 0
    advice: list[tuple[str, str]] = field(default_factory=list)
    charts: list[ChartCell] = field(default_factory=list)


def engine_cards(
    engines: Mapping[str, EngineSnapshot],
    charts: Charts,
    frame: Frame,
    latencies: Latencies,
    slots: Iterable[PresentSlot],
    now_ns: int,
) -> list[EngineCard]:
    """A card for each engine that is watched or that a sidecar has seen; more than a few come without charts."""
    names = {*engines, *(key[0] for kind in ("requests", "tokens") for key in charts[kind])}
    owned: dict[str, list[PresentSlot]] = {}
    for slot in slots:
        for engine in slot.engines:
            owned.setdefault(engine, []).append(slot)
    observed: dict[str, dict[str, dict[str, Latency]]] = {}
    for (engine, model), found in latencies.items():
        observed.setdefault(engine, {})[model] = found
    cards = []
    for name in sorted(names):
        card = _card(name, engines.get(name), owned.get(name, []), now_ns)
        _figures(card, engines.get(name), observed.get(name, {}))
        if len(names) <= MOST_CARDS and not card.is_worker:
            card.charts = engine_charts(name, charts, frame)
        cards.append(card)
    if len(cards) > MOST_CARDS:
        cards.sort(key=lambda card: (not card.crash_looping, _WORST_FIRST.index(card.state)))
    return cards


def _card(name: str, snapshot: EngineSnapshot | None, slots: Sequence[PresentSlot], now_ns: int) -> EngineCard:
    if snapshot is None:
        return EngineCard(name)
    status = snapshot.status
    known = BY_KIND.get(status.kind or "")
    title = known.title if known else status.kind
    served = list(dict.fromkeys(reading.model for reading in snapshot.readings if reading.model))
    more = len(served) - MOST_MODELS
    pill = status.state.replace("_", " ")
    worker = status.part == "worker"
    if worker:
        pill = "worker" if status.state == "ready" else f"worker, {pill}"
    elif not status.url:
        pill = "out of reach"
    return EngineCard(
        name=name,
        kind=" ".join(part for part in (title, status.version) if part),
        served=", ".join(served[:MOST_MODELS]) + (f" and {more} more" if more > 0 else ""),
        state=status.state,
        pill=pill,
        reason=status.reason,
        crash_looping=status.crash_looping,
        is_worker=worker,
        probes=_probes(status),
        traits=[*_place(status, slots), *_life(status, now_ns)],
    )


def _probes(status: EngineStatus) -> list[tuple[str, bool | None]]:
    probes = [("live", status.live), ("ready", status.ready), ("started", status.started)]
    return probes if any(value is not None for _, value in probes) else []


def _place(status: EngineStatus, slots: Sequence[PresentSlot]) -> list[tuple[str, str]]:
    """Where it runs and what it belongs to."""
    found = []
    gpus = ", ".join(dict.fromkeys(_slot_name(slot) for slot in slots)) or ", ".join(status.gpus)
    if gpus:
        found.append(("GPU", gpus))
    if status.role or status.service:
        text = f"{status.role or 'all of it'} of {status.service}" if status.service else str(status.role)
        found.append(("role", text))
    if status.group:
        rank = f", node {status.node_rank + 1}" if status.node_rank is not None else ""
        of = f" of {status.nodes}" if rank and status.nodes else f", {status.nodes} nodes" if status.nodes else ""
        found.append(("group", f"{status.group}{rank}{of}"))
    work = status.workload
    if work is not None and (work.pod or work.job or work.container):
        found.append(("runs in", f"{work.namespace}/{work.pod}" if work.pod else work.job or work.container))
    return found


def _slot_name(slot: PresentSlot) -> str:
    gpu = slot.gpu[:12] if slot.index is None else str(slot.index)
    part = slot.profile or ("share" if slot.kind == "share" else "")
    return f"{gpu} ({part})" if part else gpu


def _life(status: EngineStatus, now_ns: int) -> list[tuple[str, str]]:
    """How long it has been there, how long it took, how often it began again."""
    found = []
    if status.process_started_at_ns is not None:
        found.append(("up", formats.duration(max(0, now_ns - status.process_started_at_ns) / NS)))
    if status.ready_after_seconds is not None:
        found.append(("ready after", formats.duration(status.ready_after_seconds)))
    if status.restarts:
        found.append(("restarts seen", str(status.restarts)))
    return found


def _advice(status: EngineStatus, observed: Mapping[str, Mapping[str, Latency]]) -> list[tuple[str, str]]:
    """(signals, words), one for each text."""
    has_sidecar = any(latency.source == "sidecar" for latencies in observed.values() for latency in latencies.values())
    found: dict[str, list[str]] = {}
    for signal, text in open_advice(status, has_sidecar=has_sidecar):
        found.setdefault(text, []).append(signal)
    return [(", ".join(dict.fromkeys(signals)), text) for text, signals in found.items()]


def _figures(card: EngineCard, snapshot: EngineSnapshot | None, observed: Mapping[str, Mapping[str, Latency]]) -> None:
    readings = {reading.model: reading for reading in (snapshot.readings if snapshot else ())}
    if snapshot is not None:
        card.advice = _advice(snapshot.status, observed)
    if not card.is_worker:
        card.facts = _facts(list(readings.values()), observed)
    # The busiest models first: an engine may serve hundreds (LoRA adapters), most of them hardly ever.
    names = sorted({*readings, *observed}, key=lambda name: (-_requests(observed.get(name, {})), name))
    card.more_models = max(0, len(names) - MOST_MODELS)
    for name in names[:MOST_MODELS]:
        rows = [_row(signal, latency) for signal, latency in observed.get(name, {}).items() if latency.histogram.count]
        facts = _of_model(readings.get(name), several=len(names) > 1)
        if rows or len(names) > 1 or facts:
            card.models.append(ModelBlock(name, facts, rows))


def _facts(readings: Sequence[EngineReading], observed: Mapping[str, Mapping[str, Latency]]) -> list[Cell]:
    kv = max((r.kv_cache_usage_ratio for r in readings if r.kv_cache_usage_ratio is not None), default=None)
    gauge = Markup() if kv is None else meter(kv, "b", f"KV cache {formats.percent(kv)} full")
    durations = [
        found["request_duration_seconds"] for found in observed.values() if "request_duration_seconds" in found
    ]
    slowest = [(told.value, one) for one in durations if (told := quantile(one.histogram, 0.99)) is not None]
    if kv is None and not slowest and not readings:
        return []
    worst = QuantileCell(formats.ABSENT)
    if slowest:
        worst = _quantile(max(slowest, key=lambda one: one[0])[1], 0.99)
    return [
        Cell("p99", worst.value, worst.title),
        Cell("Running", formats.figure(_sum(r.requests_running for r in readings))),
        Cell("Waiting", formats.figure(_sum(r.requests_waiting for r in readings))),
        Cell("KV cache", formats.percent(kv), chart=gauge),
    ]


def _requests(found: Mapping[str, Latency]) -> float:
    return max((latency.histogram.count for latency in found.values()), default=0.0)


def _of_model(reading: EngineReading | None, *, several: bool) -> str:
    """What a model does now, where that is not said of the whole engine already."""
    if reading is None:
        return ""
    parts = []
    if several and reading.requests_running is not None:
        parts.append(f"{formats.figure(reading.requests_running)} running")
    if several and reading.requests_waiting is not None:
        parts.append(f"{formats.figure(reading.requests_waiting)} waiting")
    if several and reading.kv_cache_usage_ratio is not None:
        parts.append(f"KV cache {formats.percent(reading.kv_cache_usage_ratio)}")
    if reading.model_memory_bytes is not None:
        parts.append(f"{formats.gib(reading.model_memory_bytes)} of GPU memory")
    return " · ".join(parts)


def _row(signal: str, latency: Latency) -> LatencyRow:
    cells = [_quantile(latency, q) for q in QUANTILES]
    return LatencyRow(LATENCY_NAMES[signal], latency.source, formats.figure(round(latency.histogram.count)), cells)


def _quantile(latency: Latency, q: float) -> QuantileCell:
    found = quantile(latency.histogram, q)
    if found is None:
        return QuantileCell(formats.ABSENT, "", "no buckets to tell it from")
    whose = "the engine's own buckets" if latency.source == "engine" else f"buckets of the {latency.source}"
    low, low_unit = _bound(found.lower)
    if found.upper is None:
        return QuantileCell(f">\u202f{low}{low_unit}", "last bound", f"more than {low}{low_unit}, the last of {whose}")
    high, unit = _bound(found.upper)
    between = (
        f"{low}{'' if unit == low_unit else low_unit} – {high}{unit}" if found.lower > 0 else f"up to {high}{unit}"
    )
    return QuantileCell(formats.seconds(found.value), between, f"between {low}{low_unit} and {high}{unit}, by {whose}")


def _bound(value: float) -> tuple[str, str]:
    """A bound as it was chosen: without digits that say nothing."""
    return (f"{value * 1000:g}", "\u202fms") if 0 < value < 1 else (f"{value:g}", "\u202fs")


def _sum(values: Iterable[float | None]) -> float | None:
    reported = [value for value in values if value is not None]
    return sum(reported) if reported else None
