"""One segment file → the frames in it, with what is damaged between them."""

import errno
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from agent.spool.files import Files
from agent.spool.frame import (
    ALIGN,
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    FrameHeader,
    SegmentHeader,
    decode_body,
    find_newest,
    frame_start,
    padded,
    read_frame_header,
    read_segment_header,
)

SUFFIX = ".seg"
WINDOW_BYTES = 256 << 10
PAGE_BYTES = 4096


class Frame(NamedTuple):
    """A frame that is what was written. `items` is None where only headers were asked for."""

    offset: int
    header: FrameHeader
    items: list[bytes] | None

    @property
    def end(self) -> int:
        return self.offset + self.header.size


class Damage(NamedTuple):
    """Bytes that are no frame of this life, before one that is; `header` where at least that could be read."""

    offset: int
    end: int
    header: FrameHeader | None


class Window:
    """The bytes of a file, read in pieces. Pages that the disk cannot read count as zeros, so only they are lost.

    Without `salvage` they raise `OSError` instead: a disk that is away for a moment has not lost anything.
    """

    def __init__(self, files: Files, fd: int, end: int, *, salvage: bool = True) -> None:
        self._files = files
        self._fd = fd
        self.end = end
        self._salvage = salvage
        self._base = 0
        self._data = b""

    def get(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`; fewer at the end."""
        begin = offset - self._base
        if begin < 0 or begin + size > len(self._data):
            wanted = min(max(size, WINDOW_BYTES), self.end - offset)
            self._base, self._data, begin = offset, self._read(offset, max(0, wanted)), 0
        return self._data[begin : begin + size]

    def head(self, size: int) -> bytes:
        """The first bytes alone; none where the disk cannot read them: zeros would make the file look empty."""
        try:
            return self._files.read(self._fd, size, 0)
        except OSError as error:
            if error.errno != errno.EIO or not self._salvage:
                raise
        return b""

    def _read(self, offset: int, size: int) -> bytes:
        try:
            return self._files.read(self._fd, size, offset)
        except OSError as error:
            if error.errno != errno.EIO or not self._salvage:
                raise
        borders = [offset, *range(padded(offset + 1, PAGE_BYTES), offset + size, PAGE_BYTES), offset + size]
        return b"".join(self._read_page(begin, end - begin) for begin, end in pairwise(borders))

    def _read_page(self, offset: int, size: int) -> bytes:
        try:
            return self._files.read(self._fd, size, offset)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        return bytes(size)

    def find(self, pattern: bytes, offset: int) -> int | None:
        """Where `pattern` stands next, from `offset` on."""
        while offset + len(pattern) <= self.end:
            data = self.get(offset, min(WINDOW_BYTES, self.end - offset))
            at = data.find(pattern)
            if at >= 0:
                return offset + at
            if len(data) < len(pattern):
                return None  # the file has been cut meanwhile
            offset += len(data) - len(pattern) + 1
        return None


def frames(
    window: Window, header: SegmentHeader, *, offset: int, before: int | None, bodies: bool
) -> Iterator[Frame | Damage]:
    """Frames from `offset` on, up to the one that holds the number `before` (None: to the end of the file).

    Damaged stretches are told when a good frame follows. Old frames of a recycled file are passed over. Raises
    `NewerFormat`.
    """
    expected: int | None = None
    start = frame_start(header.stream, header.generation)
    while offset + FRAME_HEADER_BYTES <= window.end and (expected is None or before is None or expected < before):
        found = read_frame_header(window.get(offset, FRAME_HEADER_BYTES), header.stream, header.generation)
        if found is not None and offset + found.size <= window.end:
            if before is not None and found.first >= before:
                return
            body = window.get(offset + FRAME_HEADER_BYTES, found.length)
            items = decode_body(found, body)
            if items is None:
                yield Damage(offset, offset + found.size, found)
            else:
                yield Frame(offset, found, items if bodies else None)
            expected = found.last + 1
            offset += found.size
            continue
        after = _next_frame(window, header, start, offset + ALIGN)
        if after is None:
            return
        yield Damage(offset, after, None)
        offset = after


def _next_frame(window: Window, header: SegmentHeader, start: bytes, offset: int) -> int | None:
    while True:
        at = window.find(start, offset)
        if at is None:
            return None
        if at == padded(at):
            found = read_frame_header(window.get(at, FRAME_HEADER_BYTES), header.stream, header.generation)
            if found is not None and at + found.size <= window.end:
                return at
        offset = at + 1


def fill(window: Window, header: SegmentHeader) -> tuple[int, int]:
    """How many items can be read in a file, and the last number: of several copies the fullest is the one that counts.

    No two uses of a file share a generation, so files that do are copies.
    """
    count, last = 0, 0
    for frame in frames(window, header, offset=SEGMENT_HEADER_BYTES, before=None, bodies=False):
        if isinstance(frame, Frame):
            count, last = count + frame.header.last - frame.header.first + 1, frame.header.last
    return count, last


class Empty(NamedTuple):
    """A file of ours that holds nothing: made, never written."""


class Foreign(NamedTuple):
    """A file with a segment's name that does not belong here."""

    reason: str


def identify(window: Window, stream: int | None) -> SegmentHeader | Empty | Foreign:
    """What a file with a segment's name is. `stream` None: not known yet. Raises `NewerFormat`.

    Where the file's own header is damaged, its frames tell whose it is; its first number is then that of the first
    frame whose header is whole.
    """
    head = window.head(SEGMENT_HEADER_BYTES)
    header = read_segment_header(head) or _from_frames(window, stream)
    if header is None:
        if window.end and not head:
            return Foreign("the disk cannot read it")
        return Empty() if head.count(0) == len(head) else Foreign("no segment of this program")
    if stream is not None and header.stream != stream:
        return Foreign("a segment of another stream")
    return header


def _from_frames(window: Window, stream: int | None) -> SegmentHeader | None:
    best: SegmentHeader | None = None
    step = WINDOW_BYTES - FRAME_HEADER_BYTES
    for offset in range(0, window.end, step):
        found = find_newest(window.get(offset, WINDOW_BYTES), stream)
        if found is not None and (best is None or found.generation > best.generation):
            best = found
    return best


def slot_of(path: Path) -> int | None:
    """The number in a segment's file name; None for other names, be they ever so similar."""
    stem = path.stem
    if path.suffix != SUFFIX or not (stem.isascii() and stem.isdigit()):
        return None
    slot = int(stem)
    return slot if slot_name(slot) == path.name else None


def slot_name(slot: int) -> str:
    """The name of a slot's file."""
    return f"{slot:06d}{SUFFIX}"
