"""Request records in, counts and latency histograms for each engine and model out."""

from bisect import bisect_left
from collections.abc import Iterable
from typing import get_args

from agent.core.catalogue import FIRST_TOKEN_BOUNDS_SECONDS, LATENCY_BOUNDS_SECONDS, OUTPUT_TOKEN_BOUNDS_SECONDS
from agent.core.readings import Histogram
from agent.core.requests import Outcome, RequestRecord

OTHER = "other"
UNKNOWN_MODEL = "unknown"
NS = 1e9


class Observations:
    """A histogram that is being filled."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count one value; a value equal to a bound belongs to that bound's bucket (``le``)."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def value(self) -> Histogram:
        """What was counted so far, cumulative as Prometheus wants it."""
        total = 0
        counts = []
        for count in self._counts:
            total += count
            counts.append(float(total))
        return Histogram(bounds=self._bounds, counts=tuple(counts), sum=self._sum)


class Counts:
    """Everything counted for one (engine, model)."""

    __slots__ = (
        "outcomes",
        "request_duration_seconds",
        "time_per_output_token_seconds",
        "time_to_first_token_seconds",
        "tokens",
    )

    def __init__(self) -> None:
        # An outcome that never happened is 0 here, not absent: we did watch, and a ratio needs the zero.
        self.outcomes = dict.fromkeys(get_args(Outcome), 0)
        self.tokens: dict[str, int] = {}
        self.request_duration_seconds = Observations(LATENCY_BOUNDS_SECONDS)
        self.time_to_first_token_seconds = Observations(FIRST_TOKEN_BOUNDS_SECONDS)
        self.time_per_output_token_seconds = Observations(OUTPUT_TOKEN_BOUNDS_SECONDS)


class Traffic:
    """Totals since the agent started, bounded to `max_groups` (engine, model) pairs.

    Model names come from clients, so a hostile client could invent them without end: what passes the cap is counted
    under the model `other`, and `overflow` says how often.
    """

    def __init__(self, max_groups: int = 200) -> None:
        self.groups: dict[tuple[str, str], Counts] = {}
        self.overflow = 0
        self._max_groups = max_groups

    def has(self, engine: str) -> bool:
        """True once a request to this engine came through a sidecar."""
        return any(name == engine for name, _ in self.groups)

    def add_all(self, engine: str, records: Iterable[RequestRecord]) -> None:
        """Count finished requests of one engine."""
        for record in records:
            self.add(engine, record)

    def add(self, engine: str, record: RequestRecord) -> None:
        """Count one finished request. Latency is counted for requests that the engine served to their end only."""
        counts = self._counts(engine, record.model or UNKNOWN_MODEL)
        counts.outcomes[record.outcome] += 1
        _add_tokens(counts.tokens, record)
        if record.outcome not in ("ok", "timeout"):
            return  # a refusal in a millisecond or a client's early leave would flatter the quantiles
        counts.request_duration_seconds.add((record.ended_at_ns - record.started_at_ns) / NS)
        if record.first_token_at_ns is None:
            return
        counts.time_to_first_token_seconds.add((record.first_token_at_ns - record.started_at_ns) / NS)
        output = record.usage.output_tokens
        if record.streamed and output is not None and output > 1:
            streamed_ns = record.ended_at_ns - record.first_token_at_ns
            counts.time_per_output_token_seconds.add(streamed_ns / NS / (output - 1))

    def _counts(self, engine: str, model: str) -> Counts:
        key = (engine, model)
        found = self.groups.get(key)
        if found is None:
            if len(self.groups) >= self._max_groups:
                self.overflow += 1
                key = (engine, OTHER)
            found = self.groups.setdefault(key, Counts())
        return found


def _add_tokens(tokens: dict[str, int], record: RequestRecord) -> None:
    usage = record.usage
    for kind, count in (
        ("input", usage.input_tokens),
        ("input_cached", usage.input_cached_tokens),
        ("output", usage.output_tokens),
    ):
        if count is not None:
            tokens[kind] = tokens.get(kind, 0) + count
