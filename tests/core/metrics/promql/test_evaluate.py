import math

import pytest

from agent.core.metrics.promql import (
    Matrix,
    QueryError,
    Scalar,
    Source,
    Text,
    evaluate,
    evaluate_range,
    parse,
)
from tests.support.promql_cases import ask, history, show

SOURCE = history({'x{a="1"}': "0 1 2 3 stale", 'x{a="2"}': "_ _ 20 nan 40"})


def over(query: str, source: Source, start: int, end: int, step: int) -> dict[str, list[tuple[int, float]]]:
    return {show(one.labels): one.points for one in evaluate_range(parse(query), source, start, end, step)}


def test_kinds_of_values() -> None:
    assert evaluate(parse("1 + 1"), SOURCE, 0) == Scalar(2.0)
    assert evaluate(parse("'a'"), SOURCE, 0) == Text("a")
    matrix = evaluate(parse('x{a="1"}[1m]'), SOURCE, 40_000)
    assert isinstance(matrix, Matrix)
    assert [one.points for one in matrix.series] == [[(0, 0.0), (10_000, 1.0), (20_000, 2.0), (30_000, 3.0)]]


def test_range_queries_evaluate_every_step_on_its_own() -> None:
    assert over("x", SOURCE, 10_000, 45_000, 15_000) == {
        'x{a="1"}': [(10_000, 1.0), (25_000, 2.0)],
        'x{a="2"}': [(25_000, 20.0), (40_000, 40.0)],
    }
    assert over("1 + 1", SOURCE, 0, 2000, 1000) == {"{}": [(0, 2.0), (1000, 2.0), (2000, 2.0)]}
    assert over("x @ start()", SOURCE, 10_000, 20_000, 10_000) == {'x{a="1"}': [(10_000, 1.0), (20_000, 1.0)]}
    assert over('x{a="1"} @ end()', SOURCE, 10_000, 20_000, 10_000) == {'x{a="1"}': [(10_000, 2.0), (20_000, 2.0)]}


def test_a_nan_is_a_point() -> None:
    found = over('x{a="2"}', SOURCE, 30_000, 30_000, 1000)['x{a="2"}']
    assert found[0][0] == 30_000
    assert math.isnan(found[0][1])


@pytest.mark.parametrize(
    "query", ["x", "sum(x)", "rate(x[20s])", "x offset 10s", "max_over_time(x[20s:7s])", "absent(x)"]
)
def test_range_queries_agree_with_single_ones(query: str) -> None:
    series = over(query, SOURCE, 0, 50_000, 7000)
    for at in range(0, 50_001, 7000):
        single = ask(query, SOURCE, at)
        ranged = {labels: value for labels, points in series.items() for when, value in points if when == at}
        assert single.keys() == ranged.keys()
        assert all(single[name] == ranged[name] or math.isnan(single[name]) for name in single)


@pytest.mark.parametrize(
    ("query", "start", "end", "step"),
    [("'a'", 0, 1, 1), ("x[1m]", 0, 1, 1), ("x", 0, 1000, 0), ("x", 1000, 0, 10), ("x", 0, 11_000, 1)],
)
def test_range_queries_that_are_refused(query: str, start: int, end: int, step: int) -> None:
    with pytest.raises(QueryError):
        evaluate_range(parse(query), SOURCE, start, end, step)


def test_lookback_and_subquery_step_are_parameters() -> None:
    assert len(evaluate(parse("x"), SOURCE, 40_000, lookback_ms=1000).samples) == 1  # type: ignore[union-attr]
    value = evaluate(parse("count_over_time(vector(1)[1m:])"), SOURCE, 0, subquery_step_ms=15_000)
    assert value.samples[0].value == 4.0  # type: ignore[union-attr]


def test_deepest_query_that_is_accepted_is_evaluated() -> None:
    assert ask("1" + " + 1" * 200, SOURCE, 0) == {"scalar": 201.0}
    assert ask("abs(" * 49 + "vector(-1)" + ")" * 49, SOURCE, 0) == {"{}": 1.0}


def test_rules_of_the_idle_service() -> None:
    source = history({"total": "0 0 0 0", 'failed{a="1"}': "0 0 0 0"})
    assert ask("sum(rate(failed[1m])) / (sum(rate(total[1m])) > 0) > 0.01", source, 30_000) == {}
    assert ask("sum(nope) or 0 * sum(total)", source, 30_000) == {"{}": 0.0}
