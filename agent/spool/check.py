"""Every frame of a stream → what of it cannot be read, told once it has been seen twice.

A first look at files that are being written may meet half of a write. What is wrong only for that reason is right in
the second look, or settled by then; so nothing is called damaged that is merely being written.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import Struct

from agent.spool.acks import Acks
from agent.spool.inspect import Look, MarksLook, acks_of, frames_of, look, look_at_marks
from agent.spool.segment import Damage

Progress = Callable[[int], None]
"""Told how many bytes more have been read."""

Range = tuple[int, int]


class Problem(Struct, frozen=True, kw_only=True):
    """Something that is wrong with a stream. `kind`: damaged, missing, foreign, unreadable, header or marks.

    damaged and missing: items `first` to `last` cannot be read; `bytes` at `offset` of `file` stand where they were.
    """

    kind: str
    text: str
    file: str | None = None
    offset: int | None = None
    bytes: int | None = None
    first: int | None = None
    last: int | None = None
    items: int | None = None  # not settled, and lost


class StreamCheck(Struct, frozen=True, kw_only=True):
    """What one stream's files say when every frame is read. Empty `problems`: all is well."""

    name: str
    frames: int
    items: int  # in these frames, settled ones included
    read_bytes: int
    problems: list[Problem]
    notes: list[str]  # worth knowing, nothing to mend


@dataclass(slots=True)
class Stretch:
    """Bytes of a segment that are no frames, and the numbers that must have been there."""

    file: str
    generation: int
    offset: int
    end: int
    first: int
    last: int


@dataclass(slots=True, kw_only=True)
class Findings:
    """All frames of one look, and what is wrong in it."""

    look: Look
    good: Acks = field(default_factory=Acks)  # numbers that can be read
    stretches: list[Stretch] = field(default_factory=list)
    unfinished: int = 0  # items of a last frame that was never completed
    highest: int = 0
    frames: int = 0
    items: int = 0
    read_bytes: int = 0
    settled: Acks = field(default_factory=Acks)
    marks_sure: bool = True
    unreadable: list[Range] = field(default_factory=list)  # not settled and not there

    @property
    def headless(self) -> set[tuple[str, int]]:
        return {(file.name, file.header.generation) for file in self.look.segments if file.headless}


def read_all(folder: Path, progress: Progress, only: "Findings | None" = None) -> Findings:
    """One look at everything, or at what `only` found wrong. Raises `NewerFormat` and `OSError`."""
    found = Findings(look=look(folder))
    segments = found.look.segments
    for index, segment in enumerate(segments):
        found.highest = max(found.highest, segment.first - 1)
        if only is None or _concerns(only, found.look, index):
            _read_segment(found, index, progress)
    latest = look_at_marks(folder)  # what was released meanwhile is settled in these
    found.settled = acks_of(latest.marks)
    found.marks_sure = latest.sure and (latest.marks is not None or _never_saved(latest, found.look))
    if not found.marks_sure and segments and segments[0].first > found.settled.through + 1:
        for begin, end in list(found.settled.unsettled(1, segments[0].first - 1)):
            found.settled.add(begin, end)  # older marks: what is gone from the front had been settled and released
    span = [(1, max(found.highest, found.look.known))] if only is None else only.unreadable
    missing = [gap for first, last in span for gap in found.settled.unsettled(first, last)]
    found.unreadable = [gap for first, last in missing for gap in found.good.unsettled(first, last)]
    return found


def _never_saved(marks: MarksLook, found: Look) -> bool:
    """Empty marks are right as long as nothing was settled; what was released from the front had been settled."""
    return not found.segments or (marks.exists and found.segments[0].first <= 1)


def _concerns(only: Findings, now: Look, index: int) -> bool:
    segment, before = now.segments[index], now.before(index)
    if any(stretch.generation == segment.header.generation for stretch in only.stretches):
        return True
    return any(last >= segment.first and (before is None or first < before) for first, last in only.unreadable)


def _read_segment(found: Findings, index: int, progress: Progress) -> None:
    segment, before = found.look.segments[index], found.look.before(index)
    following = segment.first
    pending: list[Damage] = []
    good_end = at = 0

    def lost(last: int) -> None:
        begin, end = (pending[0].offset, pending[-1].end) if pending else (good_end, segment.size)
        found.stretches.append(Stretch(segment.name, segment.header.generation, begin, end, following, last))
        pending.clear()

    for frame in frames_of(found.look, index):
        progress(frame.end - at)
        at = frame.end
        if isinstance(frame, Damage):
            pending.append(frame)
            continue
        if pending:
            lost(frame.header.first - 1)
        _add(found.good, frame.header.first, frame.header.last)
        following, good_end = frame.header.last + 1, frame.end
        found.frames += 1
        found.items += frame.header.items
    progress(segment.size - at)
    found.read_bytes += segment.size
    found.highest = max(found.highest, following - 1)
    if before is None:
        found.unfinished = sum(damage.header.items for damage in pending if damage.header is not None)
    elif following < before:
        following_generation = found.look.segments[index + 1].header.generation
        if pending or following_generation == segment.header.generation + 1:
            lost(before - 1)
        found.highest = max(found.highest, before - 1)


def _add(good: Acks, first: int, last: int) -> None:
    """Numbers may stand twice on the disk: a frame whose sync failed is written again elsewhere."""
    for begin, end in list(good.unsettled(first, last)):
        good.add(begin, end)


# Two looks


def check(folder: Path, progress: Progress = lambda _: None, *, owned: bool = False) -> StreamCheck:
    """Read every frame of one stream. `owned`: a process has it open. Raises `NewerFormat` and `OSError`."""
    first = read_all(folder, progress)
    marks_wrong = not first.marks_sure
    if not (first.unreadable or first.stretches or first.look.misfits or first.headless or marks_wrong):
        return _result(folder, first, first, [], [], owned)
    second = read_all(folder, progress, only=first)
    seen = {(stretch.generation, stretch.offset) for stretch in first.stretches}
    stretches = [stretch for stretch in second.stretches if (stretch.generation, stretch.offset) in seen]
    problems = [*_unreadable(second, stretches), *_misfits(first, second), *_headless(first, second)]
    if marks_wrong and not second.marks_sure:
        problems += _marks(second, owned)
    return _result(folder, first, second, stretches, problems, owned)


def _unreadable(second: Findings, stretches: list[Stretch]) -> Iterator[Problem]:
    rest = Acks()
    for stretch in stretches:
        inside = _overlap(second.unreadable, stretch.first, stretch.last)
        if not inside:
            continue
        count = sum(last - first + 1 for first, last in inside)
        size = stretch.end - stretch.offset
        yield Problem(
            kind="damaged", file=stretch.file, offset=stretch.offset, bytes=size, first=stretch.first,
            last=stretch.last, items=count,
            text=f"{size} bytes at {stretch.offset} are damaged: {_numbers(stretch.first, stretch.last, count)}",
        )  # fmt: skip
        for first, last in inside:
            _add(rest, first, last)
    for begin, end in second.unreadable:
        for first, last in rest.unsettled(begin, end):
            count = last - first + 1
            yield Problem(
                kind="missing", first=first, last=last, items=count,
                text=f"no file holds {_numbers(first, last, count)}",
            )  # fmt: skip


def _numbers(first: int, last: int, count: int) -> str:
    name = f"item {first}" if first == last else f"items {first} to {last}"
    return name if count == last - first + 1 else f"{name}, {count} of them not settled"


def _overlap(ranges: list[Range], first: int, last: int) -> list[Range]:
    return [(max(a, first), min(b, last)) for a, b in ranges if max(a, first) <= min(b, last)]


def _misfits(first: Findings, second: Findings) -> Iterator[Problem]:
    for name, misfit in second.look.misfits.items():
        if first.look.misfits.get(name) == misfit:
            yield Problem(kind="foreign" if misfit.movable else "unreadable", file=name, text=misfit.reason)


def _headless(first: Findings, second: Findings) -> Iterator[Problem]:
    for name, _ in sorted(first.headless & second.headless):
        yield Problem(kind="header", file=name, text="the header of the file is damaged; its frames can be read")


def _marks(second: Findings, owned: bool) -> Iterator[Problem]:
    copies = second.look.marks.copies
    if "whole" not in copies:
        exists = second.look.marks.exists
        yield Problem(
            kind="marks", file="marks",
            text=("both copies are damaged" if exists else "the file is missing") + ": what is settled is not known",
        )  # fmt: skip
    elif not owned:
        yield Problem(
            kind="marks", file="marks", text="one of the two copies is damaged: what was settled last may be forgotten"
        )


def _result(
    folder: Path, first: Findings, second: Findings, stretches: list[Stretch], problems: list[Problem], owned: bool
) -> StreamCheck:
    notes = [
        f"{stretch.file}: {stretch.end - stretch.offset} bytes at {stretch.offset} are damaged; their items "
        f"({stretch.first} to {stretch.last}) are settled"
        for stretch in stretches
        if not _overlap(second.unreadable, stretch.first, stretch.last)
    ]
    if first.unfinished and not owned:
        notes.append(f"the last frame was never completed ({first.unfinished} items); it will be written over")
    if first.look.quarantined:
        notes.append(f"{first.look.quarantined} files are kept in quarantine/")
    if owned and "damaged" in second.look.marks.copies and "whole" in second.look.marks.copies:
        notes.append("one of the two copies of the marks is damaged; the owner writes over it when it saves next")
    return StreamCheck(
        name=folder.name,
        frames=first.frames,
        items=first.items,
        read_bytes=first.read_bytes,
        problems=problems,
        notes=notes,
    )
