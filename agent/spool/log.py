"""One stream on disk: items in, durable, and out again in order. Blocking; used by one thread at a time.

Segment files keep their names; a new use of a file gets the next generation. `write` is durable when it returns.
`save` makes settlements durable first and only then lets go of segments: a crash between the two repeats, never loses.
"""

import errno
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import structlog

from agent.clock import NS, boot_ns
from agent.spool.bounds import Bounds
from agent.spool.files import Files
from agent.spool.frame import (
    SEGMENT_HEADER_BYTES,
    NewerFormat,
    SegmentHeader,
    encode_frame,
    encode_segment_header,
    frame_bytes,
    padded,
)
from agent.spool.marks import Marks, MarksFile
from agent.spool.quarantine import Quarantine
from agent.spool.recovery import Lost, Recovered, recover
from agent.spool.segment import Damage, Window, frames, slot_name

log = structlog.get_logger()

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EFBIG}
WRITE_ATTEMPTS = 3
SPARE_SEGMENTS = 1  # empty files kept at least for the next segment: writing over old blocks is faster than growing


class NoRoom(Exception):
    """Nothing can be written now. `reason` says why; what was offered is still the caller's."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class Segment:
    """A file in use. Its numbers go from `first` to before the next segment's first."""

    slot: int
    header: SegmentHeader
    first: int
    end: int = SEGMENT_HEADER_BYTES  # where the next frame goes
    retired: bool = False  # a write to it failed: what was durable before is read, nothing more is written


class Position(NamedTuple):
    """Where the next frame to read is."""

    generation: int
    offset: int


class Written(NamedTuple):
    """A frame that is durable."""

    first: int
    last: int
    after: Position


class Piece(NamedTuple):
    """Items of one frame as they were written."""

    first: int
    at_ns: int
    items: list[bytes]


class Log:
    """The files of one stream. Raises `NewerFormat` and `OSError` when opened."""

    def __init__(
        self, folder: Path, name: str, bounds: Bounds, files: Files, *, segment_bytes: int, max_segments: int
    ) -> None:
        self.folder = folder
        self.name = name
        self.segment_bytes = segment_bytes
        # The largest item that fits into a segment.
        self.max_item_bytes = padded(segment_bytes - SEGMENT_HEADER_BYTES - 7) - frame_bytes(0, 1)
        self._max_segments = max_segments
        self._bounds = bounds
        self._files = files
        self._marks = MarksFile(folder, files)
        try:
            self.recovered: Recovered = recover(folder, files, self._marks)
        except (OSError, NewerFormat):
            self._marks.close()
            raise
        self.stream = self.recovered.stream
        self.committed = self.recovered.committed
        self._saved_through = self.recovered.marks.through if self._marks.synced else 0
        sizes = self.recovered.sizes
        self._segments = [Segment(s.slot, s.header, s.first, sizes[s.slot]) for s in self.recovered.segments]
        self._spare: list[int] = []  # slots of files that hold nothing any more
        self._sizes = dict(self.recovered.sizes)  # slot -> bytes
        bounds.count(name, sum(self._sizes.values()))
        self._generation = self.recovered.generation
        self._folder_changed = True  # a file's name may not be durable yet
        if self._segments:
            self._segments[-1].end = self.recovered.end
        self._fd: int | None = None  # of the last segment
        self._reader: tuple[int, int] | None = None  # (generation, descriptor)
        self._quarantine = Quarantine(folder, name, bounds, files)
        self._begun = 0  # segments, since the last save
        self._keep = SPARE_SEGMENTS
        self._failing = False  # the last write ended in a retired segment
        self.sync_seconds: float | None = None
        self.syncs = 0
        self.retired_segments = 0
        self._removing_fails = False
        try:
            for slot in self.recovered.spare:
                self._let_go(slot)
            self._make_last()
        except OSError:
            self.close()
            raise

    def _make_last(self) -> None:
        """Sync what a killed process wrote and did not: what is handed out from here on must be durable.

        On a new folder also say whose it is, so that its files can be told from foreign ones ever after.
        """
        retire = self.recovered.sealed
        try:
            if self._segments:
                self._open_last()
                assert self._fd is not None
                self._files.sync(self._fd)
                self._files.sync_folder(self.folder)
                self._folder_changed = False
            elif self.committed == 0:
                self._marks.save(Marks(stream=self.stream))
        except OSError as error:
            if error.errno not in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
                raise
            retire = True
        if retire and self._segments:
            self._segments[-1].retired = True
            self._close_writer()

    @property
    def used_bytes(self) -> int:
        return self._bounds.used(self.name)

    @property
    def damaged_frames(self) -> int:
        return self._quarantine.damaged_frames

    def oldest_at_ns(self) -> int | None:
        """When the oldest segment in use was begun."""
        return self._segments[0].header.created_at_ns if self._segments else None

    # Writing

    def write(self, items: Sequence[bytes], at_ns: int) -> Written:
        """Make one frame of the items durable; all together no larger than one item may be, 5 bytes more for each.

        Raises `NoRoom`, with nothing taken.
        """
        first = self.committed + 1
        size = frame_bytes(sum(map(len, items)), len(items))
        if size > self.segment_bytes - SEGMENT_HEADER_BYTES:
            raise ValueError(f"a frame of {size} bytes does not fit into a segment of {self.segment_bytes}")
        problem: OSError | None = None
        for _ in range(WRITE_ATTEMPTS):
            segment = self._segment_for(first, size, at_ns)
            try:
                return self._write(segment, first, items, at_ns)
            except OSError as error:
                if error.errno in NO_ROOM:
                    raise self._no_room(error) from error
                problem = error
                self._retire(segment, error)
        assert problem is not None
        raise NoRoom(f"{WRITE_ATTEMPTS} segments in a row failed: {problem.strerror} in {self.folder}")

    def _write(self, segment: Segment, first: int, items: Sequence[bytes], at_ns: int) -> Written:
        assert self._fd is not None
        buffers = encode_frame(self.stream, segment.header.generation, first, at_ns, items)
        at = segment.end
        if at == SEGMENT_HEADER_BYTES:
            buffers.insert(0, encode_segment_header(segment.header))
            at = 0
        self._files.write(self._fd, buffers, at)
        began = boot_ns()
        self._files.sync(self._fd)
        self.sync_seconds = (boot_ns() - began) / NS
        self.syncs += 1
        if self._folder_changed:
            self._files.sync_folder(self.folder)
            self._folder_changed = False
        segment.end = at + sum(map(len, buffers))
        self.committed = first + len(items) - 1
        self._failing = False
        return Written(first, self.committed, Position(segment.header.generation, segment.end))

    def _no_room(self, error: OSError) -> NoRoom:
        return NoRoom(f"{error.strerror} in {self.folder}")

    def _segment_for(self, first: int, size: int, at_ns: int) -> Segment:
        """The last segment, open for a frame of `size` bytes; a new one where that has no room. Raises `NoRoom`."""
        try:
            last = self._segments[-1] if self._segments else None
            if last is not None and not last.retired and last.end + size <= self._capacity():
                self._open_last()
            else:
                self._begin_segment(first, at_ns)
        except FileNotFoundError as error:  # somebody has removed it; the next attempt takes another one
            if self._segments:
                self._segments[-1].retired = True
            raise self._no_room(error) from error
        except OSError as error:
            raise self._no_room(error) from error
        return self._segments[-1]

    def _open_last(self) -> None:
        if self._fd is None:
            self._fd = self._files.open(self._path(self._segments[-1].slot))

    def _begin_segment(self, first: int, at_ns: int) -> None:
        """Make the next segment the last one. Raises `OSError` and `NoRoom`."""
        slot = self._take_slot()
        try:
            fd = self._files.open(self._path(slot))
        except FileNotFoundError:
            self._forget(slot)
            raise
        except OSError:
            self._spare.append(slot)
            raise
        self._close_writer()
        self._fd = fd
        self._generation += 1
        self._begun += 1
        header = SegmentHeader(self.stream, self._generation, first, at_ns)
        self._segments.append(Segment(slot, header, first))

    def _take_slot(self) -> int:
        """The slot of a file to use next: one in reserve, a new one, or one whose items are all settled."""
        if self._spare:
            return self._spare.pop()
        try:
            return self._new_file()
        except (NoRoom, OSError):
            # The last segment is let go of only when the next one has begun, which is just what cannot be.
            if not self._segments or self._saved_through < self.committed or self._segments[-1].retired:
                raise
            if self._capacity() != self.segment_bytes:
                raise
            self._close_reader()
            return self._segments.pop().slot

    def _capacity(self) -> int:
        """Of the last segment's file: the setting may have been another one when it was made."""
        return self._sizes[self._segments[-1].slot]

    def _new_file(self) -> int:
        taken = set(self._sizes) | self.recovered.foreign_slots
        slot = next((slot for slot in range(self._max_segments) if slot not in taken), None)
        if slot is None:
            raise NoRoom(f"the stream has all of its {self._max_segments} segments in use")
        if refusal := self._bounds.take(self.name, self.segment_bytes):
            raise NoRoom(refusal)
        self._sizes[slot] = self.segment_bytes
        try:
            fd = self._files.open(self._path(slot), create=True)
            try:
                if self._files.size(fd) > 0:
                    self.recovered.foreign_slots.add(slot)
                    raise FileExistsError(errno.EEXIST, f"somebody has put {slot_name(slot)} there", str(self.folder))
                self._files.reserve(fd, self.segment_bytes)
            finally:
                self._files.close(fd)
        except FileExistsError:
            self._forget(slot)
            raise
        except OSError:
            self._remove(slot)
            raise
        self._folder_changed = True
        return slot

    def _retire(self, segment: Segment, error: OSError) -> None:
        """After a failed write or sync nobody knows what the disk holds of it: never write to that file again."""
        self.retired_segments += 1
        if not self._failing:
            log.error(
                "spool_segment_retired", stream=self.name, folder=str(self.folder), segment=slot_name(segment.slot),
                reason=error.strerror,
            )  # fmt: skip
        self._failing = True
        self._close_writer()
        segment.retired = True
        if segment.first > self.committed:  # nothing in it was ever durable
            self._segments.pop()
            self._remove(segment.slot)

    def _close_writer(self) -> None:
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
            self._files.close(fd)
        except OSError:
            pass  # what was durable is durable, and the descriptor is gone in any case (close(2))

    # Reading

    def start(self, sequence: int) -> Position:
        """Where to read on for the number `sequence`."""
        index = max(0, bisect_right(self._segments, sequence, key=lambda segment: segment.first) - 1)
        if not self._segments:
            return Position(0, SEGMENT_HEADER_BYTES)
        return Position(self._segments[index].header.generation, SEGMENT_HEADER_BYTES)

    def read(
        self, position: Position, sequence: int, max_bytes: int, *, through: int | None = None, salvage: bool = True
    ) -> tuple[list[Piece], list[Lost], Position, int]:
        """Frames from `position` on whose items are numbered `sequence` to `through`, about `max_bytes` of them.

        Returns them, what is lost between them, where to go on, and the next number. Nothing that is not durable.
        Raises `OSError`; with `salvage`, what the disk cannot read (EIO) counts as damaged instead.
        """
        pieces: list[Piece] = []
        lost: list[Lost] = []
        taken = 0
        until = self.committed if through is None else min(through, self.committed)
        for index, segment in enumerate(self._segments):
            generation = segment.header.generation
            if generation < position.generation:
                continue
            is_last = index + 1 == len(self._segments)
            before = until + 1 if is_last else min(until + 1, self._segments[index + 1].first)
            if before <= sequence:
                continue
            offset = position.offset if generation == position.generation else SEGMENT_HEADER_BYTES
            end = segment.end if is_last else self._sizes[segment.slot]
            window = self._window(segment, end, salvage=salvage)
            known = 0  # the last number that a damaged frame says it holds
            try:
                for found in frames(window, segment.header, offset=offset, before=before, bodies=True):
                    offset = found.end
                    if isinstance(found, Damage):
                        self._quarantine.keep(segment.slot, generation, window, found)
                        known = found.header.last if found.header else known
                        continue
                    if found.header.last < sequence:
                        continue
                    if found.header.first > sequence:
                        lost.append(Lost(sequence, found.header.first - 1, "damaged"))
                    assert found.items is not None
                    pieces.append(Piece(found.header.first, found.header.at_ns, found.items))
                    sequence = found.header.last + 1
                    taken += found.header.length
                    if taken >= max_bytes:
                        return pieces, lost, Position(generation, offset), sequence
            except OSError:
                if not pieces:
                    raise
                return pieces, lost, Position(generation, offset), sequence
            if sequence < before:
                if offset < end and known < before - 1:
                    self._quarantine.keep(segment.slot, generation, window, Damage(offset, end, None))
                lost.append(Lost(sequence, before - 1, "damaged"))
                sequence = before
            position = Position(generation, offset)
        return pieces, lost, position, sequence

    def _window(self, segment: Segment, end: int, *, salvage: bool) -> Window:
        try:
            fd = self._open_to_read(segment)
        except FileNotFoundError:  # somebody has removed it: all that it held is lost
            return Window(self._files, -1, 0)
        return Window(self._files, fd, end, salvage=salvage)

    def _open_to_read(self, segment: Segment) -> int:
        generation = segment.header.generation
        if self._reader is not None and self._reader[0] == generation:
            return self._reader[1]
        fd = self._files.open_to_read(self._path(segment.slot))
        self._close_reader()
        self._reader = (generation, fd)
        return fd

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._files.close(self._reader[1])
            self._reader = None

    # Settling

    def save(self, marks: Marks) -> bool:
        """Make `marks` durable, then let go of the segments that hold nothing more. False: too many holes to write.

        Raises `OSError`.
        """
        if not self._marks.save(marks):
            return False
        self._saved_through = marks.through
        while len(self._segments) > 1 and self._segments[1].first <= marks.through + 1:
            segment = self._segments.pop(0)
            if self._reader is not None and self._reader[0] == segment.header.generation:
                self._close_reader()
            if segment.retired:
                self._remove(segment.slot)
            else:
                self._let_go(segment.slot)
        # As many as were begun since the last time will be wanted until the next.
        self._keep = max(SPARE_SEGMENTS, self._begun, self._keep - 1 - self._keep // 8)
        self._begun = 0
        self.trim()
        return True

    def trim(self) -> None:
        """Give back what is in reserve beyond what is wanted; all of it while the volume has too little free."""
        if not self._spare:
            return
        keep = 0 if self._under_floor() else self._keep
        while len(self._spare) > keep and self._remove(self._spare[-1]):
            self._spare.pop()

    def _under_floor(self) -> bool:
        try:
            return self._bounds.under_floor()
        except OSError:
            return False

    def _let_go(self, slot: int) -> None:
        if self._sizes[slot] == self.segment_bytes:
            self._spare.append(slot)
        else:
            self._remove(slot)  # of other settings, or cut: a frame might not fit

    def _remove(self, slot: int) -> bool:
        """False: the file is still there, and still counts."""
        try:
            self._files.remove(self._path(slot))
        except OSError as error:
            if not self._removing_fails:
                log.warning("spool_file_not_removed", stream=self.name, segment=slot_name(slot), reason=error.strerror)
            self._removing_fails = True
            return False
        self._removing_fails = False
        self._forget(slot)
        return True

    def _forget(self, slot: int) -> None:
        self._bounds.count(self.name, -self._sizes.pop(slot))

    def _path(self, slot: int) -> Path:
        return self.folder / slot_name(slot)

    def close(self) -> None:
        self._close_reader()
        self._close_writer()
        self._marks.close()
