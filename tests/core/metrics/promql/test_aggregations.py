import math

import pytest

from agent.core.metrics.promql import QueryError
from agent.core.metrics.promql.aggregations import format_value
from tests.support.promql_cases import ask, history, same

SERIES = {'x{a="1",b="1"}': "1", 'x{a="1",b="2"}': "3", 'x{a="2",b="1"}': "nan", 'x{a="2"}': "8"}


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("sum(x{a='1'})", {"{}": 4.0}),
        ("sum by (a) (x)", {'{a="1"}': 4.0, '{a="2"}': math.nan}),
        ("sum without (b) (x)", {'{a="1"}': 4.0, '{a="2"}': math.nan}),
        ("sum by (nope) (x{a='1'})", {"{}": 4.0}),
        ("sum by (__name__) (x{a='1'})", {"x{}": 4.0}),
        ("avg by (a) (x)", {'{a="1"}': 2.0, '{a="2"}': math.nan}),
        ("min by (a) (x)", {'{a="1"}': 1.0, '{a="2"}': 8.0}),  # NaN only where there is nothing else
        ("max(x{b='1',a='2'})", {"{}": math.nan}),
        ("count(x)", {"{}": 4.0}),
        ("group by (a) (x)", {'{a="1"}': 1.0, '{a="2"}': 1.0}),
        ("stddev(x{a='1'})", {"{}": 1.0}),
        ("stdvar(x{b='1',a='2'})", {"{}": math.nan}),
        ("quantile(0.5, x{a='1'})", {"{}": 2.0}),
        ("quantile by (a) (2, x)", {'{a="1"}': math.inf, '{a="2"}': math.inf}),
        ("topk(1, x)", {'x{a="2"}': 8.0}),
        ("topk by (a) (1, x)", {'x{a="1",b="2"}': 3.0, 'x{a="2"}': 8.0}),
        ("bottomk(2, x)", {'x{a="1",b="1"}': 1.0, 'x{a="1",b="2"}': 3.0}),
        ("topk(0, x)", {}),
        ("topk(scalar(x{b='2'}), x{a='1'})", {'x{a="1",b="2"}': 3.0, 'x{a="1",b="1"}': 1.0}),
        ("sum(nope)", {}),
        ('count_values("v", x)', {'{v="1"}': 1.0, '{v="3"}': 1.0, '{v="NaN"}': 1.0, '{v="8"}': 1.0}),
        ('count_values without (a, b) ("v", x{a="1"} > bool 0)', {'{v="1"}': 2.0}),
        ("sum(vector(1e100) or x{a='1'} or label_replace(vector(-1e100), 'n', 'm', '', ''))", {"{}": 4.0}),
    ],
)
def test_aggregations(query: str, wanted: dict[str, float]) -> None:
    found = ask(query, history(SERIES), 0)
    assert same(found, wanted)
    if "topk" in query or "bottomk" in query:
        assert list(found.values()) == list(wanted.values())


def test_mean_of_numbers_whose_sum_overflows() -> None:
    assert ask("avg(x)", history({'x{a="1"}': "1e308", 'x{a="2"}': "1e308"}), 0) == {"{}": 1e308}


@pytest.mark.parametrize("query", ["topk(NaN, x)", "topk(1e30, x)", "bottomk(-Inf, x)"])
def test_unusable_parameters(query: str) -> None:
    with pytest.raises(QueryError):
        ask(query, history(SERIES), 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), (-0.5, "-0.5"), (1e21, "1" + "0" * 21), (1e-7, "0.0000001"), (math.inf, "+Inf"), (-math.inf, "-Inf")],
)
def test_values_as_labels(value: float, text: str) -> None:
    assert format_value(value) == text
