"""One scrape of vLLM 0.33 with two data-parallel ranks: bytes to canonical reading, ours beside prometheus_client.

The peer is prometheus_client's parser and the plainest reading of the same signals from what it gives. Both must find
the same numbers on every page. Pages are successive scrapes of a busy server, and no page is read twice by one side.
"""

import gc
from collections.abc import Callable
from math import inf
from statistics import median
from time import perf_counter

from prometheus_client.parser import text_string_to_metric_families

from agent.core.metrics.exposition import Exposition
from agent.core.readings import EngineReading, Histogram
from agent.engines.contract import Origin, Page
from agent.engines.registry import classify
from bench.engines_pages import GrowingPage, two_ranks
from bench.figures import Figure

PAGES, THEIR_PAGES = 300, 30
BAR_MILLISECONDS = 3.0
BAR_TIMES = 10
_ORIGIN = Origin(engine="bench", url="http://127.0.0.1:8000", read_at_ns=1)
_GAUGES = {
    "vllm:num_requests_running": "requests_running",
    "vllm:num_requests_waiting": "requests_waiting",
}
_COUNTERS = {
    ("vllm:prompt_tokens_by_source_total", "local_compute"): "input",
    ("vllm:generation_tokens_total", None): "output",
}
_HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": "time_to_first_token_seconds",
    "vllm:e2e_request_latency_seconds": "request_duration_seconds",
    "vllm:request_queue_time_seconds": "queue_seconds",
}


class _Ours:
    """What the agent does with a page of one engine, less fetching it."""

    def __init__(self) -> None:
        self._exposition = Exposition((("instance", "127.0.0.1:8000"), ("job", "vllm")))

    def read(self, page: bytes) -> EngineReading:
        scrape = self._exposition.parse(page)
        engine = classify(scrape)
        assert engine is not None
        (reading,) = engine.read(Page(scrape=scrape, path="/metrics"), _ORIGIN)
        return reading


def _naive(page: bytes) -> dict[str, object]:
    """Sums over the ranks, with as little as it takes."""
    found: dict[str, float] = {}
    buckets: dict[str, dict[float, float]] = {}
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            name = _GAUGES.get(sample.name) or _COUNTERS.get((sample.name, sample.labels.get("source")))
            if name is not None:
                found[name] = found.get(name, 0.0) + sample.value
            elif (name := _HISTOGRAMS.get(family.name)) is not None:
                if sample.name.endswith("_bucket"):
                    of_name = buckets.setdefault(name, {})
                    bound = float(sample.labels["le"])
                    of_name[bound] = of_name.get(bound, 0.0) + sample.value
                elif sample.name.endswith("_sum"):
                    sums[name] = sums.get(name, 0.0) + sample.value
    return {**found, **{name: _histogram(of_name, sums[name]) for name, of_name in buckets.items()}}


def _histogram(buckets: dict[float, float], total: float) -> Histogram:
    pairs = sorted(buckets.items())
    bounds = tuple(bound for bound, _ in pairs if bound != inf)
    return Histogram(bounds=bounds, counts=tuple(count for _, count in pairs), sum=total)


def _same(reading: EngineReading, naive: dict[str, object]) -> bool:
    tokens = reading.tokens_total or {}
    ours = {name: getattr(reading, name) for name in (*_GAUGES.values(), *_HISTOGRAMS.values())}
    return ours | {kind: tokens.get(kind) for kind in _COUNTERS.values()} == naive


def _milliseconds(read: Callable[[bytes], object], pages: list[bytes]) -> list[float]:
    gc.collect()
    found = []
    for page in pages:
        began = perf_counter()
        kept = read(page)
        found.append((perf_counter() - began) * 1e3)
        assert kept is not None
    return found


def run() -> list[Figure]:
    """Medians over pages that no side has seen."""
    server = GrowingPage(two_ranks(), seed=33)
    pages = [server.next() for _ in range(PAGES)]
    checked = _Ours()
    assert all(_same(checked.read(page), _naive(page)) for page in pages[:20]), "the two sides read different numbers"
    ours = _milliseconds(_Ours().read, pages)
    theirs = median(_milliseconds(_naive, pages[:THEIR_PAGES]))
    again = median(ours[1:])
    print(f"# {server.series} series; the first page {ours[0]:.2f} ms; prometheus_client {theirs:.2f} ms", flush=True)
    return [
        Figure(name="engine_scrape_to_reading", value=again, unit="ms", bar=BAR_MILLISECONDS, better="lower"),
        Figure(name="engine_scrape_vs_peer", value=theirs / again, unit="times", bar=BAR_TIMES, better="higher"),
    ]
