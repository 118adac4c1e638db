"""The sidecar's own numbers: every record once, exact at the bounds, bounded in models; and as a page."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import catalogue
from agent.core.catalogue import BY_NAME
from agent.core.requests import Outcome, RequestRecord, Usage
from agent.core.traffic import Traffic
from agent.sidecar.records.histograms import (
    DURATION_BOUNDS_SECONDS,
    FIRST_TOKEN_BOUNDS_SECONDS,
    OTHER,
    OUTPUT_TOKEN_BOUNDS_SECONDS,
    QUEUE_BOUNDS_SECONDS,
    Histograms,
)

NS = 1_000_000_000
T0 = 1_795_000_000 * NS
PREFIX = "engineroom_sidecar_"
BOUNDS = {
    "request_duration_seconds": DURATION_BOUNDS_SECONDS,
    "time_to_first_token_seconds": FIRST_TOKEN_BOUNDS_SECONDS,
    "time_per_output_token_seconds": OUTPUT_TOKEN_BOUNDS_SECONDS,
    "queue_seconds": QUEUE_BOUNDS_SECONDS,
}


def record(outcome: Outcome = "ok", *, model: str | None = "m", ns: int = NS, **fields: Any) -> RequestRecord:
    values = {"id": "r", "upstream": "u:1", "path": "/", "started_at_ns": T0, "ended_at_ns": T0 + ns, **fields}
    return RequestRecord(outcome=outcome, model=model, **values)


def value(histograms: Histograms, name: str, **labels: str) -> float | None:
    found = [s.value for s in histograms.samples() if s.key.name == PREFIX + name and dict(s.key.labels) == labels]
    assert len(found) <= 1, "a series comes once"
    return found[0] if found else None


def seen(*records: RequestRecord, **more: int) -> Histograms:
    histograms = Histograms(**more)
    for one in records:
        histograms.observe(one)
    return histograms


@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
def test_bounds_ascend_in_small_steps_and_have_the_two_seconds_of_the_alert(bounds: tuple[float, ...]) -> None:
    assert 2.0 in bounds
    assert list(bounds) == sorted(set(bounds))
    assert all(high / low <= 5 for low, high in itertools.pairwise(bounds))
    assert sum(bound <= 0.1 for bound in bounds) >= 6


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (DURATION_BOUNDS_SECONDS, catalogue.LATENCY_BOUNDS_SECONDS),
        (FIRST_TOKEN_BOUNDS_SECONDS, catalogue.FIRST_TOKEN_BOUNDS_SECONDS),
        (OUTPUT_TOKEN_BOUNDS_SECONDS, catalogue.OUTPUT_TOKEN_BOUNDS_SECONDS),
    ],
)
def test_every_bound_of_the_agent_is_one_of_ours(ours: tuple[float, ...], theirs: tuple[float, ...]) -> None:
    assert set(theirs) <= set(ours)


@given(st.lists(st.integers(-NS, 700 * NS), max_size=30))
def test_every_value_is_counted_once_in_the_bucket_where_it_belongs(durations: list[int]) -> None:
    histograms = seen(*(record(ns=ns) for ns in durations))
    told = [max(0, ns) / NS for ns in durations]
    for bound in DURATION_BOUNDS_SECONDS if durations else ():
        got = value(histograms, "request_duration_seconds_bucket", model="m", outcome="ok", le=repr(bound))
        assert got == sum(seconds <= bound for seconds in told)
    if durations:
        assert value(histograms, "request_duration_seconds_count", model="m", outcome="ok") == len(durations)
        assert value(histograms, "request_duration_seconds_sum", model="m", outcome="ok") == pytest.approx(sum(told))


def test_exactly_two_seconds_are_not_more_than_two_seconds() -> None:
    histograms = seen(record(ns=2 * NS), record(ns=2 * NS + 1))
    assert value(histograms, "request_duration_seconds_bucket", model="m", outcome="ok", le="2.0") == 1
    assert value(histograms, "request_duration_seconds_bucket", model="m", outcome="ok", le="2.5") == 2


STREAM = {"streamed": True, "first_token_at_ns": T0 + NS // 4, "usage": Usage(output_tokens=4)}


@pytest.mark.parametrize("outcome", ["ok", "timeout", "error", "client_abort", "rejected", "lost_record"])
def test_tokens_are_timed_as_the_agent_times_them(outcome: Outcome) -> None:
    one = record(outcome, ns=NS, **STREAM)
    histograms, traffic = seen(record(), one), Traffic()
    traffic.add("e", one)
    counts = traffic.groups["e", "m"]
    for name in ("time_to_first_token_seconds", "time_per_output_token_seconds"):
        theirs = getattr(counts, name).value()
        assert value(histograms, f"{name}_count", model="m") == theirs.count
        assert value(histograms, f"{name}_sum", model="m") == pytest.approx(theirs.sum)


def test_durations_are_told_apart_by_outcome_and_a_lost_one_has_none() -> None:
    histograms = seen(record(), record("rejected", ns=1), record("lost_record"))
    assert value(histograms, "request_duration_seconds_sum", model="m", outcome="ok") == 1
    assert value(histograms, "request_duration_seconds_sum", model="m", outcome="rejected") == 1e-9
    assert value(histograms, "request_duration_seconds_count", model="m", outcome="lost_record") is None
    assert value(histograms, "request_duration_seconds_count", model="m", outcome="error") is None


@pytest.mark.parametrize(("tokens", "streamed"), [(1, True), (0, True), (None, True), (9, False)])
def test_a_rate_of_tokens_needs_two_of_them_in_a_stream(tokens: int | None, streamed: bool) -> None:
    one = record(streamed=streamed, first_token_at_ns=T0, usage=Usage(output_tokens=tokens))
    histograms = seen(one)
    assert value(histograms, "time_per_output_token_seconds_count", model="m") == 0
    assert value(histograms, "time_to_first_token_seconds_count", model="m") == 1


def test_waiting_is_counted_of_whatever_waited() -> None:
    histograms = seen(record(), record("rejected", queued_ns=3 * NS), record(queued_ns=0))
    assert value(histograms, "queue_seconds_count", model="m") == 2
    assert value(histograms, "queue_seconds_sum", model="m") == 3
    assert value(seen(record()), "queue_seconds_count", model="m") is None, "no queue is not a short one"


def test_tokens_add_up_by_kind_and_stay_absent_when_unknown() -> None:
    histograms = seen(
        record(usage=Usage(input_tokens=5, output_tokens=7)),
        record("client_abort", usage=Usage(input_tokens=0, output_tokens=2)),
        record(),
    )
    assert value(histograms, "tokens_total", model="m", kind="input") == 5
    assert value(histograms, "tokens_total", model="m", kind="output") == 9
    assert value(histograms, "tokens_total", model="m", kind="input_cached") is None


def test_models_are_bounded_and_the_rest_is_other_and_counted() -> None:
    histograms = seen(*(record(model=model) for model in ("a", "b", "c", "d", "a", "other", None)), max_models=2)
    models = {dict(s.key.labels).get("model") for s in histograms.samples()} - {None}
    assert models == {"a", "b", OTHER, "unknown"}
    assert histograms.overflow == 2
    counts = [value(histograms, "request_duration_seconds_count", model=m, outcome="ok") for m in sorted(models)]
    assert counts == [2, 1, 3, 1]


def test_a_model_that_never_answered_has_no_series_of_its_own() -> None:
    """Whoever asks for made-up names without end fills nothing."""
    histograms = seen(*(record("rejected", model=f"made-up-{n}") for n in range(100)), record("error", model="m"))
    assert value(histograms, "request_duration_seconds_count", model=OTHER, outcome="rejected") == 100
    assert histograms.overflow == 0
    for outcome in ("ok", "error"):
        histograms.observe(record(outcome, model="m"))
    assert value(histograms, "request_duration_seconds_count", model="m", outcome="error") == 1
    assert value(histograms, "request_duration_seconds_count", model=OTHER, outcome="error") == 1


def test_every_series_is_in_the_catalogue_with_its_labels() -> None:
    histograms = seen(record(queued_ns=1, **STREAM))
    for key, _ in histograms.samples():
        base = key.name
        for suffix in ("_bucket", "_sum", "_count"):
            base = base if base in BY_NAME else base.removesuffix(suffix)
        assert {name for name, _ in key.labels} - {"le"} <= set(BY_NAME[base].labels), key
