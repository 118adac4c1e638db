"""One file: frames and damage between them, whose it is, and what a disk does that cannot read parts of it."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.spool.files import Files
from agent.spool.frame import (
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    encode_frame,
    encode_segment_header,
)
from agent.spool.segment import (
    PAGE_BYTES,
    WINDOW_BYTES,
    Damage,
    Empty,
    Foreign,
    Frame,
    Window,
    frames,
    identify,
    slot_name,
    slot_of,
)

HEADER = SegmentHeader(7, 3, 1, 99)


def file_of(*items: list[bytes], header: SegmentHeader = HEADER) -> bytearray:
    data, first = bytearray(encode_segment_header(header)), header.first
    for group in items:
        data += b"".join(encode_frame(header.stream, header.generation, first, 5, group))
        first += len(group)
    return data


class OneFile(Files):
    """A file in memory, some pages of which cannot be read."""

    def __init__(self, data: bytes, bad_pages: set[int] | None = None) -> None:
        self.data = bytes(data)
        self.bad = bad_pages or set()
        self.reads = 0

    def read(self, fd: int, size: int, offset: int) -> bytes:
        self.reads += 1
        pages = range(offset // PAGE_BYTES, (offset + max(size, 1) - 1) // PAGE_BYTES + 1)
        if self.bad & set(pages):
            raise OSError(errno.EIO, "Input/output error")
        return self.data[offset : offset + size]


def window(data: bytes, bad: set[int] | None = None, *, salvage: bool = True) -> Window:
    return Window(OneFile(data, bad), 0, len(data), salvage=salvage)


def read(found: Window, before: int | None = None) -> Iterator[Frame | Damage]:
    return frames(found, HEADER, offset=SEGMENT_HEADER_BYTES, before=before, bodies=True)


def test_frames_in_order_and_up_to_a_number() -> None:
    data = file_of([b"a", b"b"], [b"c"], [b"d"]) + bytes(500)
    assert [frame.items for frame in read(window(data)) if isinstance(frame, Frame)] == [[b"a", b"b"], [b"c"], [b"d"]]
    assert [frame.items for frame in read(window(data), 3) if isinstance(frame, Frame)] == [[b"a", b"b"]]


@pytest.mark.parametrize("size", [1, 10_000, WINDOW_BYTES, 3 * WINDOW_BYTES])
def test_damage_costs_one_frame_of_whatever_size(size: int) -> None:
    data = file_of([b"a" * size], [b"b" * size], [b"c" * size])
    good = [frame for frame in read(window(data)) if isinstance(frame, Frame)]
    for at in (0, 30, FRAME_HEADER_BYTES + 1, FRAME_HEADER_BYTES + good[1].header.length - 1):
        bad = bytearray(data)
        bad[good[1].offset + at] ^= 1
        found = list(read(window(bad)))
        assert [type(one) for one in found] == [Frame, Damage, Frame]
        assert (found[1].offset, found[1].end) == (good[1].offset, good[1].end)
        assert found[2] == good[2]


def test_old_frames_of_a_recycled_file_are_not_damage() -> None:
    old = file_of([b"old" * 100], [b"old" * 100], header=SegmentHeader(7, 2, 1, 5))
    new = file_of([b"new"])
    assert [type(one) for one in read(window(new + old[len(new) :]))] == [Frame]


def test_only_the_pages_that_cannot_be_read_are_lost() -> None:
    data = file_of(*([b"x" * 1000] for _ in range(20)))
    good = [frame for frame in read(window(data)) if isinstance(frame, Frame)]
    found = [one for one in read(window(data, {2})) if isinstance(one, Frame)]
    assert found == [frame for frame in good if frame.end <= 2 * PAGE_BYTES or frame.offset >= 3 * PAGE_BYTES]
    with pytest.raises(OSError, match="Input/output"):
        list(read(window(data, {2}, salvage=False)))


def test_a_file_that_is_cut_while_it_is_read_ends() -> None:
    data = file_of([b"x" * 1000])
    files = OneFile(data)
    found = Window(files, 0, 64 << 20)
    assert [type(one) for one in read(found)] == [Frame]
    assert files.reads < 20


def test_whose_a_file_is() -> None:
    data = file_of([b"a"], [b"b"])
    assert identify(window(data), 7) == HEADER
    assert identify(window(data), None) == HEADER
    assert identify(window(data), 8) == Foreign("a segment of another stream")
    assert identify(window(b""), 7) == identify(window(bytes(9000)), 7) == Empty()
    assert identify(window(b"noise" * 100), 7) == Foreign("no segment of this program")
    headless = bytes(SEGMENT_HEADER_BYTES) + data[SEGMENT_HEADER_BYTES:]
    assert identify(window(headless), 7) == SegmentHeader(7, 3, 1, 5)
    long = file_of(*([b"x" * 1000] for _ in range(20)))
    assert identify(window(long, {0}), 7) == SegmentHeader(7, 3, 5, 5)
    assert identify(window(long, set(range(9))), 7) == Foreign("the disk cannot read it")


def test_names() -> None:
    assert [slot_of(Path(slot_name(slot))) for slot in (0, 7, 999_999, 1_000_000)] == [0, 7, 999_999, 1_000_000]
    wrong = (
        "1.seg",
        "0000001.seg",
        "²²²²²².seg",
        "٣٣٣٣٣٣.seg",
        "abc.seg",
        "000001",
        "000001.bad",
        ".seg",
        "-00001.seg",
    )
    for name in wrong:
        assert slot_of(Path(name)) is None
