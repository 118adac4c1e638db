"""Ids of requests on disk: the same comes back, and UUIDv7 lie in order of their time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ledger.ids import born_ms, first_key, from_key, to_key

SEVEN = "01a0a8f0-5c00-7abc-8def-0123456789ab"


@given(st.one_of(st.text(st.characters(exclude_categories=())), st.uuids().map(str), st.uuids(version=4).map(str)))
def test_any_id_comes_back(request_id: str) -> None:
    assert from_key(to_key(request_id)) == request_id


@given(st.text(), st.text())
def test_different_ids_have_different_keys(one: str, other: str) -> None:
    assert (to_key(one) == to_key(other)) == (one == other)


@pytest.mark.parametrize(
    ("request_id", "length"), [(SEVEN, 16), (SEVEN.upper(), 37), (SEVEN.replace("-7a", "-4a"), 37), ("x" * 16, 17)]
)
def test_only_a_uuid7_in_its_usual_form_is_short(request_id: str, length: int) -> None:
    key = to_key(request_id)
    assert len(key) == length
    assert from_key(key) == request_id
    assert born_ms(key) == (0x01A0A8F05C00 if length == 16 else 0)


def test_keys_of_uuid7_are_in_order_of_time_and_before_all_others() -> None:
    key = to_key(SEVEN)
    assert first_key(born_ms(key)) <= key < first_key(born_ms(key) + 1) < to_key("")
