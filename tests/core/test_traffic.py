import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.requests import Outcome, RequestRecord, Usage
from agent.core.traffic import OTHER, Observations, Traffic

S = 1_000_000_000


def record(outcome: Outcome = "ok", *, model: str | None = "m", seconds: float = 1.0, **more: object) -> RequestRecord:
    values: dict[str, object] = {
        "id": "r",
        "upstream": "127.0.0.1:8000",
        "path": "/v1/completions",
        "started_at_ns": 0,
        "ended_at_ns": int(seconds * S),
        "outcome": outcome,
        "model": model,
        **more,
    }
    return RequestRecord(**values)


@given(st.lists(st.floats(0, 1e6), max_size=50))
def test_a_histogram_counts_every_value_once_and_cumulatively(values: list[float]) -> None:
    bounds = (0.5, 1.0, 2.0)
    seen = Observations(bounds)
    for value in values:
        seen.add(value)
    got = seen.value()
    assert got.counts == tuple([float(sum(v <= bound for v in values)) for bound in bounds] + [float(len(values))])
    assert got.sum == pytest.approx(sum(values))


def test_outcomes_that_did_not_happen_are_zero_because_we_watched() -> None:
    traffic = Traffic()
    traffic.add("e", record())
    others = dict.fromkeys(("error", "timeout", "client_abort", "rejected", "lost_record"), 0)
    assert traffic.groups["e", "m"].outcomes == {"ok": 1, **others}


@pytest.mark.parametrize(
    ("outcome", "counted"),
    [("ok", 1), ("timeout", 1), ("error", 0), ("client_abort", 0), ("rejected", 0), ("lost_record", 0)],
)
def test_only_served_and_timed_out_requests_count_for_latency(outcome: Outcome, counted: int) -> None:
    traffic = Traffic()
    traffic.add("e", record(outcome))
    assert traffic.groups["e", "m"].request_duration_seconds.value().count == counted


def test_tokens_add_up_by_kind_and_stay_absent_when_unknown() -> None:
    traffic = Traffic()
    traffic.add("e", record(usage=Usage(input_tokens=5, output_tokens=7)))
    traffic.add("e", record(usage=Usage(input_tokens=1, output_tokens=2)))
    traffic.add("e", record())
    assert traffic.groups["e", "m"].tokens == {"input": 6, "output": 9}


def test_time_per_output_token_is_the_mean_gap_after_the_first() -> None:
    traffic = Traffic()
    streamed = record(seconds=3, streamed=True, first_token_at_ns=1 * S, usage=Usage(output_tokens=5))
    traffic.add("e", streamed)
    counts = traffic.groups["e", "m"]
    assert counts.time_per_output_token_seconds.value().sum == pytest.approx(0.5)
    assert counts.time_to_first_token_seconds.value().sum == pytest.approx(1)


def test_made_up_model_names_end_in_other_and_are_counted() -> None:
    traffic = Traffic(max_groups=2)
    for model in ("a", "b", "c", "d", "a"):
        traffic.add("e", record(model=model))
    assert set(traffic.groups) == {("e", "a"), ("e", "b"), ("e", OTHER)}
    assert traffic.overflow == 2
    assert sum(counts.outcomes["ok"] for counts in traffic.groups.values()) == 5
