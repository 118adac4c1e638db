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


def test_old_progress_is_forgotten_and_what_is_asked_stays() -> None:
    live = Live("r", "u", "e", 0, first_token_ns=5)
    live.points = [(10 * i, i * i) for i in range(1, 500)]
    whole = {at: live.tokens_at(at) for at in range(4000, 4990, 7)}
    live.forget_points(4000, 64)
    assert live.points[:3] == [(10, 1), (20, 4), (3990, 399 * 399)]
    assert {at: live.tokens_at(at) for at in whole} == whole
    kept = list(live.points)
    live.forget_points(4100, 64)  # too few to be worth it
    assert live.points == kept
    short = Live("s", "u", "e", 0, points=[(1, 1)])
    short.forget_points(9, 0)
    assert short.points == [(1, 1)]
