import pytest

from agent.core.metrics.matchers import Matcher, MatchOp
from agent.core.metrics.regexes import RegexError


@pytest.mark.parametrize(
    ("op", "value", "label", "matches"),
    [
        ("=", "x", "x", True),
        ("=", "x", "xy", False),
        ("=", "", "", True),
        ("!=", "x", "", True),
        ("!=", "x", "x", False),
        ("=~", "x|y", "y", True),
        ("=~", "x", "xx", False),  # anchored at both ends
        ("=~", ".+", "", False),
        ("=~", ".*", "a\nb", True),  # since Prometheus 3 the dot matches line ends
        ("!~", "x.*", "xa", False),
        ("!~", "x.*", "y", True),
    ],
)
def test_matches(op: MatchOp, value: str, label: str, matches: bool) -> None:
    assert Matcher("a", op, value).matches(label) is matches
    assert Matcher("a", op, value).matches_labels((("__name__", "m"), *((("a", label),) if label else ()))) is matches


def test_matchers_are_values() -> None:
    assert Matcher("a", "=~", "x") == Matcher("a", "=~", "x")
    assert hash(Matcher("a", "=~", "x")) == hash(Matcher("a", "=~", "x"))
    assert Matcher("a", "=", "x") != Matcher("a", "!=", "x")
    assert str(Matcher("a", "=~", "x")) == 'a=~"x"'


def test_unusable_regex() -> None:
    with pytest.raises(RegexError):
        Matcher("a", "=~", "(")
