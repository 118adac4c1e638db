"""JSON written in many styles: random white space, escapes and order, for code that changes JSON as text."""

import json
from typing import Any

from hypothesis import strategies as st

spaces = st.sampled_from(["", "", "", " ", "\n", "\r\n\t "])
tricky = st.one_of(
    st.sampled_from(
        [
            "",
            "stream",
            "stream_options",
            "usage",
            "choices",
            '"',
            "\\",
            '\\"',
            "{",
            "}",
            "]",
            '"choices":[]',
            "[]",
            ",:",
        ]
    ),
    st.sampled_from(
        [
            "é漢🙂",
            "\n\n",
            "\r",
            "data: {",
            '"choices":[]',
            '"usage":{"a":1}',
            '{"choices": [], "usage": {}}',
            "\x7f\x85 ",
        ]
    ),
    st.text(max_size=6),
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), tricky)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(tricky, inner, max_size=3)),
    max_leaves=8,
)


@st.composite
def written(draw: st.DrawFn, value: Any, *, newlines: bool = True) -> str:
    """One way to write a value. Without `newlines` it is on one line."""
    ascii_only = draw(st.booleans())

    def space() -> str:
        return draw(spaces if newlines else st.sampled_from(["", "", " ", "\t "]))

    def text(said: str) -> str:
        made = json.dumps(said, ensure_ascii=ascii_only)
        if said and draw(st.integers(0, 7)) == 0:  # any character may be written as an escape
            return f'"\\u{ord(said[0]):04x}' + made[2:] if said[0].isalpha() and ord(said[0]) < 128 else made
        return made

    def write(said: Any) -> str:
        if isinstance(said, dict):
            inside = ",".join(f"{space()}{text(k)}{space()}:{space()}{write(v)}{space()}" for k, v in said.items())
            return "{" + (inside or space()) + "}"
        if isinstance(said, list):
            return "[" + (",".join(f"{space()}{write(v)}{space()}" for v in said) or space()) + "]"
        return text(said) if isinstance(said, str) else json.dumps(said)

    return space() + write(value) + space()
