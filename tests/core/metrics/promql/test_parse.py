import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.metrics.matchers import Matcher
from agent.core.metrics.promql import QueryError, parse
from agent.core.metrics.promql.tree import (
    Aggregation,
    At,
    Binary,
    Call,
    Matching,
    MatrixSelector,
    Negation,
    NumberLiteral,
    StringLiteral,
    Subquery,
    VectorSelector,
)

UP = VectorSelector((Matcher("__name__", "=", "up"),))


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("1.5", NumberLiteral(1.5)),
        ("0x1F", NumberLiteral(31.0)),
        ("-1", NumberLiteral(-1.0)),
        ("1h", NumberLiteral(3600.0)),
        ("'a'", StringLiteral("a")),
        ("up", UP),
        ("((up))", UP),
        ('up{a=~"x|y"}', VectorSelector((*UP.matchers, Matcher("a", "=~", "x|y")))),
        ('{"up", a!="x"}', VectorSelector((*UP.matchers, Matcher("a", "!=", "x")))),
        ("up offset 1m30s", VectorSelector(UP.matchers, 90_000)),
        ("up offset -500ms", VectorSelector(UP.matchers, -500)),
        ("up @ 1.5", VectorSelector(UP.matchers, 0, At("instant", 1500))),
        ("up @ start()", VectorSelector(UP.matchers, 0, At("start"))),
        ("up[5m] @ end() offset 1m", MatrixSelector(VectorSelector(UP.matchers, 60_000, At("end")), 300_000)),
        ("up[1h:]", Subquery(UP, 3_600_000, None)),
        ("up[1h:5s] offset 1m", Subquery(UP, 3_600_000, 5000, 60_000)),
        ("-up", Negation(UP, "vector")),
        ("-up ^ 2", Negation(Binary("^", UP, NumberLiteral(2.0), False, None, "vector"), "vector")),
        ("1 < bool 2", Binary("<", NumberLiteral(1.0), NumberLiteral(2.0), True, None, "scalar")),
        ("up and up", Binary("and", UP, UP, False, Matching("many-to-many", False, ()), "vector")),
        (
            "up > bool on(a) group_left(b) up",
            Binary(">", UP, UP, True, Matching("many-to-one", True, ("a",), ("b",)), "vector"),
        ),
        (
            "up * ignoring(a) group_right up",
            Binary("*", UP, UP, False, Matching("one-to-many", False, ("a",)), "vector"),
        ),
        ("sum(up)", Aggregation("sum", UP, None, (), False)),
        ("topk by (a) (3, up)", Aggregation("topk", UP, NumberLiteral(3.0), ("a",), False)),
        ("avg(up) without (a, b)", Aggregation("avg", UP, None, ("a", "b"), True)),
        ("time()", Call("time", (), "scalar")),
        ("rate(up[1m])", Call("rate", (MatrixSelector(UP, 60_000),), "vector")),
    ],
)
def test_trees(text: str, tree: object) -> None:
    assert parse(text) == tree


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot read"),
        ("up{", "cannot read"),
        ("up @ -1", "negative time stamp"),
        ("nope(up)", "nope"),
        ("holt_winters(up[5m], 0.5, 0.5)", "holt_winters"),
        ("double_exponential_smoothing(up[5m], 0.5, 0.5)", "double_exponential_smoothing"),
        ("mad_over_time(up[5m])", "mad_over_time"),
        ("histogram_count(up)", "histogram_count"),
        ("histogram_fraction(0, 1, up)", "histogram_fraction"),
        ("info(up)", "info"),
        ('sort_by_label(up, "a")', "sort_by_label"),
        ("sin(up)", "sin"),
        ("limitk(2, up)", "limitk"),
        ("limit_ratio(0.5, up)", "limit_ratio"),
        ('up{a="x" or b="y"}', "`or` inside"),
        ("up + fill(0) up", "fill"),
        ('up{a=~"(x+)+"}', "repeat"),
        ("up{a=~'[[:alpha:]]'}", "alpha"),
        ('{a=""}', "matcher"),
        ("1 and up", "set operator"),
        ("1 < 2", "BOOL"),
        ("rate(up)", "matrix"),
        ("sum(1)", "vector"),
        ("up + 'a'", ""),
        ("up[5m] + 1", ""),
        ("count_values('', up)", "count_values"),
        ("up * on(a) group_left(a) up", "`a`|must not"),
        ("up and on(a) group_left up", ""),
        ("foo smoothed", "cannot read"),
        ("(" * 60 + "up" + ")" * 60, "nested"),
        ("up" + " + 1" * 300, "operators"),
        ("-" * 300 + "up", "operators"),
        ("up{a='" + "x" * 5000 + "'}", "4096 bytes"),
        ("\ud800", "cannot read"),
    ],
)
def test_refused_by_name(text: str, says: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse(text)
    assert any(part in str(caught.value) for part in says.split("|")), caught.value


def test_brackets_and_signs_in_strings_do_not_count() -> None:
    parse('up{a="' + "(" * 100 + "+" * 300 + '"} # ' + "(" * 100)


@given(st.text(alphabet="up(){}[]\"'=~!<>+-*/%^@,:. 015mabsumrateofbyonignoring_left\n#`\\", max_size=80))
def test_whatever_the_text_the_answer_is_a_tree_or_a_query_error(text: str) -> None:
    with contextlib.suppress(QueryError):
        parse(text)
