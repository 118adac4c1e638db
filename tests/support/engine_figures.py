"""A history of engines that work, as the publisher writes it, for tests of what the API and the page say of them."""

from collections.abc import Mapping, Sequence

from agent.api.adapters import HistoryQueries
from agent.api.services import Answer
from agent.core.metrics.published import gauge, histogram, labelled
from agent.core.metrics.samples import Labels, Sample
from agent.core.metrics.series import History
from agent.core.readings import Histogram
from tests.support.api import NOW_NS, WaveQueries

NOW_MS = NOW_NS // 1_000_000
VLLM_BOUNDS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 30.0)
COARSE_BOUNDS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0)
FIRST_BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0)
PER_TOKEN_BOUNDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
STEP_MS = 5_000
_BOUNDS = {
    "request_duration_seconds": COARSE_BOUNDS,
    "time_to_first_token_seconds": FIRST_BOUNDS,
    "time_per_output_token_seconds": PER_TOKEN_BOUNDS,
    "queue_seconds": COARSE_BOUNDS,
}
SEEN: dict[str, dict[float, float]] = {
    "request_duration_seconds": {0.9: 6, 1.2: 2, 1.9: 0.3},
    "time_to_first_token_seconds": {0.05: 7, 0.15: 1, 0.3: 0.3},
    "time_per_output_token_seconds": {0.008: 7, 0.02: 1.3},
    "queue_seconds": {0.1: 8.3},
}
"""Signal → a value that was observed → how often in each scrape."""


def counted(bounds: Sequence[float], seen: Mapping[float, float], times: float) -> Histogram:
    """What is on the page after so many scrapes."""
    counts = tuple(times * sum(n for value, n in seen.items() if value <= bound) for bound in (*bounds, float("inf")))
    return Histogram(bounds=tuple(bounds), counts=counts, sum=times * sum(v * n for v, n in seen.items()))


def samples(
    engine: str, model: str, times: float, source: str, seen: Mapping[str, Mapping[float, float]] = SEEN
) -> list[Sample]:
    """All series of one engine and model after so many scrapes."""
    labels: Labels = (("node", "n"), ("engine", engine), ("model", model), ("source", source))
    found = [
        *labelled("engineroom_llm_requests_total", {"ok": 8.3 * times, "error": 0.1 * times}, "outcome", labels),
        *labelled("engineroom_llm_tokens_total", {"input": 4000 * times, "output": 1500 * times}, "kind", labels),
        *gauge("engineroom_llm_requests_running", 14.0, labels),
        *gauge("engineroom_llm_model_memory_bytes", 8e9, labels),
        *gauge("engineroom_llm_kv_cache_usage_ratio", 0.62, labels),
    ]
    for signal, observed in seen.items():
        found += histogram(f"engineroom_llm_{signal}", counted(_BOUNDS[signal], observed, times), labels)
    return found


def history(served: Sequence[tuple[str, str]], source: str = "engine", minutes: float = 6) -> History:
    """Engines and their models that were busy for some minutes, up to now."""
    kept = History()
    scrapes = int(minutes * 60_000 / STEP_MS)
    for at in range(scrapes + 1):
        for name in {name for name, _ in served}:
            page = [s for engine, model in served if engine == name for s in samples(engine, model, at, source)]
            kept.append(f"engine {name}", NOW_MS - (scrapes - at) * STEP_MS, page)
    return kept


class BusyQueries(WaveQueries):
    """Charts as waves, instants from a real history."""

    def __init__(self, kept: History, engines: Sequence[str]) -> None:
        super().__init__()
        self.labels["engine"] = [{"engine": name} for name in engines]
        self.labels["kind"] = [{"engine": name, "kind": kind} for name in engines for kind in ("input", "output")]
        self.real = HistoryQueries(kept)

    def instant(self, query: str, at_ms: int) -> Answer:
        return self.real.instant(query, at_ms)
