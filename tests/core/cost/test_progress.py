import pytest

from agent.core.cost.live import Live
from agent.core.cost.progress import first_token_ns, output_at, prompt_tokens
from agent.core.requests import Usage


@pytest.mark.parametrize(
    ("usage", "estimate", "expected"),
    [
        (Usage(), None, (0, 0)),
        (Usage(), 50, (50, 50)),
        (Usage(input_tokens=0), 50, (0, 0)),
        (Usage(input_tokens=10, input_cached_tokens=30), 50, (10, 40)),
        (Usage(input_cached_tokens=30), 50, (20, 50)),
        (Usage(input_cached_tokens=80), 50, (0, 80)),
    ],
)
def test_tokens_of_the_prompt(usage: Usage, estimate: int | None, expected: tuple[int, int]) -> None:
    assert prompt_tokens(Live("r", "u", "e", 0, usage=usage, input_estimate=estimate)) == expected


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"first_token_ns": 250}, 250),
        ({}, 140),  # the earliest
        ({"ended_ns": 120}, 120),  # an answer in one piece
        ({"points": [(400, 20), (500, 40)]}, 300),  # 20 tokens in 100 ns
        ({"points": [(400, 20), (500, 21)]}, 100),  # never before it began
        ({"points": [(400, 20), (500, 20)]}, 140),
        ({"points": [(400, 20)]}, 140),
        ({"points": [(110, 20)]}, 110),
        ({"points": [(400, 20)], "ended_ns": 500, "usage": Usage(output_tokens=60)}, 350),
    ],
)
def test_the_first_token(told: dict[str, object], expected: int) -> None:
    live = Live("r", "u", "e", 100, **told)  # type: ignore[arg-type]
    assert first_token_ns(live, 40) == expected


@pytest.mark.parametrize(
    ("at", "tokens"), [(150, 0), (200, 0), (225, 3.25), (250, 5.5), (300, 10), (350, 55), (400, 100), (999, 100)]
)
def test_output_of_a_finished_request(at: int, tokens: float) -> None:
    live = Live("r", "u", "e", 100, ended_ns=400, usage=Usage(output_tokens=100), points=[(300, 10)])
    assert output_at(live, at, 200) == pytest.approx(tokens)


def test_output_of_an_open_request_ends_with_the_last_word() -> None:
    live = Live("r", "u", "e", 100, points=[(300, 11), (400, 31)])
    assert [output_at(live, at, 200) for at in (200, 300, 350, 400, 900)] == [0, 11, 21, 31, 31]
    assert output_at(Live("r", "u", "e", 100), 500, 200) == 0


def test_counts_that_go_back_do_not_count() -> None:
    live = Live("r", "u", "e", 100, ended_ns=500, usage=Usage(output_tokens=20), points=[(300, 50), (400, 40)])
    found = [output_at(live, at, 200) for at in (300, 350, 400, 450, 500)]
    assert all(0 <= tokens <= 50 for tokens in found)
    assert found[-1] == 20
