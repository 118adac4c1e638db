"""Chart data: PromQL over the history, kept between refreshes so that a refresh asks only for what is new."""

from dataclasses import dataclass, field

from agent.api.charts import Frame
from agent.api.services import Queries

STEP_MS = 5_000
WINDOW_MS = 10 * 60_000
LATEST_MS = 3 * STEP_MS  # for the newest value alone
_AGAIN_STEPS = 3  # the newest steps are asked again: a slow scrape may still have added to them
_SPANS_MINUTES = (1, 2, 5, 10)

Series = dict[tuple[str, ...], list[tuple[int, float]]]


@dataclass(slots=True)
class ChartCache:
    """Answers of one fixed query, grouped by the values of `labels`."""

    query: str
    labels: tuple[str, ...]
    series: Series = field(default_factory=dict)
    from_ms: int = 0
    through_ms: int = 0

    def refresh(self, queries: Queries, now_ms: int, window_ms: int = WINDOW_MS) -> Series:
        """Points of the last `window_ms`, on a grid of `STEP_MS`. Raises `QueryRefused`."""
        end = now_ms - now_ms % STEP_MS
        start = end - window_ms
        if end < self.through_ms or start < self.from_ms:  # the wall clock was set back, or more is wanted than before
            self.series, self.through_ms = {}, 0
        if end == self.through_ms:
            return self.series
        ask_from = max(start, self.through_ms - _AGAIN_STEPS * STEP_MS)
        fresh: Series = {}
        for line in queries.range(self.query, ask_from, end, STEP_MS):
            fresh[tuple(line.labels.get(label, "") for label in self.labels)] = line.points
        kept = {
            key: [p for p in self.series.get(key, ()) if start <= p[0] < ask_from] + fresh.get(key, [])
            for key in {**self.series, **fresh}
        }
        self.series = {key: points for key, points in kept.items() if points}
        self.from_ms, self.through_ms = start, end
        return self.series


def frame_for(now_ms: int, uptime_seconds: float) -> Frame:
    """The window to show: the last 10 minutes, or less while the agent is younger than that."""
    minutes = next((m for m in _SPANS_MINUTES if uptime_seconds <= m * 60), _SPANS_MINUTES[-1])
    end = now_ms - now_ms % STEP_MS
    return Frame(end - minutes * 60_000, end, STEP_MS)


def _quantile(quantile: str, histogram: str) -> str:
    return f"histogram_quantile({quantile}, sum by (engine, le) (rate(engineroom_llm_{histogram}_seconds_bucket[1m])))"


QUERIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "utilization": ("engineroom_gpu_utilization_ratio", ("uuid",)),
    "memory": ("engineroom_gpu_memory_used_ratio", ("uuid",)),
    "temperature": ("engineroom_gpu_temperature_celsius", ("uuid",)),
    "power": ("engineroom_gpu_power_watts", ("uuid",)),
    "requests": ("sum by (engine) (rate(engineroom_llm_requests_total[1m]))", ("engine",)),
    "failures": (
        'sum by (engine) (rate(engineroom_llm_requests_total{outcome=~"error|timeout"}[1m]))',
        ("engine",),
    ),
    "duration_p50": (_quantile("0.5", "request_duration"), ("engine",)),
    "duration_p99": (_quantile("0.99", "request_duration"), ("engine",)),
    "first_token_p50": (_quantile("0.5", "time_to_first_token"), ("engine",)),
    "first_token_p99": (_quantile("0.99", "time_to_first_token"), ("engine",)),
    "tokens": ("sum by (engine, kind) (rate(engineroom_llm_tokens_total[1m]))", ("engine", "kind")),
}


def chart_caches() -> dict[str, ChartCache]:
    """One cache for each chart query of the page."""
    return {name: ChartCache(query, labels) for name, (query, labels) in QUERIES.items()}


def latest(points: list[tuple[int, float]] | None, frame: Frame) -> float | None:
    """The newest value, if it is not older than a few steps."""
    if not points or points[-1][0] < frame.end_ms - _AGAIN_STEPS * frame.step_ms:
        return None
    return points[-1][1]
