"""A page and its readings in, signs that the engine was started anew between two scrapes out."""

from collections.abc import Iterable

from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading

START_SERIES = "process_start_time_seconds"  # of every prometheus_client that serves one process, and of Go's
_LATEST = 4e9  # Unix seconds: beyond it, it is no time


class Totals:
    """Remembers the counters of one engine from scrape to scrape. A series that is gone or new says nothing."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str, str], float] = {}
        self._models: frozenset[str] | None = None

    def forget(self) -> None:
        """What was counted before says nothing of what will come: it is another engine, or may be."""
        self._last, self._models = {}, None

    def models_changed(self, readings: Iterable[EngineReading]) -> bool:
        """Whether other models are served than at the scrape before."""
        before, self._models = self._models, frozenset(reading.model for reading in readings)
        return before is not None and before != self._models

    def fell(self, readings: Iterable[EngineReading]) -> bool | None:
        """Whether a total is smaller than it was; None when there are no totals."""
        before, self._last = self._last, _totals(readings)
        if not self._last:
            return None
        return any(total < before.get(series, total) for series, total in self._last.items())


def process_start_ns(scrape: Scrape) -> int | None:
    """Unix ns: when the process that made the page says that it was started; None where it does not say."""
    found = [sample.value for sample in scrape.named(START_SERIES) if 0 < sample.value < _LATEST]
    return int(found[0] * 1e9) if len(found) == 1 else None


def _totals(readings: Iterable[EngineReading]) -> dict[tuple[str, str, str], float]:
    found = {}
    for reading in readings:
        for signal, totals in (("tokens", reading.tokens_total), ("requests", reading.requests_total)):
            for kind, total in (totals or {}).items():
                found[reading.model, signal, kind] = total
    return found
