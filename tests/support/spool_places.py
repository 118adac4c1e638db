"""Where frames lie in a stream's folder, and how to damage them."""

import struct
from pathlib import Path
from typing import NamedTuple

from isal.isal_zlib import crc32

from agent.spool.files import Files
from agent.spool.frame import SEGMENT_HEADER_BYTES, SegmentHeader
from agent.spool.segment import Frame, Window, frames, identify, slot_of


class Place(NamedTuple):
    """A whole frame in a file."""

    path: Path
    frame: Frame

    @property
    def numbers(self) -> set[int]:
        return set(range(self.frame.header.first, self.frame.header.last + 1))


def places(folder: Path, stream: int | None = None) -> list[Place]:
    """Whole frames on the disk, of whatever life of their file, by file name."""
    found = []
    disk = Files()
    for path in sorted(folder.glob("*.seg")):
        if slot_of(path) is None or not path.is_file():
            continue
        fd = disk.open(path)
        try:
            window = Window(disk, fd, disk.size(fd))
            header = identify(window, stream)
            if isinstance(header, SegmentHeader):
                every = frames(window, header, offset=SEGMENT_HEADER_BYTES, before=None, bodies=False)
                found += [Place(path, frame) for frame in every if isinstance(frame, Frame)]
        finally:
            disk.close(fd)
    return found


def poke(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path: Path, offset: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))


def newer_segment(data: bytes) -> bytes:
    """The same segment as version 2 of the format would say it."""
    head = data[:8] + struct.pack("<H", 2) + data[10 : SEGMENT_HEADER_BYTES - 4]
    return head + struct.pack("<I", crc32(head)) + data[SEGMENT_HEADER_BYTES:]
