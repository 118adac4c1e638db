"""Readings in, samples out: our own metrics under the names of the catalogue.

The same samples go to /metrics and into the history that the node's rules ask, so both always agree.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from agent.core.metrics.samples import Labels, Sample, SeriesKey
from agent.core.readings import EngineReading, EngineSnapshot, EngineStatus, Histogram
from agent.core.traffic import Traffic

ENGINE_GAUGES = ("requests_running", "requests_waiting", "kv_cache_usage_ratio", "preemptions_total")
TRAFFIC_HISTOGRAMS = ("request_duration_seconds", "time_to_first_token_seconds", "time_per_output_token_seconds")


@lru_cache(maxsize=16384)
def series_key(name: str, labels: Labels) -> SeriesKey:
    """The same series comes round every second: build and hash its key once."""
    return SeriesKey(name, labels)


def gauge(name: str, value: float | None, labels: Labels) -> Iterator[Sample]:
    """One sample, or none when the value was not reported."""
    if value is not None:
        yield Sample(series_key(name, labels), float(value))


def engine_samples(node: str, snapshot: EngineSnapshot, traffic: Traffic) -> Iterator[Sample]:
    """Canonical series of one engine: from the sidecar where it saw this engine's requests, else from the engine."""
    yield from _status(node, snapshot.status)
    seen_by_sidecar = traffic.has(snapshot.status.engine)
    for reading in snapshot.readings:
        labels = (("node", node), ("engine", reading.engine), ("model", reading.model), ("source", "engine"))
        for field in ENGINE_GAUGES:
            yield from gauge(f"engineroom_llm_{field}", getattr(reading, field), labels)
        yield from histogram("engineroom_llm_queue_seconds", reading.queue_seconds, labels)
        if not seen_by_sidecar:
            yield from _engine_counts(reading, labels)


def _status(node: str, status: EngineStatus) -> Iterator[Sample]:
    labels = (("node", node), ("engine", status.engine), ("kind", status.kind or ""))
    up = status.state in ("ready", "not_ready")
    yield Sample(series_key("engineroom_llm_up", labels), 1.0 if up else 0.0)
    yield Sample(series_key("engineroom_llm_ready", labels), 1.0 if status.state == "ready" else 0.0)
    scrape_labels = (("node", node), ("engine", status.engine))
    yield from gauge("engineroom_engine_scrape_seconds", status.scrape_seconds, scrape_labels)


def _engine_counts(reading: EngineReading, labels: Labels) -> Iterator[Sample]:
    for outcome, total in (reading.requests_total or {}).items():
        yield from gauge("engineroom_llm_requests_total", total, (*labels, ("outcome", outcome)))
    for kind, total in (reading.tokens_total or {}).items():
        yield from gauge("engineroom_llm_tokens_total", total, (*labels, ("kind", kind)))
    for field in TRAFFIC_HISTOGRAMS:
        yield from histogram(f"engineroom_llm_{field}", getattr(reading, field), labels)


def traffic_samples(node: str, traffic: Traffic) -> Iterator[Sample]:
    """Canonical series of every engine whose requests came through a sidecar."""
    for (engine, model), counts in traffic.groups.items():
        labels = (("node", node), ("engine", engine), ("model", model), ("source", "sidecar"))
        for outcome, total in counts.outcomes.items():
            yield from gauge("engineroom_llm_requests_total", total, (*labels, ("outcome", outcome)))
        for kind, total in counts.tokens.items():
            yield from gauge("engineroom_llm_tokens_total", total, (*labels, ("kind", kind)))
        for field in TRAFFIC_HISTOGRAMS:
            yield from histogram(f"engineroom_llm_{field}", getattr(counts, field).value(), labels)
    yield Sample(series_key("engineroom_series_overflow_total", (("node", node),)), float(traffic.overflow))


def histogram(name: str, value: Histogram | None, labels: Labels) -> Iterator[Sample]:
    """The series of a classic histogram; `le` is written as Prometheus 3 normalises it."""
    if value is None:
        return
    for bound, count in zip((*value.bounds, float("inf")), value.counts, strict=True):
        yield Sample(series_key(f"{name}_bucket", (*labels, ("le", format_bound(bound)))), count)
    if value.sum is not None:
        yield Sample(series_key(f"{name}_sum", labels), value.sum)
    yield Sample(series_key(f"{name}_count", labels), value.count)


def format_bound(bound: float) -> str:
    """`le` label of a bound: ``+Inf``, or the shortest decimal with a fraction, as Prometheus 3 stores it."""
    return "+Inf" if bound == float("inf") else repr(float(bound))


def labelled(name: str, values: Mapping[str, float], label: str, labels: Labels) -> Iterator[Sample]:
    """One sample for each entry of `values`, under `label`."""
    for key, value in values.items():
        yield Sample(series_key(name, (*labels, (label, key))), float(value))


def collect(*parts: Iterable[Sample]) -> list[Sample]:
    """All parts in one list."""
    return [sample for part in parts for sample in part]
