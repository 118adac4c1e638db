import pytest

from agent.core.metrics.promql import QueryError
from agent.core.metrics.samples import Sample, SeriesKey
from agent.core.metrics.series import History
from tests.support.promql_cases import ask, history


def test_lookback_is_five_minutes_and_open_on_the_left() -> None:
    source = history({"x": "7"})
    assert ask("x", source, 299_999) == {"x{}": 7.0}
    assert ask("x", source, 300_000) == {}


def test_stale_series_are_gone_at_once_and_come_back() -> None:
    source = history({"x": "7 stale _ 8"})
    assert [ask("x", source, at) for at in (9_999, 10_000, 29_999, 30_000)] == [{"x{}": 7.0}, {}, {}, {"x{}": 8.0}]


def test_offset_and_at() -> None:
    source = history({"x": "1 2 3 4"})
    assert ask("x offset 10s", source, 30_000) == {"x{}": 3.0}
    assert ask("x offset -10s", source, 10_000) == {"x{}": 3.0}
    assert ask("x @ 10", source, 999_000) == {"x{}": 2.0}
    assert ask("x @ 20 offset 10s", source, 0) == {"x{}": 2.0}
    assert ask("x @ end() - x @ start()", source, 30_000) == {"{}": 0.0}


def test_same_series_of_two_sources_is_an_error_but_not_when_one_is_stale() -> None:
    source = History()
    up = SeriesKey("up")
    source.append("a", 1000, [Sample(up, 1.0)])
    source.append("b", 2000, [Sample(up, 2.0)])
    with pytest.raises(QueryError, match="two sources"):
        ask("up", source, 3000)
    source.mark_stale("a", 2500)
    assert ask("up", source, 3000) == {"up{}": 2.0}
    source.append("a", 3000, [Sample(up, 1.0)])
    source.append("b", 3000, [Sample(up, 1.0)])
    with pytest.raises(QueryError, match="rate gives two elements"):
        ask("rate(up[1m])", source, 3000)


def test_newest_sample_is_found_over_holes() -> None:
    source = History()
    a, b = SeriesKey("x", [("n", "a")]), SeriesKey("x", [("n", "b")])
    source.append("s", 1000, [Sample(a, 1.0)])
    source.append("s", 2000, [Sample(a, 2.0), Sample(b, 5.0)])
    source.append("s", 3000, [Sample(a, 3.0)])
    source.append("s", 4000, [Sample(a, 4.0)])
    assert ask("x", source, 2000) == {'x{n="a"}': 2.0, 'x{n="b"}': 5.0}
    assert ask("x", source, 4000) == {'x{n="a"}': 4.0}
    assert ask("sum_over_time(x[1m])", source, 4000) == {'{n="a"}': 10.0, '{n="b"}': 5.0}


def test_subqueries_are_evaluated_at_multiples_of_their_step() -> None:
    source = history({"x": " ".join(str(n) for n in range(100))})  # x = seconds / 10
    assert ask("count_over_time(x[1m:20s])", source, 65_000) == {"{}": 3.0}  # 20, 40, 60
    assert ask("sum_over_time(x[1m:20s])", source, 65_000) == {"{}": 12.0}
    assert ask("count_over_time(x[1m:20s])", source, 80_000) == {"{}": 3.0}  # open on the left: not 20
    assert ask("sum_over_time(x[1m:20s] offset 20s)", source, 85_000) == {"{}": 12.0}
    assert ask("sum_over_time(x[1m:20s] @ 65)", source, 500_000) == {"{}": 12.0}
    assert ask("count_over_time(x[5m:])", source, 600_000) == {"{}": 5.0}  # a minute when no step is named
    assert ask("max_over_time(rate(x[30s])[2m:30s])", source, 600_000)["{}"] == pytest.approx(0.1)
    assert ask("sum_over_time(vector(1)[1m:10s])", source, 0) == {"{}": 6.0}
    assert ask("count_over_time(nope[1m:10s])", source, 60_000) == {}


def test_subquery_with_too_many_steps() -> None:
    with pytest.raises(QueryError, match="steps"):
        ask("sum_over_time(vector(1)[1d:1s])", history({}), 0)
