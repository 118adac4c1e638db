from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.live import Live
from agent.core.cost.prompts import Prompts
from agent.core.cost.work import Constants, charge, charges, work
from agent.core.requests import Usage

NS = 1_000_000_000
T0 = 1_800_000_000 * NS
SIMPLE = Constants(1000.0, 10.0)


def finished(prompt: int = 100, cached: int = 20, output: int = 11, first_s: float = 1.0, end_s: float = 2.0) -> Live:
    return Live(
        "r",
        "u",
        "e",
        T0,
        ended_ns=T0 + int(end_s * NS),
        outcome="ok",
        first_token_ns=T0 + int(first_s * NS),
        usage=Usage(input_tokens=prompt, input_cached_tokens=cached, output_tokens=output),
    )


@pytest.mark.parametrize(
    ("start_s", "end_s", "expected"),
    [
        (-1.0, 0.0, 0),
        (0.0, 0.5, 50_000),  # half of the 100 tokens that were not cached
        (0.0, 1.0, 100_000),
        (1.0, 2.0, 13_805),  # 11 tokens, which look back at 120 of the prompt and at 5.5 before them on average
        (0.5, 1.5, 50_000 + 7_380),
        (1.5, 2.0, 6_425),
        (2.0, 3.0, 0),
    ],
)
def test_the_prompt_until_the_first_token_then_the_context_of_each_token(start_s: float, end_s: float, expected: int):
    assert charge(finished(), T0 + int(start_s * NS), T0 + int(end_s * NS), SIMPLE) == expected


def test_a_rejected_request_did_nothing():
    live = finished()
    live.outcome = "rejected"
    assert charge(live, T0, T0 + 2 * NS, SIMPLE) == 0


def test_what_is_not_known_is_not_charged():
    live = Live("r", "u", "e", T0)
    assert charge(live, T0, T0 + NS, SIMPLE) == 0
    live.input_estimate = 100
    assert charge(live, T0, T0 + NS, Constants(0.0, 0.0)) == 0


def test_an_estimate_is_bounded_by_the_time_there_was():
    """A prompt of 10,000 tokens, 90 % of them cached, is at its first token before it could have been read whole."""
    live = Live("r", "u", "e", T0, input_estimate=10_000, points=[(T0 + NS, 50)], first_token_ns=T0 + NS // 1000)
    assert charge(live, T0, T0 + NS // 1000, Constants(1000.0, 0.0)) == 1_000_000  # not 10,000,000


def test_what_a_tenant_sent_before_is_expected_again():
    prompts = Prompts()
    for _ in range(100):
        live = finished(prompt=10, cached=90)
        live.input_estimate = 100
        prompts.learn(live)
    live = Live("r", "u", "e", T0, input_estimate=1000, first_token_ns=T0 + NS, points=[(T0 + 2 * NS, 10)])
    alone = charge(live, T0, T0 + NS, Constants(1000.0, 0.0))
    taught = charge(live, T0, T0 + NS, Constants(1000.0, 0.0, prompts=prompts))
    assert (alone, taught) == (1_000_000, 100_000)


def test_many_at_once_are_the_same():
    lives = [finished(), finished(prompt=5), Live("x", "u", "e", T0)]
    assert charges(lives, T0, T0 + NS, SIMPLE) == [charge(live, T0, T0 + NS, SIMPLE) for live in lives]


instants = st.integers(0, 20 * NS)


@given(
    st.integers(0, 20_000),
    st.integers(0, 20_000),
    st.integers(0, 3000),
    st.lists(instants, min_size=2, max_size=2).map(sorted),
    st.lists(st.tuples(instants, st.integers(1, 3000)), max_size=8),
    st.lists(instants, max_size=12),
)
def test_the_ticks_sum_to_the_whole_wherever_they_are_cut(prompt, cached, output, bounds, points, cuts):
    first, end = bounds
    live = finished(prompt, cached, output, first / NS, end / NS)
    inside = sorted({at for at, _ in points if first < at < end})
    counts = sorted(min(n, output) for _, n in points)[: len(inside)]
    live.points = [(T0 + at, n) for at, n in zip(inside, counts, strict=False) if n]
    edges = sorted({T0, *(T0 + cut for cut in cuts), T0 + 20 * NS + 1})
    parts = [work(live, a, b, SIMPLE) for a, b in pairwise(edges)]
    assert all(part.prefill >= 0 and part.context >= 0 for part in parts)
    if first:
        assert sum(part.prefill for part in parts) == pytest.approx(prompt, rel=1e-6, abs=1e-6)
    if output > 1 and end > first:
        whole = output * (prompt + cached) + output * output / 2
        assert sum(part.context for part in parts) == pytest.approx(whole, rel=1e-6, abs=1)
