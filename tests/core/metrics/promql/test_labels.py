import pytest

from agent.core.metrics.promql import QueryError
from agent.core.metrics.promql.labels import drop_name, ensure_unique, put, show
from tests.support.promql_cases import ask, history

SERIES = {'x{a="one-1",b="p"}': "1", 'x{a="two-2"}': "2"}


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        (
            'label_replace(x, "n", "$2/${1}", "a", "(.*)-(.*)")',
            ['x{a="one-1",b="p",n="1/one"}', 'x{a="two-2",n="2/two"}'],
        ),
        ('label_replace(x, "n", "hit", "a", "one")', ['x{a="one-1",b="p"}', 'x{a="two-2"}']),  # the whole value
        ('label_replace(x, "b", "", "a", ".*")', ['x{a="one-1"}', 'x{a="two-2"}']),
        ('label_replace(x, "n", "$1x$$", "a", "(.).*")', ['x{a="one-1",b="p",n="$"}', 'x{a="two-2",n="$"}']),
        ('label_replace(x, "n", "$m", "a", "(?P<m>.).*")', ['x{a="one-1",b="p",n="o"}', 'x{a="two-2",n="t"}']),
        ('label_replace(x, "n", "$9", "a", ".*")', ['x{a="one-1",b="p"}', 'x{a="two-2"}']),
        ('label_join(x, "n", "+", "b", "a")', ['x{a="one-1",b="p",n="p+one-1"}', 'x{a="two-2",n="+two-2"}']),
        ('label_join(x, "a", "")', ['x{b="p"}', "x{}"]),
    ],
)
def test_label_functions(query: str, wanted: list[str]) -> None:
    assert list(ask(query, history(SERIES), 0)) == wanted


@pytest.mark.parametrize(
    "query",
    [
        'label_replace(x, "", "a", "a", ".*")',
        'label_replace(x, "a", "a", "a", "(")',
        'label_join(x, "n", "-", "")',
        'label_join(label_replace(x, "b", "", "", ""), "a", "")',  # two elements become one
    ],
)
def test_errors(query: str) -> None:
    with pytest.raises(QueryError):
        ask(query, history(SERIES), 0)


def test_label_sets() -> None:
    labels = (("__name__", "x"), ("a", "1"))
    assert drop_name(labels) == (("a", "1"),)
    assert put(labels, "Z", "2") == (("Z", "2"), ("__name__", "x"), ("a", "1"))
    assert put(labels, "a", "") == (("__name__", "x"),)
    assert show(labels) == 'x{a="1"}'
    with pytest.raises(QueryError, match=r'x\{a="1"\}'):
        ensure_unique([labels, labels], "this")
