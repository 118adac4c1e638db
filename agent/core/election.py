"""Which source tells a signal of an engine: what each of them has in, one source for each signal out (decision 10).

Sums then never count a request twice, and histograms of different bounds never mix.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from agent.core.readings import EngineReading

Source = Literal["sidecar", "engine", "log"]

# The sidecar measures what clients got, with one set of bounds for every engine. What came past it is missing there:
# that part of the time is booked as `unattributed`.
MEASURED_OUTSIDE: tuple[Source, ...] = ("sidecar", "engine", "log")
# Only the engine sees its queue and its cache; what the sidecar has in flight stands for what the engine works on.
KNOWN_INSIDE: tuple[Source, ...] = ("engine", "sidecar", "log")

RULES: Mapping[str, tuple[Source, ...]] = {
    "requests_total": MEASURED_OUTSIDE,
    "tokens_total": MEASURED_OUTSIDE,
    "request_duration_seconds": MEASURED_OUTSIDE,
    "time_to_first_token_seconds": MEASURED_OUTSIDE,
    "time_per_output_token_seconds": MEASURED_OUTSIDE,
    "requests_running": KNOWN_INSIDE,
    "requests_waiting": KNOWN_INSIDE,
    "queue_seconds": KNOWN_INSIDE,
    "kv_cache_usage_ratio": KNOWN_INSIDE,
    "preemptions_total": KNOWN_INSIDE,
    "model_memory_bytes": KNOWN_INSIDE,
}
"""Signal (a field of `EngineReading`) -> the sources that may tell it, best first."""

SIDECAR_SIGNALS = frozenset(signal for signal, order in RULES.items() if order is MEASURED_OUTSIDE)
"""What a sidecar tells of an engine as soon as it saw one request to it end."""


def elect(signal: str, has: Collection[Source]) -> Source | None:
    """The one source of `signal`, of those that have it; None when nobody has. Raises KeyError for no signal."""
    return next((source for source in RULES[signal] if source in has), None)


def signals_in(readings: Iterable[EngineReading]) -> frozenset[str]:
    """The signals that at least one of the readings has."""
    return frozenset(signal for reading in readings for signal in RULES if getattr(reading, signal) is not None)


def election(told: Mapping[Source, Collection[str]]) -> dict[str, Source]:
    """Signal -> its source, from the signals that each source has. What nobody has is left out."""
    found: dict[str, Source] = {}
    for signal in RULES:
        source = elect(signal, [source for source, signals in told.items() if signal in signals])
        if source is not None:
            found[signal] = source
    return found
