"""Bytes of frames and segment headers: what was written is read, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.spool import frame
from agent.spool.frame import (
    ALIGN,
    FRAME_HEADER_BYTES,
    LARGE_ITEM_BYTES,
    MOST_IN_PLACE,
    NewerFormat,
    SegmentHeader,
    decode_body,
    encode_frame,
    encode_segment_header,
    find_newest,
    frame_bytes,
    frame_start,
    padded,
    read_frame_header,
    read_segment_header,
)
from tests.support.spool_places import newer_segment


def whole(items: list[bytes], *, stream: int = 7, generation: int = 3, first: int = 11) -> bytes:
    return b"".join(encode_frame(stream, generation, first, 99, items))


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=50))
def test_frames_come_back(items: list[bytes]) -> None:
    data = whole(items)
    header = read_frame_header(data, 7, 3)
    assert header is not None
    assert (header.first, header.last, header.at_ns, header.items) == (11, 10 + len(items), 99, len(items))
    assert header.size == len(data) == padded(len(data)) <= frame_bytes(sum(map(len, items)), len(items))
    assert decode_body(header, data[FRAME_HEADER_BYTES:][: header.length]) == items
    assert data.startswith(frame_start(7, 3))


@pytest.mark.parametrize("count", [1, 2, 15, 16, 200, MOST_IN_PLACE, MOST_IN_PLACE + 1])
def test_large_items_are_written_from_where_they_are(count: int) -> None:
    items = [bytes([at % 256]) * LARGE_ITEM_BYTES for at in range(count)]
    buffers = encode_frame(7, 3, 11, 99, items)
    assert len(buffers) < 1024
    assert any(buffer is items[0] for buffer in buffers) == (count <= MOST_IN_PLACE)
    data = b"".join(buffers)
    header = read_frame_header(data, 7, 3)
    assert header is not None
    assert decode_body(header, data[FRAME_HEADER_BYTES:][: header.length]) == items
    assert len(data) <= frame_bytes(sum(map(len, items)), count)


@given(st.data())
def test_no_flipped_bit_is_believed(data: st.DataObject) -> None:
    good = whole([b"hello", b"world" * 20])
    bit = data.draw(st.integers(0, len(good.rstrip(b"\0")) * 8 - 1))
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    header = read_frame_header(bytes(bad), 7, 3)
    assert header is None or decode_body(header, bytes(bad)[FRAME_HEADER_BYTES:][: header.length]) is None


def test_frames_of_other_lives_and_streams_are_not_ours() -> None:
    assert read_frame_header(whole([b"x"]), 8, 3) is None
    assert read_frame_header(whole([b"x"]), 7, 4) is None
    assert read_frame_header(b"", 7, 3) is None


def test_segment_headers_come_back_and_newer_ones_are_refused() -> None:
    header = SegmentHeader(7, 3, 11, 99)
    data = encode_segment_header(header)
    assert read_segment_header(data) == header
    for at in range(len(data)):
        bad = bytearray(data)
        bad[at] ^= 4
        assert read_segment_header(bytes(bad)) is None
    with pytest.raises(NewerFormat, match="version 2; this program reads up to 1"):
        read_segment_header(newer_segment(data))


def test_the_newest_life_in_a_file_without_a_header() -> None:
    old = whole([b"o" * 50], generation=3, first=5)
    new = whole([b"n"], generation=9, first=80) + whole([b"n"], generation=9, first=81)
    other = whole([b"z"], stream=1, generation=50)
    junk = bytes(ALIGN * 3)
    assert find_newest(junk + old + new + old + other, 7) == SegmentHeader(7, 9, 80, 99)
    assert find_newest(junk + old + new + other, None) == SegmentHeader(1, 50, 11, 99)
    assert find_newest(b"1" + new, 7) is None, "frames begin at multiples of 8"
    assert find_newest(junk, None) is None


def test_the_format_has_not_changed() -> None:
    """What is on people's disks must be readable for ever: a change here needs a new version."""
    assert frame.VERSION == 1
    header = encode_segment_header(SegmentHeader(1, 2, 3, 4))
    assert header.hex() == GOLDEN_SEGMENT
    assert b"".join(encode_frame(1, 2, 3, 4, [b"abc", b""])).hex() == GOLDEN_FRAME


GOLDEN_SEGMENT = (
    "e5525365676d740a01000000000000000100000000000000020000000000000003000000000000000400000000000000"
    "000000000000000000000000e29e070b"
)
GOLDEN_FRAME = (
    "e552466d0100000001000000000000000200000000000000030000000000000004000000000000000200000008000000"
    "95a33b668ab2cb7092c403616263c400"
)
