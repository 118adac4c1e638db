import pytest

from agent.core.metrics.regexes import RegexError, compile_regex


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("x|y", "y", "xy"),
        (r"2(\.0)?", "2.0", "2,0"),
        ("(?i)abc", "ABC", "ABD"),
        ("(?i:a)b", "Ab", "AB"),
        ("foo$", "foo", "foo\n"),
        (r"a\z", "a", "b"),
        (r"\d+", "12", "\u0663"),  # RE2's classes are ASCII
        (r"\w", "_", "\u00e4"),
        (r"[\w.-]+", "a.b-c", "a b"),
        (r"\s", "\t", "\v"),
        (r"\S+", "a\v", "a b"),
        ("[a[b]", "[", "c"),
        ("[]a]", "]", "b"),
        ("[^]a]", "b", "]"),
        ("[a&&b]", "&", "c"),
        ("a{", "a{", "a"),
        ("a{2,3}", "aaa", "a"),
        ("(?P<n>x)(?<m>y)", "xy", "x"),
        ("(abc)+", "abcabc", "abca"),
        (".*-[0-9]+", "a-b-1", "a-b"),
        ("", "", "a"),
        (r"a\.b", "a.b", "axb"),
        ("a.c", "a\nc", "ac"),
    ],
)
def test_matches_as_re2_does(pattern: str, yes: str, no: str) -> None:
    regex = compile_regex(pattern)
    assert regex.fullmatch(yes)
    assert not regex.fullmatch(no)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+", "(a|b)*", "(a?){30}b{30}", "(a|a){20}", "a?" * 30, ".*" * 6, "(.*)*", "((a*)b)*", "(x+x+)+y",
        "a**", "a*+", "a++", "(?=x)", "(?!x)", "(?<=x)y", "(?>x)", r"(a)\1", "(?P=n)", "(?#x)", "(?x)a", "(?m)^a",
        "[[:alpha:]]", r"\pL", r"\x{41}", r"\bfoo", r"\Qa\E", r"\u0041", r"a\Z", "{,3}", "*", "a|*", "(", "a)", "[a",
        "[b-a]", "a{2,1}", "a{1001}", "a\\",
    ],
)  # fmt: skip
def test_what_would_differ_or_run_away_is_refused(pattern: str) -> None:
    with pytest.raises(RegexError):
        compile_regex(pattern)
