"""One line: the short way and the careful way agree, and values are numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.metrics.exposition_line import MalformedLine, parse_line, parse_value, shown


@pytest.mark.parametrize(
    ("line", "plain"),
    [(b'a{b="c"} 1', True), (b"a 1", True), (b"a  1", False), (b"a 1 5", False), (b'a{b="c"}1', False)],
)
def test_plain_lines_are_head_space_and_value(line: bytes, plain: bool) -> None:
    parsed = parse_line(line)
    assert (parsed.name, parsed.value, parsed.plain) == ("a", 1.0, plain)


@given(st.from_regex(r'[ \t]?[a-c]{0,2}\{?(,?[b-d]=?"?[x\\"]{0,3}"?){0,2},?\}?[ \t]{0,2}[0-9_.]{0,3}', fullmatch=True))
def test_usual_and_careful_reading_agree(text: str) -> None:
    """A space before the line's start keeps it out of the short way, and changes nothing else."""
    results = []
    for line in (text.encode(), b" " + text.encode()):
        try:
            results.append(parse_line(line)[:3])
        except MalformedLine:
            results.append(None)
    assert results[0] == results[1]


@pytest.mark.parametrize("text", ["", "1_0", "0x10", "one", "1,5", "--1"])
def test_no_numbers(text: str) -> None:
    for form in (text, text.encode()):
        with pytest.raises(ValueError):  # noqa: PT011  # the message is float's own
            parse_value(form)


def test_shown_is_short_and_printable() -> None:
    assert shown(b"a\x1b[31m\xff") == "`a?[31m\N{REPLACEMENT CHARACTER}`"
    assert len(shown(b"x" * 500)) < 100
