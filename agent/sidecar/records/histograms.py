"""Finished requests in, the sidecar's own latency histograms and token counts out, for each model.

Kept as plain integers: whole nanoseconds, so that a value equal to a bound is in that bound's bucket. Nothing is
computed before somebody asks.
"""

from bisect import bisect_left
from collections.abc import Iterator

from agent.core.metrics.published import histogram, labelled, series_key
from agent.core.metrics.samples import Labels, Sample
from agent.core.readings import Histogram
from agent.core.requests import RequestRecord

NS = 1_000_000_000
OTHER = "other"
UNKNOWN_MODEL = "unknown"
MAX_MODELS = 32
_SERVED = frozenset(("ok", "timeout"))  # as agent/core/traffic.py has it

# All of the agent's bounds (agent/core/catalogue.py), so that both can be compared at the same `le`, and between them
# those of the OpenTelemetry GenAI conventions where these are finer. 2.0 is a bound: the latency alert asks for it.
DURATION_BOUNDS_SECONDS = (
    0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 5.0,
    7.5, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip
FIRST_TOKEN_BOUNDS_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5,
    3.0, 5.0, 7.5, 10.0, 20.0, 60.0,
)  # fmt: skip
OUTPUT_TOKEN_BOUNDS_SECONDS = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
    1.0, 2.0, 2.5,
)  # fmt: skip
QUEUE_BOUNDS_SECONDS = (
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip


def _ns(bounds: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(round(bound * NS) for bound in bounds)


_DURATION, _FIRST_TOKEN = _ns(DURATION_BOUNDS_SECONDS), _ns(FIRST_TOKEN_BOUNDS_SECONDS)
_OUTPUT_TOKEN, _QUEUE = _ns(OUTPUT_TOKEN_BOUNDS_SECONDS), _ns(QUEUE_BOUNDS_SECONDS)

Counts = list[int]
"""One entry for each bucket, the one without a bound too; then the sum of the values in ns."""


class _Model:
    """What is counted of one model."""

    __slots__ = ("durations", "first_token", "input", "input_cached", "output", "output_token", "queue")

    def __init__(self) -> None:
        self.durations: dict[str, Counts] = {}  # by outcome
        self.first_token = _empty(_FIRST_TOKEN)
        self.output_token = _empty(_OUTPUT_TOKEN)
        self.queue: Counts | None = None  # None: no request of it was ever held back
        self.input: int | None = None  # None: no engine told, which is not 0
        self.input_cached: int | None = None
        self.output: int | None = None


def _empty(bounds: tuple[int, ...]) -> Counts:
    return [0] * (len(bounds) + 2)


class Histograms:
    """Totals since this process started. Model names come from clients, so they are bounded to `max_models`.

    A name is taken up when a request for it succeeds: whoever asks for made-up models is counted under `other`. So is
    what comes when the bound is reached, and `overflow` says how often.
    """

    def __init__(self, max_models: int = MAX_MODELS) -> None:
        self.overflow = 0
        self._max_models = max_models
        self._models: dict[str | None, _Model] = {}

    def observe(self, record: RequestRecord) -> None:
        """Count one finished request."""
        outcome = record.outcome
        model = self._models.get(record.model)
        if model is None:
            model = self._model(record.model, outcome)
        usage = record.usage
        output = usage.output_tokens
        if output is not None:
            model.output = (model.output or 0) + output
        if usage.input_tokens is not None:
            model.input = (model.input or 0) + usage.input_tokens
        if usage.input_cached_tokens is not None:
            model.input_cached = (model.input_cached or 0) + usage.input_cached_tokens
        if record.queued_ns is not None:
            if model.queue is None:
                model.queue = _empty(_QUEUE)
            _add(model.queue, _QUEUE, record.queued_ns)
        if outcome == "lost_record":
            return  # nobody knows how long it took
        start, end = record.started_at_ns, record.ended_at_ns
        counts = model.durations.get(outcome)
        if counts is None:
            counts = model.durations[outcome] = _empty(_DURATION)
        _add(counts, _DURATION, end - start)
        first = record.first_token_at_ns
        if first is None or outcome not in _SERVED:
            return
        _add(model.first_token, _FIRST_TOKEN, first - start)
        if output is not None and output > 1 and record.streamed:
            _add(model.output_token, _OUTPUT_TOKEN, (end - first) // (output - 1))

    def _model(self, name: str | None, outcome: str) -> _Model:
        if name not in (None, OTHER) and (outcome != "ok" or len(self._models) >= self._max_models):
            self.overflow += outcome == "ok"
            name = OTHER
        found = self._models.get(name)
        if found is None:
            found = self._models[name] = _Model()
        return found

    def samples(self) -> Iterator[Sample]:
        """Everything counted, under the names of the catalogue."""
        for name, model in self._models.items():
            labels: Labels = (("model", UNKNOWN_MODEL if name is None else name),)
            for outcome, counts in model.durations.items():
                own = (*labels, ("outcome", outcome))
                yield from _histogram("request_duration_seconds", DURATION_BOUNDS_SECONDS, counts, own)
            yield from _histogram("time_to_first_token_seconds", FIRST_TOKEN_BOUNDS_SECONDS, model.first_token, labels)
            yield from _histogram(
                "time_per_output_token_seconds", OUTPUT_TOKEN_BOUNDS_SECONDS, model.output_token, labels
            )
            if model.queue is not None:
                yield from _histogram("queue_seconds", QUEUE_BOUNDS_SECONDS, model.queue, labels)
            kinds = {"input": model.input, "input_cached": model.input_cached, "output": model.output}
            told = {kind: count for kind, count in kinds.items() if count is not None}
            yield from labelled("engineroom_sidecar_tokens_total", told, "kind", labels)
        yield Sample(series_key("engineroom_series_overflow_total", ()), float(self.overflow))


def _add(counts: Counts, bounds: tuple[int, ...], value: int) -> None:
    if value < 0:  # a clock was set back
        value = 0
    counts[bisect_left(bounds, value)] += 1
    counts[-1] += value


def _histogram(name: str, bounds: tuple[float, ...], counts: Counts, labels: Labels) -> Iterator[Sample]:
    total = 0
    cumulative = []
    for count in counts[:-1]:
        total += count
        cumulative.append(float(total))
    value = Histogram(bounds=bounds, counts=tuple(cumulative), sum=counts[-1] / NS)
    return histogram(f"engineroom_sidecar_{name}", value, labels)
