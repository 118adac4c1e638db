"""Places of members in JSON text, against what the standard library reads; and in text that is cut off."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.sidecar.usage.json_text import members, object_begins, value_end
from tests.support.json_style import tricky, values, written


@st.composite
def objects(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    value = draw(st.dictionaries(tricky, values, max_size=5))
    return value, draw(written(value)).encode("utf-8", "surrogatepass")


@given(objects())
def test_members_are_where_they_are(made: tuple[dict[str, Any], bytes]) -> None:
    value, text = made
    begins = object_begins(text)
    assert begins is not None
    found = {m.name: json.loads(text[m.value_at : m.end]) for m in members(text, begins)}
    assert found == value
    assert value_end(text + b" ", begins - 1) == len(text.rstrip())


@given(objects(), st.data())
def test_nothing_wrong_is_said_of_half_a_text(made: tuple[dict[str, Any], bytes], data: st.DataObject) -> None:
    _, text = made
    begins = object_begins(text) or 0
    whole = list(members(text, begins))
    cut = text[: data.draw(st.integers(begins, len(text)))]
    found = list(members(cut, begins))
    assert len(found) <= len(whole)
    for member, right in zip(found, whole, strict=False):
        assert member[:2] == right[:2]
        assert member.value_at in (right.value_at, len(cut))
        assert member.end in (None, right.end)


def test_text_that_is_no_object_begins_none() -> None:
    assert [object_begins(text) for text in (b"", b" ", b"[{}]", b'"{', b"\xef\xbb\xbf{}")] == [None] * 5
    assert list(members(b"[1,2]", 0)) == []
    assert value_end(b"", 0) is None
    assert value_end(b"tru", 0) is None
    assert value_end(b'"abc\\"', 0) is None
