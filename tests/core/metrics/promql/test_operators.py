import math

import numpy as np
import pytest

from agent.core.metrics.promql import QueryError
from agent.core.metrics.promql.operators import go_max, go_min
from tests.support.promql_cases import ask, history, same

SERIES = {
    'x{a="1",b="p"}': "10",
    'x{a="2",b="p"}': "20",
    'y{a="1",b="p"}': "2",
    'y{a="2",b="q"}': "0",
    'z{a="1",c="big"}': "3",
}


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("1 + 2 * 3 ^ 2 ^ 0", {"scalar": 7.0}),
        ("-2 ^ 2", {"scalar": -4.0}),
        ("7 % 4 - -1", {"scalar": 4.0}),
        ("-7 % 4", {"scalar": -3.0}),
        ("1 / 0", {"scalar": math.inf}),
        ("0 / 0", {"scalar": math.nan}),
        ("1 atan2 1", {"scalar": math.pi / 4}),
        ("1 == bool NaN", {"scalar": 0.0}),
        ("x + 1", {'{a="1",b="p"}': 11.0, '{a="2",b="p"}': 21.0}),
        ("100 / x", {'{a="1",b="p"}': 10.0, '{a="2",b="p"}': 5.0}),
        ("x > 15", {'x{a="2",b="p"}': 20.0}),
        ("15 > x", {'x{a="1",b="p"}': 10.0}),  # the element's value, not the number's
        ("x > bool 15", {'{a="1",b="p"}': 0.0, '{a="2",b="p"}': 1.0}),
        ("-x", {'{a="1",b="p"}': -10.0, '{a="2",b="p"}': -20.0}),
        ("x / y", {'{a="1",b="p"}': 5.0}),
        ("x / on(a) y", {'{a="1"}': 5.0, '{a="2"}': math.inf}),
        ("x / ignoring(b) y", {'{a="1"}': 5.0, '{a="2"}': math.inf}),
        ("x > on(a) y", {'{a="1"}': 10.0, '{a="2"}': 20.0}),
        ("x > y", {'x{a="1",b="p"}': 10.0}),
        ("y < on(a) group_left x", {'y{a="1",b="p"}': 2.0, 'y{a="2",b="q"}': 0.0}),
        ("x * on(a) group_left(c) z", {'{a="1",b="p",c="big"}': 30.0}),
        ("z - on(a) group_right(c) x", {'{a="1",b="p",c="big"}': -7.0}),
        ("z < on(a) group_right x", {'x{a="1",b="p"}': 3.0}),  # the left side's value
        ("x * on() group_left vector(2)", {'{a="1",b="p"}': 20.0, '{a="2",b="p"}': 40.0}),
        ("x + nope", {}),
        ("x and y", {'x{a="1",b="p"}': 10.0}),
        ("x and on(a) y", {'x{a="1",b="p"}': 10.0, 'x{a="2",b="p"}': 20.0}),
        ("x unless y", {'x{a="2",b="p"}': 20.0}),
        ("x or y", {'x{a="1",b="p"}': 10.0, 'x{a="2",b="p"}': 20.0, 'y{a="2",b="q"}': 0.0}),
        ("x or on(a) y", {'x{a="1",b="p"}': 10.0, 'x{a="2",b="p"}': 20.0}),
        ("nope or vector(0)", {"{}": 0.0}),
        ("x and on() vector(1) unless ignoring(a, b) nope", {'x{a="1",b="p"}': 10.0, 'x{a="2",b="p"}': 20.0}),
    ],
)
def test_operators(query: str, wanted: dict[str, float]) -> None:
    assert same(ask(query, history(SERIES), 0), wanted)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("x / on(b) x", "right side"),
        ("x / on() group_left x", "many-to-many"),
        ("y / on() group_right x", "left side"),
        ("x / on() vector(1)", "group_left"),
        ("x > on() vector(15)", "group_left"),  # ambiguous even where the comparison would leave one
        ("label_replace(x, 'b', '', '', '') * on() group_left(a) vector(1)", "tell"),
        ("-{__name__=~'x|y',a='1'}", "same labels"),
    ],
)
def test_ambiguity_is_an_error(query: str, says: str) -> None:
    with pytest.raises(QueryError, match=says):
        ask(query, history(SERIES), 0)


def test_go_min_and_max() -> None:
    a, b = np.array([1.0, np.nan, np.nan, np.inf, -np.inf]), np.array([2.0, 1.0, np.inf, np.nan, np.nan])
    assert np.array_equal(go_max(a, b), [2, np.nan, np.inf, np.inf, np.nan], equal_nan=True)
    assert np.array_equal(go_min(a, b), [1, np.nan, np.nan, np.nan, -np.inf], equal_nan=True)
