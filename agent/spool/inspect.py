"""A spool's folder → what it holds, read without its lock, whether its owner is at work meanwhile or not.

A writer may make, recycle and remove files at any moment. Three things make looks safe: a frame is only believed with
the identity of its stream and generation; marks are read before and after the files; and settled is for ever, so that
what vanished in between is found settled afterwards.
"""

import errno
import os
import re
import stat as modes
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from agent.datafolder import lock_holder
from agent.spool.acks import Acks
from agent.spool.files import Files
from agent.spool.frame import SEGMENT_HEADER_BYTES, NewerFormat, SegmentHeader, read_segment_header
from agent.spool.marks import COPY_BYTES, Marks, read_copy
from agent.spool.marks import NAME as MARKS_NAME
from agent.spool.recovery import NO_FILE
from agent.spool.segment import Damage, Empty, Foreign, Frame, Window, fill, frames, identify, slot_name

LOCK_NAME = "lock"
QUARANTINE = "quarantine"
LOOKS_AT_MARKS = 5  # a copy that is just being written looks damaged for microseconds

_SEGMENT_NAME = re.compile(r"[0-9]{6,9}\.seg")
_LOCK_LINE = re.compile(r"FLOCK\s+\S+\s+WRITE\s+(-?\d+)\s+([0-9a-f]+):([0-9a-f]+):(\d+)\s")

_disk = Files()


class SegmentFile(NamedTuple):
    """One file with frames of the stream."""

    name: str
    size: int
    header: SegmentHeader
    headless: bool  # its own header is damaged; `header` is what its frames say

    @property
    def first(self) -> int:
        """Its first number."""
        return self.header.first


class Misfit(NamedTuple):
    """A file that is in a stream's folder and does not belong to it, or cannot be used."""

    reason: str
    movable: bool  # False: it may hold items, and only its owner or permissions keep them from us


@dataclass(slots=True, kw_only=True)
class MarksLook:
    """Both copies of the marks. `copies` are whole, empty or damaged."""

    marks: Marks | None = None
    copies: tuple[str, str] = ("empty", "empty")
    exists: bool = False

    @property
    def sure(self) -> bool:
        """Whether these marks are the last ones that were saved."""
        return "damaged" not in self.copies


@dataclass(slots=True, kw_only=True)
class Look:
    """One look at a stream's folder. `segments` hold something unsettled, the last of them is where it goes on."""

    folder: Path
    marks: MarksLook
    known: int = 0  # at least so many items were durable before the files were looked at
    stream: int | None = None
    segments: list[SegmentFile] = field(default_factory=list)
    spare: list[str] = field(default_factory=list)
    used_bytes: int = 0
    misfits: dict[str, Misfit] = field(default_factory=dict)
    quarantined: int = 0  # files that were put aside

    def before(self, index: int) -> int | None:
        """The number that the segment after this one begins with."""
        return self.segments[index + 1].first if index + 1 < len(self.segments) else None


class StreamStat(Struct, frozen=True, kw_only=True):
    """One stream at one instant, in items, as a process that opens it now would count them."""

    name: str
    accepted: int
    waiting: int
    results: dict[str, int]  # settled items by result
    used_bytes: int
    segments: int  # files that hold something unsettled, or are being written
    spare_segments: int  # files kept for the next ones
    oldest_at_ns: int | None  # wall clock; None: nothing waits
    quarantined: int


class StoredItem(NamedTuple):
    """An item that is not settled. `at_ns`: when its frame was written."""

    sequence: int
    at_ns: int
    data: bytes


def streams_in(folder: Path) -> list[str]:
    """Names of the streams in a spool's folder, sorted. Raises `OSError`."""
    found = []
    for name in _disk.names(folder):
        if name == QUARANTINE or not (folder / name).is_dir():
            continue
        inside = _disk.names(folder / name)
        if MARKS_NAME in inside or any(_SEGMENT_NAME.fullmatch(one) for one in inside):
            found.append(name)
    return found


def holder(folder: Path) -> str | None:
    """The process that has the spool open; None when nobody has. Takes no lock: that could keep an owner from starting.

    A process of another process namespace (another container) is not seen.
    """
    try:
        lock = (folder / LOCK_NAME).stat()
        table = Path("/proc/locks").read_text()
    except OSError:
        return None
    written = lock_holder(folder)
    for pid, major, minor, inode in _LOCK_LINE.findall(table):
        same_volume = (int(major, 16), int(minor, 16)) == (os.major(lock.st_dev), os.minor(lock.st_dev))
        if int(inode) == lock.st_ino and (same_volume or pid == written):
            return pid if int(pid) > 0 else written
    return None


# One look


def look_at_marks(folder: Path) -> MarksLook:
    """Raises `NewerFormat` and `OSError`."""
    found = MarksLook()
    for _ in range(LOOKS_AT_MARKS):
        found = _marks(folder)
        if found.sure and (found.marks is not None or not found.exists):
            break
    return found


def _marks(folder: Path) -> MarksLook:
    try:
        fd = _disk.open_to_read(folder / MARKS_NAME)
    except FileNotFoundError:
        return MarksLook()
    try:
        copies = [read_copy(_disk.read(fd, COPY_BYTES, at * COPY_BYTES)) for at in (0, 1)]
    finally:
        _disk.close(fd)
    readable = [copy for copy in copies if isinstance(copy, tuple)]
    if not readable:
        return MarksLook(copies=(str(copies[0]), str(copies[1])), exists=True)
    revision, marks = max(readable, key=lambda copy: copy[0])
    names = ["whole" if isinstance(copy, tuple) else copy for copy in copies]
    if revision > 1:
        # The second save filled the other copy: if that is empty now, something wiped it.
        names = ["damaged" if name == "empty" else name for name in names]
    return MarksLook(marks=marks, copies=(names[0], names[1]), exists=True)


def look(folder: Path) -> Look:
    """One stream's folder at about this instant. Raises `NewerFormat` and `OSError`."""
    earlier = look_at_marks(folder).marks
    headers: list[SegmentFile] = []
    found = Look(folder=folder, marks=MarksLook(), known=earlier.committed if earlier else 0)
    for name in _disk.names(folder):
        if _SEGMENT_NAME.fullmatch(name) and slot_name(int(name[:-4])) == name:
            _look_at(found, name, earlier.stream if earlier else None, headers)
        elif name == QUARANTINE and (folder / name).is_dir():
            found.quarantined = len(_disk.names(folder / name))
        elif name not in (MARKS_NAME, LOCK_NAME):
            found.misfits[name] = Misfit("no file of a spool", movable=True)
    found.marks = look_at_marks(folder)
    _sort(found, headers)
    return found


def _look_at(found: Look, name: str, stream: int | None, headers: list[SegmentFile]) -> None:
    path = found.folder / name
    try:
        if path.is_symlink() and not path.exists():
            raise OSError(errno.ELOOP, "it is a link to nothing")
        if not modes.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "it is no ordinary file")
        fd = _disk.open_to_read(path)
        try:
            window = Window(_disk, fd, size := _disk.size(fd))
            what = identify(window, stream)
            headless = read_segment_header(window.head(SEGMENT_HEADER_BYTES)) is None
        finally:
            _disk.close(fd)
    except FileNotFoundError:
        return  # its owner has just removed it
    except OSError as error:
        found.misfits[name] = Misfit(f"cannot be used: {error.strerror}", movable=error.errno in NO_FILE)
        return
    if isinstance(what, Foreign):
        found.misfits[name] = Misfit(what.reason, movable=True)
    elif isinstance(what, Empty):
        found.spare.append(name)
        found.used_bytes += size
    else:
        headers.append(SegmentFile(name, size, what, headless))


def _sort(found: Look, headers: list[SegmentFile]) -> None:
    """Files into those of this stream in use, spare ones and misfits, by the rules that opening the spool has."""
    marks = found.marks.marks
    found.stream = marks.stream if marks else _stream_of(headers)
    own = []
    for file in headers:
        if file.header.stream == found.stream:
            own.append(file)
        else:
            found.misfits[file.name] = Misfit("a segment of another stream", movable=True)
    own.sort(key=lambda file: file.header.generation)
    for _, same in groupby(list(own), key=lambda file: file.header.generation):
        copies = list(same)
        if len(copies) == 1:
            continue
        copies.remove(max(copies, key=lambda file: _filled(found.folder, file)))
        for file in copies:
            own.remove(file)
            found.misfits[file.name] = Misfit("a copy of another segment", movable=True)
    found.used_bytes += sum(file.size for file in own)
    through = marks.through if marks else 0
    for index, file in enumerate(own):
        if index + 1 < len(own) and own[index + 1].first <= through + 1:
            found.spare.append(file.name)
        else:
            found.segments.append(file)


def _filled(folder: Path, file: SegmentFile) -> tuple[int, int]:
    try:
        fd = _disk.open_to_read(folder / file.name)
    except FileNotFoundError:
        return 0, 0  # its owner has just removed it
    try:
        return fill(Window(_disk, fd, _disk.size(fd)), file.header)
    finally:
        _disk.close(fd)


def _stream_of(headers: list[SegmentFile]) -> int | None:
    """Without marks, the stream that most files are of; of several, that of the newest file."""
    files = Counter(file.header.stream for file in headers)
    newest = max(headers, key=lambda file: (files[file.header.stream], file.header.generation), default=None)
    return newest.header.stream if newest else None


# What is in it


def frames_of(found: Look, index: int, *, bodies: bool = False) -> Iterator[Frame | Damage]:
    """Frames of one segment and what is damaged between them; nothing when the file has gone."""
    segment = found.segments[index]
    try:
        fd = _disk.open_to_read(found.folder / segment.name)
    except FileNotFoundError:
        return
    try:
        window = Window(_disk, fd, _disk.size(fd))
        before = found.before(index)
        yield from frames(window, segment.header, offset=SEGMENT_HEADER_BYTES, before=before, bodies=bodies)
    finally:
        _disk.close(fd)


def items(folder: Path) -> Iterator[StoredItem]:
    """What is not settled in a stream, in order, one frame in memory at a time. Raises `NewerFormat` and `OSError`."""
    found = look(folder)
    acks = acks_of(found.marks.marks)
    for index in range(len(found.segments)):
        for frame in frames_of(found, index, bodies=True):
            if isinstance(frame, Damage) or frame.items is None:
                continue
            for begin, end in acks.unsettled(frame.header.first, frame.header.last):
                for number in range(begin, end + 1):
                    yield StoredItem(number, frame.header.at_ns, frame.items[number - frame.header.first])


def acks_of(marks: Marks | None) -> Acks:
    """What these marks say is settled."""
    return Acks(marks.through, marks.ranges) if marks else Acks()


class Account(NamedTuple):
    """What is settled, and how, after the numbers that no file can hold (`lost`) were counted."""

    acks: Acks
    results: dict[str, int]
    accepted: int
    lost: list[tuple[int, int]]


def account(found: Look, scanned: int, latest: MarksLook, only: Sequence[tuple[int, int]] | None = None) -> Account:
    """The numbers that a process which opens the stream begins with.

    `scanned`: the last number that was found. `latest`: the marks after that; they say what vanished meanwhile.
    `only`: nothing else can be lost.
    """
    marks = latest.marks
    acks, results = acks_of(marks), dict(marks.results) if marks else {}
    if settled := acks.settled() - sum(results.values()):
        results["unknown"] = results.get("unknown", 0) + settled
    head = found.segments[0].first if found.segments else found.known + 1
    result = "dropped:missing" if latest.sure and marks else "unknown"
    gaps = [(1, head - 1), (max(scanned + 1, head), found.known)]
    lost = [part for first, last in gaps for part in acks.unsettled(first, last)]
    if only is not None:
        lost = [(max(a, c), min(b, d)) for a, b in lost for c, d in only if max(a, c) <= min(b, d)]
    for begin, end in lost:
        acks.add(begin, end)
        results[result] = results.get(result, 0) + end - begin + 1
    return Account(acks, results, max(scanned, found.known, marks.committed if marks else 0, acks.through), lost)


def stat(folder: Path) -> StreamStat:
    """One stream's numbers; reads the first and the last segment only. Raises `NewerFormat` and `OSError`."""
    found, numbers, oldest = _numbers(folder, None)
    if numbers.lost:
        # Files change their names' meaning while they are listed: what is lost is so in a second look too.
        found, numbers, oldest = _numbers(folder, numbers.lost)
    waiting = numbers.accepted - numbers.acks.settled()
    return StreamStat(
        name=folder.name,
        accepted=numbers.accepted,
        waiting=waiting,
        results=numbers.results,
        used_bytes=found.used_bytes,
        segments=len(found.segments),
        spare_segments=len(found.spare),
        oldest_at_ns=oldest if waiting else None,
        quarantined=found.quarantined,
    )


def _numbers(folder: Path, only: Sequence[tuple[int, int]] | None) -> tuple[Look, Account, int | None]:
    found = look(folder)
    scanned, oldest = _last_number(found), _oldest(found)
    return found, account(found, scanned, look_at_marks(folder), only), oldest


def _last_number(found: Look) -> int:
    if not found.segments:
        return 0
    last = found.segments[-1].first - 1
    for frame in frames_of(found, len(found.segments) - 1):
        if isinstance(frame, Frame):
            last = frame.header.last
    return last


def _oldest(found: Look) -> int | None:
    acks = acks_of(found.marks.marks)
    for index in range(len(found.segments)):
        for frame in frames_of(found, index):
            if isinstance(frame, Frame) and any(acks.unsettled(frame.header.first, frame.header.last)):
                return frame.header.at_ns
    return None


def newer(folder: Path, error: NewerFormat) -> str:
    """The sentence for files that this program is too old for."""
    return f"{folder} was written by a newer engineroom ({error}); use that one"
