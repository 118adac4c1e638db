"""Scrapes in, windows of series out: a short, bounded history of everything this node measures.

One block for each source: rows are scrapes, columns are series, and the time stamps are shared. Two NaNs have a meaning
of their own: Prometheus' stale marker (the series ended here) and a hole (no sample in this scrape).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agent.core.metrics.block import HOLE_BITS, STALE_BITS, Block
from agent.core.metrics.matchers import Matcher
from agent.core.metrics.samples import Labels, Sample

Floats = NDArray[np.float64]
Instants = NDArray[np.int64]

_SWEEPS_PER_RETENTION = 8


@dataclass(frozen=True, slots=True, eq=False)
class SeriesWindow:
    """Samples of one series, ascending. `labels` are sorted and include `__name__`; `times` are Unix milliseconds.

    A stale marker is the NaN with Prometheus' bits: `is_stale(values)` finds them.
    """

    labels: Labels
    times: Instants
    values: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Several series with shared time stamps: `values[row, column]` at `times[row]` of the series `labels[column]`.

    Holes and stale markers are NaNs with their own bits; `present(values)` is False for both.
    """

    labels: list[Labels]
    times: Instants
    values: Floats


@dataclass(frozen=True, slots=True)
class HistoryStats:
    """How much is remembered now, and what was refused since the start.

    `dropped_series` counts refused offers of a series (one per scrape in which it was refused). Reasons of
    `dropped_samples`: out_of_order, duplicate, full (no room for a new series), shortened (no room for the whole
    retention: the oldest samples went early).
    """

    series: int
    samples: int
    bytes: int
    dropped_series: int
    dropped_samples: dict[str, int] = field(default_factory=dict)
    oldest_ms: int | None = None


def is_stale(values: Floats) -> NDArray[np.bool_]:
    """Where the values are Prometheus' stale marker."""
    return np.equal(values.view(np.int64), STALE_BITS)


def present(values: Floats) -> NDArray[np.bool_]:
    """Where the values are samples: neither stale markers nor holes. A sample may be an ordinary NaN."""
    bits = values.view(np.int64)
    return np.not_equal(bits, STALE_BITS) & np.not_equal(bits, HOLE_BITS)


class History:
    """Bounded memory of recent scrapes, asked by PromQL.

    Bounded by time (`retention_seconds`) and by `max_bytes`: a series that would not fit is refused and counted, never
    at the cost of what is already remembered. The same series from two sources is returned twice by `select`, and the
    query engine reports it as an error.
    """

    def __init__(self, *, retention_seconds: float = 1800, max_bytes: int = 64 * 2**20) -> None:
        self._retention_ms = int(retention_seconds * 1000)
        self._max_bytes = max_bytes
        self._blocks: dict[str, Block] = {}
        self._dropped_series = 0
        self._dropped_samples: dict[str, int] = {}
        self._newest_ms = 0
        self._next_sweep_ms = 0

    def append(self, source: str, at_ms: int, samples: Iterable[Sample]) -> None:
        """One whole scrape. A series of the scrape before that is not in this one ends here (stale marker).

        `at_ms` has to grow for each source; a scrape that does not is refused and counted.
        """
        batch = samples if isinstance(samples, list) else list(samples)
        block = self._blocks.get(source)
        if block is not None and block.rows and at_ms <= block.newest_ms:
            self._drop("out_of_order", len(batch))
            return
        self._newest_ms = max(self._newest_ms, at_ms)
        if self._newest_ms >= self._next_sweep_ms:
            self._sweep()
        if block is None:
            block = Block(self._retention_ms)
        self._blocks[source] = block  # again, because the sweep forgets a source without rows
        block.room = self._max_bytes - sum(other.bytes for other in self._blocks.values() if other is not block)
        refused, duplicates = block.append(at_ms, batch)
        self._dropped_series += refused
        self._drop("full", refused)
        self._drop("duplicate", duplicates)
        self._drop("shortened", block.take_shortened())

    def drop(self, source: str) -> None:
        """Forget everything of a source at once; a source that is not known is no error."""
        self._blocks.pop(source, None)

    def mark_stale(self, source: str, at_ms: int) -> None:
        """The target is gone or its scrape failed: all its series end at `at_ms`."""
        if source in self._blocks:
            self.append(source, at_ms, [])

    def select(self, matchers: Sequence[Matcher], start_ms: int, end_ms: int) -> list[SeriesWindow]:
        """Samples with `start_ms < t <= end_ms` of every series that satisfies all matchers, stale markers included.

        A series without any sample in the window is left out.
        """
        found = []
        for windows in self.windows(matchers, start_ms, end_ms):
            holes = windows.values.view(np.int64) == HOLE_BITS
            for column, labels in enumerate(windows.labels):
                keep = ~holes[:, column]
                if keep.any():
                    found.append(SeriesWindow(labels, windows.times[keep], windows.values[keep, column]))
        return found

    def windows(self, matchers: Sequence[Matcher], start_ms: int, end_ms: int) -> list[Windows]:
        """What `select` answers, series that share their time stamps together, with holes left in: the fast way."""
        wanted = tuple(matchers)
        start_ms = max(start_ms, self._newest_ms - self._retention_ms - 1)
        found = []
        for block in self._blocks.values():
            columns, labels = block.find(wanted)
            if not labels:
                continue
            times, values = block.read(columns, start_ms, end_ms)
            if len(times):
                found.append(Windows(labels, times, values))
        return found

    @property
    def stats(self) -> HistoryStats:
        """Counts for our own metrics. `bytes` is what the arrays hold plus an estimate for keys and indexes."""
        oldest = [block.oldest_ms for block in self._blocks.values() if block.rows]
        return HistoryStats(
            series=sum(block.series for block in self._blocks.values()),
            samples=sum(block.samples for block in self._blocks.values()),
            bytes=sum(block.bytes for block in self._blocks.values()),
            dropped_series=self._dropped_series,
            dropped_samples=dict(self._dropped_samples),
            oldest_ms=min(oldest, default=None),
        )

    def _drop(self, reason: str, count: int) -> None:
        if count:
            self._dropped_samples[reason] = self._dropped_samples.get(reason, 0) + count

    def _sweep(self) -> None:
        """Forget what left the retention, also of sources that no longer report."""
        self._next_sweep_ms = self._newest_ms + max(1, self._retention_ms // _SWEEPS_PER_RETENTION)
        for source, block in list(self._blocks.items()):
            block.forget_before(self._newest_ms - self._retention_ms)
            if not block.rows:
                del self._blocks[source]
