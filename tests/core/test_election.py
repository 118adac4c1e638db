"""Each signal of an engine from exactly one source, by the rule that the signal has."""

from itertools import chain, combinations
from typing import get_args

import pytest

from agent.core.election import RULES, SIDECAR_SIGNALS, Source, elect, election, signals_in
from agent.core.readings import EngineReading

READING = EngineReading(
    engine="e", kind="k", url="u", model="m", read_at_ns=1, requests_running=0.0, tokens_total={"output": 1.0}
)
SOURCES: tuple[Source, ...] = get_args(Source)
SUBSETS = list(chain.from_iterable(combinations(SOURCES, size) for size in range(4)))


@pytest.mark.parametrize(
    ("signal", "order"),
    [
        ("requests_total", ["sidecar", "engine", "log"]),
        ("tokens_total", ["sidecar", "engine", "log"]),
        ("request_duration_seconds", ["sidecar", "engine", "log"]),
        ("time_to_first_token_seconds", ["sidecar", "engine", "log"]),
        ("time_per_output_token_seconds", ["sidecar", "engine", "log"]),
        ("requests_running", ["engine", "sidecar", "log"]),
        ("requests_waiting", ["engine", "sidecar", "log"]),
        ("queue_seconds", ["engine", "sidecar", "log"]),
        ("kv_cache_usage_ratio", ["engine", "sidecar", "log"]),
        ("preemptions_total", ["engine", "sidecar", "log"]),
        ("model_memory_bytes", ["engine", "sidecar", "log"]),
    ],
)
def test_rule_of_each_signal(signal: str, order: list[Source]) -> None:
    left = set(SOURCES)
    for source in order:
        assert elect(signal, left) == source
        left.discard(source)
    assert elect(signal, left) is None


def test_every_signal_of_a_reading_has_a_rule() -> None:
    identity = {"engine", "kind", "url", "model", "read_at_ns", "role"}
    assert set(RULES) == set(EngineReading.__struct_fields__) - identity


@pytest.mark.parametrize("signal", RULES)
@pytest.mark.parametrize("has", SUBSETS)
def test_one_of_those_that_have_it(signal: str, has: tuple[Source, ...]) -> None:
    elected = election({source: {signal} for source in has})
    assert set(elected) == ({signal} if has else set())
    assert set(elected.values()) <= set(has)


def test_no_signal_has_no_rule() -> None:
    with pytest.raises(KeyError):
        elect("colour", {"engine"})


def test_a_signal_at_zero_is_told_and_an_absent_one_is_not() -> None:
    assert signals_in([READING]) == {"requests_running", "tokens_total"}
    assert signals_in([]) == frozenset()


def test_each_signal_for_itself() -> None:
    told = {"sidecar": SIDECAR_SIGNALS, "engine": signals_in([READING]), "log": {"queue_seconds", "tokens_total"}}
    elected = election(told)  # type: ignore[arg-type]
    assert elected["tokens_total"] == "sidecar"
    assert elected["requests_running"] == "engine"
    assert elected["queue_seconds"] == "log"
    assert "kv_cache_usage_ratio" not in elected
