"""PromQL over the history → what each engine did in a window: latencies with their buckets, rates, gauges, sources.

The series are those of the rules and of /metrics, so a quantile here is the quantile that an alert speaks of. One
source at a time feeds each of them; where that changed within the window, the one that feeds now is shown.
"""

from collections.abc import Iterator
from math import isfinite
from typing import NamedTuple

from agent.api.history_view import STEP_MS
from agent.api.services import Line, Queries
from agent.core.quantiles import from_buckets
from agent.core.readings import Histogram

LATENCIES = (
    "request_duration_seconds",
    "time_to_first_token_seconds",
    "time_per_output_token_seconds",
    "queue_seconds",
)
GAUGES = (
    "requests_running",
    "requests_waiting",
    "kv_cache_usage_ratio",
    "preemptions_total",
    "model_memory_bytes",
)
WINDOW_SECONDS = 300.0  # as the shipped latency rule's
_PREFIX = "engineroom_llm_"
_BY = "engine, model, source"

Served = tuple[str, str]
"""An engine and one model that it serves."""


class Latency(NamedTuple):
    """What one source observed of a latency within the window."""

    source: str
    histogram: Histogram


class Counted(NamedTuple):
    """Values by outcome or kind of tokens, from one source."""

    source: str
    values: dict[str, float]


Latencies = dict[Served, dict[str, Latency]]


class Figures(NamedTuple):
    """All that is asked for the API. Inner keys are fields of `EngineReading`."""

    latencies: Latencies
    totals: dict[Served, dict[str, Counted]]  # requests_total, tokens_total
    rates: dict[Served, dict[str, Counted]]  # the same, per second
    gauges: dict[Served, dict[str, Counted]]  # one value, under ''

    def served(self) -> list[Served]:
        """Every engine and model with a figure, in order."""
        return sorted({key for part in self for key in part})


def read_latencies(queries: Queries, at_ms: int, window_seconds: float = WINDOW_SECONDS, *, sums: bool) -> Latencies:
    """Histograms of what was observed in the window. Without `sums` they have none (no mean), which is cheaper.

    Raises `QueryRefused`.
    """
    span = f"[{round(window_seconds * 1000)}ms]"
    found: Latencies = {}
    for signal in LATENCIES:
        name = _PREFIX + signal
        totals = _by_source(queries, f"sum by ({_BY}) (increase({name}_sum{span}))", at_ms) if sums else {}
        buckets = _by_source(queries, f"sum by ({_BY}, le) (increase({name}_bucket{span}))", at_ms, "le")
        for served, sources in _elected(queries, buckets, f"{name}_count", at_ms):
            source, counts = sources
            total = totals.get(served, {}).get(source, {}).get("")
            histogram = from_buckets(((float(le), count) for le, count in counts.items()), total)
            if histogram is not None:
                found.setdefault(served, {})[signal] = Latency(source, histogram)
    return found


def read_figures(queries: Queries, at_ms: int, window_seconds: float) -> Figures:
    """Everything of the window. Raises `QueryRefused`."""
    span = f"[{round(window_seconds * 1000)}ms]"
    totals: dict[Served, dict[str, Counted]] = {}
    rates: dict[Served, dict[str, Counted]] = {}
    gauges: dict[Served, dict[str, Counted]] = {}
    for field, label in (("requests_total", "outcome"), ("tokens_total", "kind")):
        name = _PREFIX + field
        for query, into in ((name, totals), (f"rate({name}{span})", rates)):
            values = _by_source(queries, f"sum by ({_BY}, {label}) ({query})", at_ms, label)
            for served, (source, counts) in _elected(queries, values, name, at_ms):
                into.setdefault(served, {})[field] = Counted(source, counts)
    for field in GAUGES:
        name = _PREFIX + field
        values = _by_source(queries, f"sum by ({_BY}) ({name})", at_ms)
        for served, (source, counts) in _elected(queries, values, name, at_ms):
            gauges.setdefault(served, {})[field] = Counted(source, counts)
    return Figures(read_latencies(queries, at_ms, window_seconds, sums=True), totals, rates, gauges)


class LatencyCache:
    """The latencies of the page: asked again only when the charts have a new step."""

    def __init__(self) -> None:
        self._found: Latencies = {}
        self._at_ms: int | None = None

    def refresh(self, queries: Queries, now_ms: int) -> Latencies:
        """Those of the last `WINDOW_SECONDS`. Raises `QueryRefused`."""
        at_ms = now_ms - now_ms % STEP_MS
        if at_ms != self._at_ms:
            self._found = read_latencies(queries, at_ms, sums=False)
            self._at_ms = at_ms
        return self._found


_BySource = dict[Served, dict[str, dict[str, float]]]


def _by_source(queries: Queries, query: str, at_ms: int, label: str = "") -> _BySource:
    """Engine and model → source → value of `label` → value."""
    found: _BySource = {}
    for line in queries.instant(query, at_ms).lines:
        value = line.points[-1][1]
        if not line.labels.get("engine") or not isfinite(value):
            continue
        sources = found.setdefault(_served(line), {})
        sources.setdefault(line.labels.get("source", ""), {})[line.labels.get(label, "")] = value
    return found


def _elected(
    queries: Queries, found: _BySource, current: str, at_ms: int
) -> Iterator[tuple[Served, tuple[str, dict[str, float]]]]:
    """Of each engine and model one source: the one whose series `current` has not ended."""
    now: set[tuple[Served, str]] | None = None
    for served, sources in found.items():
        if len(sources) > 1:
            if now is None:
                lines = queries.instant(f"group by ({_BY}) ({current})", at_ms).lines
                now = {(_served(line), line.labels.get("source", "")) for line in lines}
            sources = {name: of for name, of in sources.items() if (served, name) in now} or sources
        yield served, max(sources.items(), key=_observed)


def _observed(source: tuple[str, dict[str, float]]) -> tuple[float, str]:
    """More observations first; the name decides between equal ones, so that the choice is always the same."""
    name, counts = source
    return max(counts.values(), default=0.0), name


def _served(line: Line) -> Served:
    return line.labels.get("engine", ""), line.labels.get("model", "")
