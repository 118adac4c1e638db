import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sidecar.tenancy.names import MAX_NAME, OTHER, Names, safe_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("acme", "acme"),
        ("Acme", "Acme"),
        (" acme\t", "acme"),
        ("Acme, Inc.", "Acme, Inc."),
        ("a" * 64, "a" * 64),
        ("a" * 65, None),
        ("", None),
        ("  ", None),
        ("a\nb", None),
        ("a\0b", None),
        ("a\x7f", None),
        ("ümlaut", None),
        ("\xa0acme", None),
        ("a\tb", None),
    ],
)
def test_a_name_is_taken_as_it_is_or_not_at_all(text: str, name: str | None) -> None:
    assert safe_name(text) == name


@given(st.text() | st.text(st.characters(max_codepoint=255)))
def test_no_name_holds_what_it_must_not(text: str) -> None:
    name = safe_name(text)
    if name is not None:
        assert 1 <= len(name) <= MAX_NAME
        assert all(" " <= character <= "~" for character in name)
        assert name in text


def test_further_names_are_grouped_and_stay_so() -> None:
    names = Names(2)
    assert [names.admit(name) for name in ("a", "b", "c", "a", "c", "d")] == ["a", "b", OTHER, "a", OTHER, OTHER]
    assert (len(names), names.grouped) == (2, 3)


def test_listed_names_are_known_and_take_no_room() -> None:
    names = Names(1)
    listed = frozenset(("acme", "globex"))
    assert [names.admit(name, listed) for name in ("acme", "globex", "a", "b", "acme")] == [
        "acme",
        "globex",
        "a",
        OTHER,
        "acme",
    ]
    assert len(names) == 1


@given(st.lists(st.text(min_size=1, max_size=3)), st.integers(1, 5))
def test_there_are_never_more_names_than_allowed_and_each_keeps_its_own(said: list[str], most: int) -> None:
    names = Names(most)
    first = {}
    for name in said:
        assert names.admit(name) == first.setdefault(name, names.admit(name))
    assert len(set(first.values()) - {OTHER}) <= most
    assert len(names) <= most
