"""Ids against the standard library's reading of them, and the examples of the W3C's text."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sidecar.ids import RANDOM_BITS, trace_id_of, traceparent, uuid7

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"

instants = st.integers(0, (1 << 48) * 1_000_000 - 1)
bits = st.integers(0, (1 << RANDOM_BITS) - 1)


@given(instants, bits)
def test_an_id_is_a_uuid_of_version_7_that_tells_its_millisecond(now_ns: int, random_bits: int) -> None:
    made = uuid7(now_ns, random_bits)
    read = uuid.UUID(made.text)
    assert (read.version, read.variant) == (7, uuid.RFC_4122)
    assert (str(read), read.hex) == (made.text, made.hex)
    assert read.int >> 80 == now_ns // 1_000_000


@given(instants, bits, bits)
def test_every_random_bit_counts(now_ns: int, one: int, other: int) -> None:
    assert (uuid7(now_ns, one) == uuid7(now_ns, other)) is (one == other)


@given(instants, instants, bits, bits)
def test_ids_of_later_milliseconds_sort_later(one: int, other: int, a: int, b: int) -> None:
    if one // 1_000_000 < other // 1_000_000:
        assert uuid7(one, a).text < uuid7(other, b).text


@given(instants, bits)
def test_our_own_traceparent_is_valid_and_carries_the_id(now_ns: int, random_bits: int) -> None:
    made = uuid7(now_ns, random_bits)
    assert made.span_id.strip("0")
    if made.hex.strip("0"):
        assert trace_id_of(traceparent(made)) == made.hex


@pytest.mark.parametrize(
    ("header", "trace_id"),
    [
        (f"00-{TRACE}-{SPAN}-01", TRACE),
        (f"  00-{TRACE}-{SPAN}-00 ", TRACE),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", TRACE),
        (f"00-{TRACE}-{SPAN}-01-more", None),  # version 00 has no further parts
        (f"ff-{TRACE}-{SPAN}-01", None),  # a version that shall never be
        (f"zz-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{'x' * 16}-01", None),
        (f"00-{TRACE[:-1]}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}", None),
        (f"00-{TRACE}-{SPAN}-1", None),
        (f"00-{TRACE[:-1]}\u0661-{SPAN}-01", None),
        ("", None),
    ],
)
def test_a_traceparent_that_came_in(header: str, trace_id: str | None) -> None:
    assert trace_id_of(header) == trace_id


@given(st.text())
def test_any_text_is_read_without_an_error(header: str) -> None:
    assert trace_id_of(header) is None
