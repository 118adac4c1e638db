"""A stream's folder as a crash, a full disk or a careless hand left it → what can be relied on. Loads no backlog.

Only the headers of the segments are read, and the frames of the last one. What is damaged elsewhere is found when the
reader gets there.
"""

import errno
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from agent.spool.files import Files
from agent.spool.frame import SEGMENT_HEADER_BYTES, SegmentHeader
from agent.spool.marks import NAME as MARKS_NAME
from agent.spool.marks import Marks, MarksFile
from agent.spool.segment import Empty, Foreign, Frame, Window, fill, frames, identify, slot_name, slot_of

NO_FILE = {errno.EISDIR, errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EINVAL, errno.ENODEV, errno.ESPIPE}
KNOWN_NAMES = {MARKS_NAME, "lock", "quarantine"}


class Lost(NamedTuple):
    """Numbers whose items are not there, and why as far as it is known: damaged, missing or unknown."""

    first: int
    last: int
    reason: str


class FoundSegment(NamedTuple):
    """A segment in use."""

    slot: int
    header: SegmentHeader
    first: int


@dataclass(slots=True, kw_only=True)
class Recovered:
    """What was found. `spare` are slots whose files hold nothing that is needed; `notes` are sentences for people."""

    stream: int
    marks: Marks
    committed: int = 0
    generation: int = 0
    end: int = SEGMENT_HEADER_BYTES  # where the next frame goes in the last segment
    sealed: bool = False  # something durable is missing at that end: nothing may be written over it
    segments: list[FoundSegment] = field(default_factory=list)
    spare: list[int] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)
    foreign_slots: set[int] = field(default_factory=set)
    lost: list[Lost] = field(default_factory=list)
    gaps_are_lost: bool = True  # False: the marks are not the last ones, so a gap may be what was settled already
    notes: list[str] = field(default_factory=list)


def recover(folder: Path, files: Files, marks_file: MarksFile) -> Recovered:
    """Raises `NewerFormat` for files of a newer version, `OSError` when the folder or a file in it cannot be used."""
    marks, condition = marks_file.load()
    found = Recovered(stream=0, marks=Marks(stream=0))
    headers = list(_headers(folder, files, marks.stream if marks else None, found))
    stream = marks.stream if marks else _stream_of(headers)
    for slot, header in [item for item in headers if item[1].stream != stream]:
        headers.remove((slot, header))
        _foreign(found, slot, "a segment of another stream")
    found.stream = stream
    found.marks = marks or Marks(stream=stream)
    headers.sort(key=lambda item: item[1].generation)
    for slot, header in list(_copies(folder, files, headers)):
        headers.remove((slot, header))
        _foreign(found, slot, "a copy of another segment")
    segments = [FoundSegment(slot, header, header.first) for slot, header in headers]
    found.generation = segments[-1].header.generation if segments else 0
    if condition == "older" or (condition == "none" and segments):
        found.gaps_are_lost = False
        found.notes.append("the marks file is damaged or gone: what was settled last may be handed out again")
    if marks_file.synced:
        _use(found, segments)
    else:
        found.segments = segments
    if segments:
        _scan_last(folder, files, found, segments[-1])
    _close_gaps(found)
    return found


def _headers(folder: Path, files: Files, stream: int | None, found: Recovered) -> Iterator[tuple[int, SegmentHeader]]:
    for name in files.names(folder):
        slot = slot_of(Path(name))
        if slot is None:
            if name not in KNOWN_NAMES:
                found.notes.append(f"{name} is no file of a spool; it is left alone")
            continue
        try:
            fd = files.open_to_read(folder / name)
            try:
                size = files.size(fd)
                what = identify(Window(files, fd, size), stream)
            finally:
                files.close(fd)
        except OSError as error:
            if error.errno not in NO_FILE:  # permissions or descriptors: to pass over it would count it as lost
                raise
            _foreign(found, slot, f"cannot be used: {error.strerror}")
            continue
        if isinstance(what, Foreign):
            _foreign(found, slot, what.reason)
            continue
        found.sizes[slot] = size
        if isinstance(what, Empty):
            found.spare.append(slot)
        else:
            yield slot, what


def _copies(
    folder: Path, files: Files, headers: list[tuple[int, SegmentHeader]]
) -> Iterator[tuple[int, SegmentHeader]]:
    """Of several files with one generation, all but the fullest."""

    def filled(item: tuple[int, SegmentHeader]) -> tuple[int, int]:
        slot, header = item
        fd = files.open_to_read(folder / slot_name(slot))
        try:
            return fill(Window(files, fd, files.size(fd)), header)
        finally:
            files.close(fd)

    for _, same in groupby(headers, key=lambda item: item[1].generation):
        copies = list(same)
        if len(copies) > 1:
            copies.remove(max(copies, key=filled))
            yield from copies


def _foreign(found: Recovered, slot: int, reason: str) -> None:
    found.foreign_slots.add(slot)
    found.sizes.pop(slot, None)
    found.notes.append(f"segment file {slot} is left alone: {reason}")


def _stream_of(headers: list[tuple[int, SegmentHeader]]) -> int:
    """Whose folder it is when no marks say so: whose most files are; with no files, a new one's."""
    if not headers:
        return int.from_bytes(os.urandom(8), "little")
    files = Counter(header.stream for _, header in headers)
    return max(headers, key=lambda item: (files[item[1].stream], item[1].generation))[1].stream


def _frames(folder: Path, files: Files, slot: int, header: SegmentHeader) -> Iterator[Frame]:
    fd = files.open_to_read(folder / slot_name(slot))
    try:
        window = Window(files, fd, files.size(fd))
        for frame in frames(window, header, offset=SEGMENT_HEADER_BYTES, before=None, bodies=False):
            if isinstance(frame, Frame):
                yield frame
    finally:
        files.close(fd)


def _use(found: Recovered, segments: list[FoundSegment]) -> None:
    """Sort segments into those that hold something unsettled and spare ones; the last one always goes on."""
    for index, segment in enumerate(segments):
        is_last = index + 1 == len(segments)
        if not is_last and segments[index + 1].first <= found.marks.through + 1:
            found.spare.append(segment.slot)
        else:
            found.segments.append(segment)


def _scan_last(folder: Path, files: Files, found: Recovered, last: FoundSegment) -> None:
    """Find where the last segment ends. What follows its last whole frame was never durable, unless marks know more."""
    found.committed = last.first - 1
    for frame in _frames(folder, files, last.slot, last.header):
        found.committed = frame.header.last
        found.end = frame.end
    if found.marks.committed > found.committed:
        found.sealed = True
        found.end = max(found.end, found.sizes[last.slot])


def _close_gaps(found: Recovered) -> None:
    """Account for numbers that no segment can hold: before the first one, and up to the last one that was durable."""
    marks = found.marks
    head = found.segments[0].first if found.segments else max(marks.committed, found.committed) + 1
    if head > marks.through + 1:
        found.lost.append(Lost(marks.through + 1, head - 1, "missing"))
    if marks.committed > found.committed:
        begin = max(found.committed, marks.through, head - 1) + 1
        if begin <= marks.committed:
            found.lost.append(Lost(begin, marks.committed, "missing"))
        found.committed = marks.committed
    found.committed = max(found.committed, marks.through)
    if not found.gaps_are_lost:
        found.lost = [lost._replace(reason="unknown") for lost in found.lost]
    elif found.lost:
        found.notes.append(f"{sum(lost.last - lost.first + 1 for lost in found.lost)} items are missing on disk")
