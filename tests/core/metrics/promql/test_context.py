from collections.abc import Sequence

from agent.core.metrics.matchers import Matcher
from agent.core.metrics.promql import evaluate_range, parse
from agent.core.metrics.promql.context import Context, Steps
from agent.core.metrics.promql.tree import VectorSelector
from agent.core.metrics.samples import Sample, SeriesKey
from agent.core.metrics.series import History, SeriesWindow


def history() -> History:
    found = History()
    for second in range(60):
        found.append("s", second * 1000, [Sample(SeriesKey("x"), float(second))])
    return found


class Counting:
    """A source that is no History, and counts how often it is asked."""

    def __init__(self) -> None:
        self.inner = history()
        self.asked = 0

    def select(self, matchers: Sequence[Matcher], start_ms: int, end_ms: int) -> list[SeriesWindow]:
        self.asked += 1
        return self.inner.select(matchers, start_ms, end_ms)


def test_a_range_query_asks_once_for_all_its_steps() -> None:
    source = Counting()
    (series,) = evaluate_range(parse("rate(x[10s])"), source, 10_000, 50_000, 1_000)
    assert source.asked == 1
    assert {round(value, 9) for _, value in series.points} == {1.0}


def test_any_source_gives_what_the_history_gives() -> None:
    for query in ("x", "sum_over_time(x[7s])", "x offset 5s", "x @ end()"):
        plain = evaluate_range(parse(query), Counting(), 10_000, 50_000, 7_000)
        fast = evaluate_range(parse(query), history(), 10_000, 50_000, 7_000)
        assert [list(s.points) for s in plain] == [list(s.points) for s in fast]


def test_what_a_selector_means() -> None:
    context = Context(history(), 30_000, Steps(30_000, 30_000), 10_000, 50_000, 300_000, 60_000)
    for query, instant in (
        ("x", 30_000),
        ("x offset 5s", 25_000),
        ("x @ 12", 12_000),
        ("x @ start()", 10_000),
        ("x @ end() offset 1s", 49_000),
    ):
        selector = parse(query)
        assert isinstance(selector, VectorSelector)
        assert context.anchor(selector.at, selector.offset_ms, context.at_ms) == instant
        windows, end = context.fetch(selector, selector, 3_000)
        assert end == instant
        times = windows[0].times.tolist()
        assert (times[0], times[-1]) == (instant - 2_000, instant)  # open on the left
