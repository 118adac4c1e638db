"""Engines' snapshots and sidecars' counts in, samples out: the canonical signals, each from its one elected source."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from agent.core.election import SIDECAR_SIGNALS, Source, election, signals_in
from agent.core.metrics.published import gauge, histogram, series_key
from agent.core.metrics.samples import Labels, Sample
from agent.core.readings import EngineReading, EngineSnapshot, EngineStatus
from agent.core.traffic import Counts, Traffic

GAUGES = (
    "requests_running",
    "requests_waiting",
    "kv_cache_usage_ratio",
    "preemptions_total",
    "model_memory_bytes",
)
TRAFFIC_HISTOGRAMS = ("request_duration_seconds", "time_to_first_token_seconds", "time_per_output_token_seconds")
HISTOGRAMS = (*TRAFFIC_HISTOGRAMS, "queue_seconds")

InFlight = Callable[[], Mapping[tuple[str, str], int]]
"""(engine, model) -> requests that sidecars have under way there now; what is not named has none."""


def nothing_in_flight() -> Mapping[tuple[str, str], int]:
    """Where no sidecar tells."""
    return {}


def no_logs(_engine: str) -> tuple[EngineReading, ...]:
    """Where no logs of engines are read."""
    return ()


@dataclass(slots=True)
class EngineSampler:
    """Makes the series of engines. `from_logs` gives what the logs of an engine told, as readings."""

    node: str
    traffic: Traffic
    in_flight: InFlight = nothing_in_flight
    from_logs: Callable[[str], Iterable[EngineReading]] = no_logs

    def samples(self, snapshot: EngineSnapshot) -> Iterator[Sample]:
        """Health of one engine, and the signals for which it, or its logs, was elected."""
        status = snapshot.status
        yield from _status(self.node, status)
        yield from _info(self.node, snapshot)
        logs = tuple(self.from_logs(status.engine))
        elected = self._elected(status.engine, snapshot.readings, logs, self.in_flight())
        for source, readings in (("engine", snapshot.readings), ("log", logs)):
            for reading in readings:
                yield from _signals(self.node, reading, source, elected)

    def sidecar_samples(self, engines: Mapping[str, EngineSnapshot]) -> Iterator[Sample]:
        """The signals for which the sidecar was elected, of every engine it saw; `engines` are those we read."""
        in_flight = self.in_flight()
        elections: dict[str, dict[str, Source]] = {}
        for engine, model in dict.fromkeys((*self.traffic.groups, *in_flight)):
            if engine not in elections:
                readings = engines[engine].readings if engine in engines else ()
                elections[engine] = self._elected(engine, readings, self.from_logs(engine), in_flight)
            elected = {signal for signal, source in elections[engine].items() if source == "sidecar"}
            labels = (("node", self.node), ("engine", engine), ("model", model), ("source", "sidecar"))
            if "requests_running" in elected:
                yield from gauge("engineroom_llm_requests_running", in_flight.get((engine, model), 0), labels)
            counts = self.traffic.groups.get((engine, model))
            if counts is not None:
                yield from _counts(counts, elected, labels)
        yield from gauge("engineroom_series_overflow_total", self.traffic.overflow, (("node", self.node),))

    def _elected(
        self,
        engine: str,
        readings: Iterable[EngineReading],
        logs: Iterable[EngineReading],
        in_flight: Mapping[tuple[str, str], int],
    ) -> dict[str, Source]:
        measured = SIDECAR_SIGNALS if self.traffic.has(engine) else frozenset[str]()
        if measured or any(name == engine for name, _ in in_flight):
            measured |= {"requests_running"}
        return election({"sidecar": measured, "engine": signals_in(readings), "log": signals_in(logs)})


def _status(node: str, status: EngineStatus) -> Iterator[Sample]:
    base: Labels = (("node", node), ("engine", status.engine))
    labels = (*base, ("kind", status.kind or ""))
    if status.url or status.state != "unknown_format":  # of a server that is out of reach nobody knows
        if status.live or status.state != "starting":  # one that loads its model is not up, and not down either
            up = status.state in ("ready", "not_ready", "starting")
            yield Sample(series_key("engineroom_llm_up", labels), float(up))
        yield Sample(series_key("engineroom_llm_ready", labels), float(status.state == "ready"))
    yield from gauge("engineroom_llm_live", status.live, labels)
    yield from gauge("engineroom_llm_started", status.started, labels)
    yield from gauge("engineroom_llm_ready_after_seconds", status.ready_after_seconds, labels)
    yield from gauge("engineroom_engine_restarts_total", status.restarts, base)
    yield from gauge("engineroom_engine_crash_looping", status.crash_looping, base)
    yield from gauge("engineroom_engine_scrape_seconds", status.scrape_seconds, base)


def _info(node: str, snapshot: EngineSnapshot) -> Iterator[Sample]:
    """One series for each served model; one without a model where none is known."""
    status = snapshot.status
    models = [(reading.model, reading.role or status.role) for reading in snapshot.readings]
    for model, role in models or [("", status.role)]:
        labels = (
            ("node", node),
            ("engine", status.engine),
            ("kind", status.kind or ""),
            ("version", status.version or ""),
            ("model", model),
            ("role", role or ""),
            ("group", status.group),
            ("part", status.part),
            ("service", status.service),
        )
        yield from gauge("engineroom_llm_info", 1, labels)


def _signals(node: str, reading: EngineReading, source: str, elected: Mapping[str, Source]) -> Iterator[Sample]:
    labels = (("node", node), ("engine", reading.engine), ("model", reading.model), ("source", source))
    for field in GAUGES:
        if elected.get(field) == source:
            yield from gauge(f"engineroom_llm_{field}", getattr(reading, field), labels)
    for field, label in (("requests_total", "outcome"), ("tokens_total", "kind")):
        if elected.get(field) == source:
            for key, total in (getattr(reading, field) or {}).items():
                yield from gauge(f"engineroom_llm_{field}", total, (*labels, (label, key)))
    for field in HISTOGRAMS:
        if elected.get(field) == source:
            yield from histogram(f"engineroom_llm_{field}", getattr(reading, field), labels)


def _counts(counts: Counts, elected: set[str], labels: Labels) -> Iterator[Sample]:
    for field, totals, label in (
        ("requests_total", counts.outcomes, "outcome"),
        ("tokens_total", counts.tokens, "kind"),
    ):
        if field in elected:
            for key, total in totals.items():
                yield from gauge(f"engineroom_llm_{field}", total, (*labels, (label, key)))
    for field in TRAFFIC_HISTOGRAMS:
        if field in elected:
            yield from histogram(f"engineroom_llm_{field}", getattr(counts, field).value(), labels)
