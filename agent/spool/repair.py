"""A stream's folder with damage → one in which `check` finds nothing; what could be read can still be read.

Frames are never touched. Files that do not belong here are moved aside, marks are written anew from what is known, and
items that cannot be read are settled as lost, as the owner would do when it reaches them. The caller holds the lock.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import Struct, structs

from agent.spool.acks import Acks
from agent.spool.check import Findings, Problem, StreamCheck, Stretch, check, read_all
from agent.spool.files import Files
from agent.spool.frame import encode_segment_header
from agent.spool.inspect import QUARANTINE, SegmentFile, account, look_at_marks
from agent.spool.marks import NAME as MARKS_NAME
from agent.spool.marks import Marks, MarksFile

COPY_BYTES = 1 << 20
_QUIET: Callable[[int], None] = lambda _: None  # noqa: E731 a default that does nothing


class CannotRepair(Exception):
    """Somebody has to do something first; nothing of the stream was changed."""


class Repaired(Struct, frozen=True, kw_only=True):
    """What was done (or would be) to one stream, in order, and what is still wrong after it."""

    name: str
    done: list[str]
    lost: int  # items that were settled as lost
    left: list[Problem]


@dataclass(slots=True)
class _Plan:
    """Steps in the order in which a crash between any two of them loses nothing."""

    done: list[str] = field(default_factory=list)
    steps: list[Callable[[], None]] = field(default_factory=list)
    lost: int = 0

    def add(self, text: str, step: Callable[[], None]) -> None:
        self.done.append(text)
        self.steps.append(step)


def repair(folder: Path, *, dry_run: bool = False, progress: Callable[[int], None] = _QUIET) -> Repaired:
    """Mend one stream whose lock the caller holds. Raises `CannotRepair`, `NewerFormat` and `OSError`."""
    before = check(folder, progress)
    if not before.problems:
        return Repaired(name=folder.name, done=[], lost=0, left=[])
    found = read_all(folder, progress)
    plan = _plan(folder, found, before)
    left: list[Problem] = []
    if not dry_run:
        for step in plan.steps:
            step()
        left = check(folder, progress).problems
    return Repaired(name=folder.name, done=plan.done, lost=plan.lost, left=left)


def _plan(folder: Path, found: Findings, before: StreamCheck) -> _Plan:
    for name, misfit in sorted(found.look.misfits.items()):
        if not misfit.movable:
            raise CannotRepair(
                f"{folder / name} {misfit.reason}; it may hold items, so let this user read and write it, then repair"
            )
    plan, disk = _Plan(), Files()
    aside = folder / QUARANTINE
    if aside.exists() and not aside.is_dir():
        raise CannotRepair(f"{aside} is needed as a folder and is a file; move it away")
    for stretch in found.stretches:
        if any(first <= stretch.last and last >= stretch.first for first, last in found.unreadable):
            name = f"{stretch.generation:012d}-{stretch.offset:010d}.bad"
            size = stretch.end - stretch.offset
            plan.add(f"copied {size} damaged bytes of {stretch.file} to {QUARANTINE}/{name}", _copying(folder, stretch))
    for name, misfit in sorted(found.look.misfits.items()):
        target = _free_name(aside, name)
        plan.add(f"moved {name} to {QUARANTINE}/{target.name}: {misfit.reason}", _moving(disk, folder / name, target))
    for file in found.look.segments:
        if file.headless:
            plan.add(f"wrote the header of {file.name} anew", _heading(disk, folder, file))
    damaged = any(problem.kind == "marks" for problem in before.problems)
    if damaged and found.look.marks.exists:
        target = _free_name(aside, MARKS_NAME)
        plan.add(f"copied the damaged marks to {QUARANTINE}/{target.name}", _copying_marks(folder, target))
    if damaged or found.unreadable:
        _settle(plan, folder, disk, found, damaged=damaged)
    return plan


def _settle(plan: _Plan, folder: Path, disk: Files, found: Findings, *, damaged: bool) -> None:
    marks = _new_marks(found)
    if damaged:
        plan.add(f"wrote the marks anew: everything up to item {marks.through} is settled", lambda: None)
    for first, last in found.unreadable:
        count = last - first + 1
        plan.lost += count
        name = f"item {first}" if count == 1 else f"items {first} to {last}"
        plan.done.append(f"settled {name} as {_why(found, first)}: {count} cannot be read")
    plan.steps.append(lambda: _save(folder, disk, marks))


def _new_marks(found: Findings) -> Marks:
    marks = found.look.marks.marks
    highest = max(found.highest, found.look.known)
    acks, results, accepted, _ = account(found.look, highest, found.look.marks)
    acks = Acks(acks.through, acks.ranges())
    for first, last in found.unreadable:
        for begin, end in list(acks.unsettled(first, last)):
            acks.add(begin, end)
            why = _why(found, first)
            results[why] = results.get(why, 0) + end - begin + 1
    stream = marks.stream if marks else found.look.stream
    return Marks(
        stream=stream if stream is not None else int.from_bytes(os.urandom(8), "little"),
        committed=accepted,
        through=acks.through,
        ranges=tuple(acks.ranges()),
        results=results,
    )


def _why(found: Findings, number: int) -> str:
    """The result that the owner would give to an item that it cannot read."""
    if not found.marks_sure:
        return "unknown"
    inside = any(stretch.first <= number <= stretch.last for stretch in found.stretches)
    return "dropped:damaged" if inside else "dropped:missing"


# The steps


def _copying(folder: Path, stretch: Stretch) -> Callable[[], None]:
    name = f"{stretch.generation:012d}-{stretch.offset:010d}.bad"
    return lambda: _copy(folder / stretch.file, _made(folder) / name, stretch.offset, stretch.end)


def _copying_marks(folder: Path, target: Path) -> Callable[[], None]:
    return lambda: _copy(folder / MARKS_NAME, _made(folder) / target.name, 0, (folder / MARKS_NAME).stat().st_size)


def _copy(source: Path, target: Path, begin: int, end: int) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        reader.seek(begin)
        for piece in _pieces(reader.read, end - begin):
            writer.write(piece)
        writer.flush()
        os.fsync(writer.fileno())


def _pieces(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    while size > 0 and (piece := read(min(size, COPY_BYTES))):
        size -= len(piece)
        yield piece


def _made(folder: Path) -> Path:
    aside = folder / QUARANTINE
    aside.mkdir(mode=0o700, exist_ok=True)
    return aside


def _moving(disk: Files, source: Path, target: Path) -> Callable[[], None]:
    def move() -> None:
        _made(source.parent)
        source.rename(target)
        disk.sync_folder(target.parent)
        disk.sync_folder(source.parent)

    return move


def _free_name(aside: Path, name: str) -> Path:
    number, target = 1, aside / name
    while os.path.lexists(target):
        number += 1
        target = aside / f"{name}.{number}"
    return target


def _heading(disk: Files, folder: Path, file: SegmentFile) -> Callable[[], None]:
    """The header that the file's frames lead to."""

    def write() -> None:
        fd = disk.open(folder / file.name)
        try:
            disk.write(fd, [encode_segment_header(file.header)], 0)
            disk.sync(fd)
        finally:
            disk.close(fd)

    return write


def _save(folder: Path, disk: Files, marks: Marks) -> None:
    """Over the damaged copy first, then over the other one, so that both are whole."""
    file = MarksFile(folder, disk)
    try:
        file.load()
        for _ in (1, 2):
            if not file.save(marks):
                raise CannotRepair(f"{folder / MARKS_NAME} has no room for {len(marks.ranges)} ranges of settled items")
    finally:
        file.close()
    latest = look_at_marks(folder)
    if latest.marks is None or structs.asdict(latest.marks) != structs.asdict(marks):
        raise OSError(5, "what was written is not what is read", str(folder / MARKS_NAME))
