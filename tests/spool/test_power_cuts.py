"""Fault 18, and 17: every state that a power cut or a kill at any instant may leave opens, and nothing was lost."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.spool.frame import NewerFormat
from agent.spool.log import NoRoom
from tests.support.recording_files import CutState, Killed, RecordingFiles
from tests.support.spool import Desk, open_log

LONG = bool(os.environ.get("ENGINEROOM_LONG"))
FOLDER = Path("/nowhere/records")
NEVER = 1 << 60
SEGMENT_BYTES = 2048


class Event(NamedTuple):
    """What was promised between the things done `begun` and `ended` (counts of them)."""

    begun: int
    ended: int
    written: dict[int, bytes]
    settled: frozenset[int]


class Run:
    """A stream at work on a recorded disk, and what it promised when."""

    def __init__(self, seed: int, names: dict[Path, bytes] | None = None) -> None:
        self.dice = random.Random(seed)
        self.files = RecordingFiles(names)
        self.events: list[Event] = []
        self.settled: set[int] = set()
        self.held: dict[int, bytes] = {}
        self.restart()

    def open(self) -> Desk:
        return Desk(open_log(FOLDER, self.files, segment_bytes=SEGMENT_BYTES, max_segments=6))

    def restart(self) -> None:
        """As after kill -9: what the last life held is read again."""
        self.desk = self.open()
        self.held = {}
        self.settled = {n for n in range(1, self.desk.log.committed + 1) if not any(self.desk.acks.unsettled(n, n))}

    def write(self, *sizes: int) -> None:
        first = self.desk.log.committed + 1
        items = [self.dice.randbytes(size) for size in sizes]
        begun = len(self.files.done)
        numbered = dict(enumerate(items, first))
        try:
            self.desk.write(items)
        except NoRoom:
            return
        except Killed:
            self.events.append(Event(begun, NEVER, numbered, frozenset()))
            raise
        self.events.append(Event(begun, len(self.files.done), numbered, frozenset()))

    def settle(self, part: float) -> None:
        self.held |= self.desk.read_all()
        chosen = [number for number in self.held if self.dice.random() < part]
        for number in chosen:
            del self.held[number]
        self.desk.settle(chosen)
        self.settled |= set(chosen)

    def save(self) -> None:
        begun = len(self.files.done)
        try:
            assert self.desk.save()
        except Killed:
            self.events.append(Event(begun, NEVER, {}, frozenset(self.settled)))
            raise
        self.events.append(Event(begun, len(self.files.done), {}, frozenset(self.settled)))

    def step(self) -> None:
        kind = self.dice.choices(["write", "settle", "save", "kill", "stop"], [8, 4, 4, 2, 0.5])[0]
        if kind == "kill":
            self.kill()
        elif kind == "write":
            self.write(*(self.dice.choice([1, 60, 300, 700, 900]) for _ in range(self.dice.randint(1, 2))))
        elif kind == "settle":
            self.settle(self.dice.choice([0.3, 1.0]))
        elif kind == "save":
            self.save()
        else:
            self.save()
            self.desk.log.close()
            self.restart()

    def kill(self) -> None:
        """kill -9 in the middle of a write or a save; what is then handed out is promised, too."""
        self.files.kill_after = self.dice.randint(0, 4)
        try:
            self.write(self.dice.choice([60, 900]))
            self.save()
        except Killed:
            pass
        self.files.kill_after = None
        self.restart()
        self.held = self.desk.read_all()
        settled = frozenset(self.settled)
        self.events.append(Event(len(self.files.done), len(self.files.done), dict(self.held), settled))


def check(run: Run, count: int, names: dict[Path, bytes]) -> None:
    """Open what a cut after `count` things done left, and hold it to what was promised by then."""
    must: dict[int, bytes] = {}
    may: dict[int, list[bytes]] = {}
    perhaps_settled: set[int] = set()
    never: set[int] = set()
    for event in run.events:
        if event.begun >= count:
            break
        for number, item in event.written.items():
            may.setdefault(number, []).append(item)
        perhaps_settled |= event.settled
        if event.ended <= count:
            must |= event.written
            never |= event.settled
    files = RecordingFiles(names)
    desk = Desk(open_log(FOLDER, files, segment_bytes=SEGMENT_BYTES, max_segments=7))
    found = desk.read_all()
    desk.check()
    missing = {number for number in must if number not in found} - perhaps_settled
    assert not missing, "lost"
    assert all(item in may.get(number, []) for number, item in found.items()), "never written"
    assert all(found[number] == item for number, item in must.items() if number in found), "changed"
    assert not never & set(found), "settled, and handed out again"
    assert not desk.lost, "counted as lost"
    assert desk.log.damaged_frames == 0
    number = desk.write([b"fresh"]).first
    assert number > max([*never, *must], default=0), "a number was used twice"
    assert desk.read_all() == {number: b"fresh"}
    desk.settle(found)
    desk.close()
    again = Desk(open_log(FOLDER, files, segment_bytes=SEGMENT_BYTES, max_segments=7))
    assert again.read_all() == {number: b"fresh"}
    again.check()
    again.log.close()
    assert files.open_handles() == 0


def cuts(run: Run, most: int) -> Iterator[tuple[int, dict[Path, bytes]]]:
    dice = random.Random(1)
    for count in range(len(run.files.done) + 1):
        for names in CutState(run.files, count).states(most, dice):
            yield count, names


def replay(run: Run, most: int) -> int:
    tried = 0
    for count, names in cuts(run, most):
        try:
            check(run, count, names)
        except (AssertionError, OSError, NewerFormat, IndexError, ValueError) as error:
            tail = [f"{do.kind} {do.path.name} {do.offset}+{len(do.data) or do.size}" for do in run.files.done[:count]]
            raise AssertionError(f"cut after {count}: {tail[-12:]}: {error!r}") from error
        tried += 1
    return tried


def test_fault_18_every_state_of_a_short_life_keeps_what_was_promised() -> None:
    """Every state there is: creation, two segments, settling, saving, recycling."""
    run = Run(1)
    run.write(60)
    run.write(300, 60)
    run.settle(1.0)
    run.save()
    for _ in range(5):
        run.write(700)
    run.settle(1.0)
    run.save()
    run.write(1500)
    run.write(1500)
    run.write(700, 500, 300)
    assert replay(run, 1 << 20) > 200


@pytest.mark.parametrize("seed", range(200 if LONG else 8))
def test_fault_18_states_of_long_lives_keep_what_was_promised(seed: int) -> None:
    run = Run(seed)
    for _ in range(60):
        run.step()
    assert len({do.path for do in run.files.done if do.kind == "create"}) >= 3
    assert replay(run, 64 if LONG else 10) > 200


@pytest.mark.parametrize("seed", range(100 if LONG else 6))
def test_fault_18_a_second_cut_after_the_first(seed: int) -> None:
    """What the first opening after a cut does must itself survive a cut."""
    dice = random.Random(seed)
    first = Run(seed)
    for _ in range(40):
        first.step()
    states = [names for count, names in cuts(first, 4) if count > len(first.files.done) // 2]
    for names in dice.sample(states, 12):
        second = Run(seed + 1000, names)
        found = second.desk.read_all()
        second.held = dict(found)
        # What was found after the first cut is promised from here on: it was handed out.
        second.events.append(Event(-1, len(second.files.done), found, frozenset(second.settled)))
        for _ in range(12):
            second.step()
        for count in range(second.events[0].ended, len(second.files.done) + 1):
            for state in CutState(second.files, count).states(3, dice):
                check(second, count, state)


def test_fault_17_a_kill_at_any_instant_is_a_cut_that_keeps_everything() -> None:
    """kill -9 leaves the page cache: the state after each single thing that was done."""
    run = Run(5)
    for _ in range(120):
        run.step()
    kinds = {do.kind for do in run.files.done}
    assert kinds == {"create", "reserve", "write", "sync", "sync_folder", "remove"}
    for count in range(len(run.files.done) + 1):
        state = CutState(run.files, count)
        check(run, count, state.build([choice - 1 for choice in state.choices()]))
