import pytest

from agent.core.cost.live import Live
from agent.core.requests import Usage


@pytest.mark.parametrize(
    ("at", "tokens"), [(0, 0), (100, 0), (200, 0), (250, 5), (300, 10), (350, 55), (400, 100), (999, 100)]
)
def test_tokens_between_events_are_on_a_line(at: int, tokens: int) -> None:
    live = Live("r", "u", "e", 100, ended_ns=400, first_token_ns=200, usage=Usage(output_tokens=100))
    live.points = [(300, 10)]
    assert live.tokens_at(at) == tokens


def test_an_open_request_has_what_was_told() -> None:
    live = Live("r", "u", "e", 100)
    assert live.is_silent(101)
    assert not live.is_silent(100)
    assert live.tokens_at(500) == 0
    live.points = [(300, 10)]
    assert not live.is_silent(301)
    assert (live.tokens_at(200), live.tokens_at(500)) == (5, 10)


def test_overlap() -> None:
    live = Live("r", "u", "e", 100, ended_ns=200, outcome="ok")
    assert live.overlap(0, 150) == (100, 150)
    assert live.overlap(150, 900) == (150, 200)
    assert live.overlap(200, 300) is None
    live.outcome = "rejected"
    assert live.overlap(0, 900) is None


def test_a_cost_is_unknown_until_a_priced_gpu_is_booked() -> None:
    live = Live("r", "u", "e", 100)
    assert live.cost_nano is None
    live.currency, live.nano = "CNY", 7
    assert live.cost_nano == 7
    live.unpriced = True
    assert live.cost_nano is None
