"""Values in, samples out: what all makers of our own metrics share.

The same samples go to /metrics and into the history that the node's rules ask, so both always agree.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from agent.core.metrics.samples import Labels, Sample, SeriesKey
from agent.core.readings import Histogram


@lru_cache(maxsize=16384)
def series_key(name: str, labels: Labels) -> SeriesKey:
    """The same series comes round every second: build and hash its key once."""
    return SeriesKey(name, labels)


def gauge(name: str, value: float | None, labels: Labels) -> Iterator[Sample]:
    """One sample, or none when the value was not reported."""
    if value is not None:
        yield Sample(series_key(name, labels), float(value))


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
