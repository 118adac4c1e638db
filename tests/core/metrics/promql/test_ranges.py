import math

import pytest

from tests.support.promql_cases import ask, history, same

# One sample every 10 s from 0; evaluated at 60 s over the minute before, which leaves the sample at 0 out.
CASES = [
    ("rate(x[1m])", "0 10 20 30 40 50 60", 1.0),
    ("increase(x[1m])", "0 10 20 30 40 50 60", 60.0),
    ("increase(x[1m])", "100 110 120 130 140 150 160", 60.0),
    ("increase(x[1m])", "_ 1 2 3 4 5 6", 6.0),  # extrapolated no further back than to zero
    ("increase(x[1m])", "_ 0 2 3 4 5 6", 6.0),
    ("increase(x[1m])", "_ _ _ 30 40 50 60", 35.0),  # half an interval beyond a late first sample
    ("increase(x[1m])", "0 10 20 30 _ _ _", 35.0),
    ("increase(x[1m])", "_ 100 110 5 15 25 35", (10 + 5 + 30) * 1.2),  # restarted: 5 is growth from 0
    ("increase(x[1m])", "_ 100 110 nan 15 25 35", -65.0 * 1.2),  # a NaN hides a restart
    ("delta(x[1m])", "_ 100 110 5 15 25 35", -65.0 * 1.2),
    ("irate(x[1m])", "0 0 0 0 0 50 80", 3.0),
    ("irate(x[1m])", "0 0 0 0 0 50 20", 2.0),
    ("idelta(x[1m])", "0 0 0 0 0 50 20", -30.0),
    ("deriv(x[1m])", "0 10 20 30 40 50 60", 1.0),
    ("deriv(x[1m])", "7 7 7 7 7 7 7", 0.0),
    ("deriv(x[1m])", "inf inf inf inf inf inf inf", math.nan),
    ("predict_linear(x[1m], 60)", "0 10 20 30 40 50 60", 120.0),
    ("predict_linear(x[1m], 60)", "7 7 7 7 7 7 7", 7.0),
    ("resets(x[1m])", "0 10 5 6 2 2 3", 2.0),
    ("changes(x[1m])", "0 10 5 5 nan nan 3", 3.0),
    ("resets(x[1m])", "_ _ _ _ _ _ 1", 0.0),
    ("changes(x[1m])", "_ _ _ _ _ _ 1", 0.0),
    ("increase(x[1m])", "0 10 20 30 stale stale stale", 35.0),
]


@pytest.mark.parametrize(("query", "values", "wanted"), CASES)
def test_rates(query: str, values: str, wanted: float) -> None:
    assert same(ask(query, history({"x": values}), 60_000), {"{}": wanted})


@pytest.mark.parametrize("name", ["rate", "increase", "delta", "irate", "idelta", "deriv"])
def test_one_sample_is_too_few(name: str) -> None:
    assert ask(f"{name}(x[1m])", history({"x": "_ _ _ _ _ _ 1"}), 60_000) == {}


def test_ranges_are_open_on_the_left() -> None:
    source = history({"x": "0 1 2 3 4 5 6"})
    assert ask("count_over_time(x[1m])", source, 60_000) == {"{}": 6.0}
    assert ask("count_over_time(x[1m])", source, 59_999) == {"{}": 6.0}
    assert ask("count_over_time(x[60001ms])", source, 60_000) == {"{}": 7.0}


def test_offset_and_at_move_the_range() -> None:
    source = history({"x": "0 1 2 3 4 50 60"})
    assert ask("increase(x[20s] offset 20s)", source, 60_000) == ask("increase(x[20s])", source, 40_000)
    assert ask("increase(x[20s] offset -20s)", source, 20_000) == ask("increase(x[20s])", source, 40_000)
    assert ask("increase(x[20s] @ 40)", source, 999_000) == ask("increase(x[20s])", source, 40_000)
    assert ask("increase(x[20s] @ 60 offset 20s)", source, 999_000) == ask("increase(x[20s])", source, 40_000)


def test_series_with_different_gaps_are_each_computed_on_their_own() -> None:
    series = {'x{n="1"}': "0 1 2 3 4 5 6", 'x{n="2"}': "0 _ 2 _ 4 _ 6", 'x{n="3"}': "_ _ _ _ 4 _ 6"}
    assert same(ask("increase(x[1m])", history(series), 60_000), {'{n="1"}': 6.0, '{n="2"}': 6.0, '{n="3"}': 3.0})
