"""A stream's files under everything at once: writes, settling, kills, damage, failing calls; segments wrap at 8."""

import errno
import os
import shutil
import struct
import tempfile
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from isal.isal_zlib import crc32

from agent.spool.acks import Acks
from agent.spool.frame import FRAME_HEADER_BYTES, NewerFormat
from agent.spool.log import NoRoom
from agent.spool.marks import COPY_BYTES
from agent.spool.segment import slot_of
from tests.support.faulty_files import FaultyFiles
from tests.support.spool import AT_NS, Desk, open_log
from tests.support.spool_places import Place, flip, places, poke

LONG = bool(os.environ.get("ENGINEROOM_LONG"))
SEGMENT_BYTES = 1024
MAX_SEGMENTS = 8
MAX_ITEM = 888
MOST_FOREIGN = 2


class LogMachine(RuleBasedStateMachine):
    """`accepted`: what was promised. `tried`: what may stand at a number, promised or not."""

    @initialize(segment_bytes=st.just(SEGMENT_BYTES))
    def begin(self, segment_bytes: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.files = FaultyFiles()
        self.accepted: dict[int, bytes] = {}
        self.tried: dict[int, set[bytes]] = {}
        self.damaged: set[int] = set()
        self.saved: set[int] = set()  # settled when the last save ended
        self.maybe_saved: set[int] = set()  # ... and when one began that did not end well
        self.saved_committed = 0
        self.delivered: dict[int, bytes] = {}  # in this life
        self.settled: set[int] = set()
        self.counter = 0
        self.desk = self.open()

    def open(self) -> Desk:
        self.files.heal()
        self.files.free = None
        log = open_log(self.folder, self.files, segment_bytes=SEGMENT_BYTES, max_segments=MAX_SEGMENTS)
        return Desk(log)

    def teardown(self) -> None:
        if not hasattr(self, "desk"):
            return
        try:
            self.files.heal()
            self.files.free = None
            self.read_everything()
            self.desk.settle(set(self.delivered) - self.settled)
            self.settled |= set(self.delivered)
            self.save()
            self.drop_foreign(0)
            fresh = self.desk.write([b"fresh"])
            assert self.desk.read_all() == {fresh.first: b"fresh"}, "a fresh item passes"
        finally:
            self.desk.log.close()
            shutil.rmtree(self.folder)

    def drop_foreign(self, most: int) -> None:
        """What a person would do some day."""
        foreign = self.desk.log.recovered.foreign_slots
        while len(foreign) > most:
            path = self.folder / f"{foreign.pop():06d}.seg"
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    # What a process does

    @rule(sizes=st.lists(st.sampled_from([0, 1, 30, 200, 420, MAX_ITEM]), min_size=1, max_size=4))
    def write(self, sizes: list[int]) -> None:
        items: list[bytes] = []
        room = MAX_ITEM
        for size in sizes:
            if size + 5 * bool(items) > room:
                continue
            self.counter += 1
            items.append(f"{self.counter:08d}".encode().ljust(size, b"x")[:size])
            room -= size + 5
        first = self.desk.log.committed + 1
        for number, item in enumerate(items, first):
            self.tried.setdefault(number, set()).add(item)
        faulty = bool(self.files.faults) or self.files.free is not None
        reason = ""
        try:
            written = self.desk.write(items)
        except NoRoom as refused:
            reason = refused.reason
        if reason:
            busy = len(self.desk.acks.ranges()) or self.desk.waiting or self.saved != self.settled_for_good()
            assert faulty or busy or len(self.desk.log.recovered.foreign_slots) > MOST_FOREIGN, reason
            assert self.desk.log.committed == first - 1
            return
        assert (written.first, written.last) == (first, first + len(items) - 1)
        for number, item in enumerate(items, first):
            self.accepted[number] = item
            self.damaged.discard(number)

    def settled_for_good(self) -> set[int]:
        return {number for number in self.accepted if not any(self.desk.acks.unsettled(number, number))}

    def take(self, found: dict[int, bytes]) -> None:
        for number, item in found.items():
            assert number not in self.delivered, "twice in one life"
            assert number > max(self.delivered, default=0), "out of order"
            assert item in self.tried[number], "never written"
            assert number in self.damaged or item == self.accepted[number], "changed"
        self.delivered |= found

    @rule(max_bytes=st.sampled_from([1, 300, 5000]))
    def read(self, max_bytes: int) -> None:
        found: dict[int, bytes] = {}
        with suppress(OSError) if self.files.faults else nullcontext():
            found = self.desk.read(max_bytes, salvage=False)
        self.take(found)

    def read_everything(self) -> None:
        self.take(self.desk.read_all())
        waiting = {n for n in self.accepted if any(self.desk.acks.unsettled(n, n))}
        assert waiting <= set(self.delivered), "what waits was handed out"
        assert self.desk.lost <= self.damaged, "only what was damaged is lost"

    @rule()
    def read_to_the_end(self) -> None:
        self.files.heal()
        self.read_everything()

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        held = sorted(set(self.delivered) - self.settled)
        if held:
            chosen = data.draw(st.one_of(st.just(held), st.lists(st.sampled_from(held), unique=True)))
            self.desk.settle(chosen, data.draw(st.sampled_from(["delivered", "dead", "dropped:test"])))
            self.settled |= set(chosen)

    @rule()
    def save(self) -> None:
        now = self.settled_for_good()
        self.maybe_saved = now
        done = False
        with suppress(OSError) if self.files.faults else nullcontext():
            done = self.desk.save()
        assert done or self.files.faults
        if not done:
            return
        self.saved = now
        self.saved_committed = self.desk.log.committed

    @rule()
    def trim(self) -> None:
        self.desk.log.trim()

    # What happens to it

    @rule(
        kind=st.sampled_from(
            ["sync", "write", "read", "open", "create", "reserve", "remove", "open_to_read", "sync_folder"]
        ),
        code=st.sampled_from([errno.EIO, errno.ENOSPC, errno.EMFILE, errno.EROFS, errno.EACCES]),
        times=st.integers(1, 5),
        part=st.sampled_from([0.0, 0.5, 1.0]),
    )
    def fail(self, kind: str, code: int, times: int, part: float) -> None:
        self.files.fail(kind, code, times, part)

    @rule()
    def heal(self) -> None:
        self.files.heal()
        self.files.free = None

    @rule()
    def little_free(self) -> None:
        self.files.free = -1
        self.desk.log.trim()

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        if clean:
            self.files.heal()
            self.save()
        self.desk.log.close()
        self.come_back()

    def come_back(self, *, sure: bool = True) -> None:
        """Open again. `sure`: the marks are those of the last save."""
        before = self.desk.log.committed
        stream = self.desk.log.stream
        self.desk = desk = self.open()
        if self.accepted or self.saved:
            assert desk.log.stream == stream
        committed = desk.log.committed
        for number in [number for number in self.accepted if number > committed]:
            assert number in self.damaged, "vanished"
            assert not sure or number > self.saved_committed, "known to have been there"
            del self.accepted[number]
            self.damaged.discard(number)
        for number in range(before + 1, committed + 1):  # written, though nobody was told so
            (self.accepted[number],) = self.tried[number] if len(self.tried[number]) == 1 else (b"",)
            self.damaged.add(number)
        settled = self.settled_for_good()
        if sure:
            assert settled - self.damaged <= self.saved | self.maybe_saved
            assert self.saved <= settled, "settled for ever"
        self.know_what_is_saved()
        self.settled = set(settled)
        self.delivered = {}
        if sure:
            self.drop_foreign(MOST_FOREIGN)

    def know_what_is_saved(self) -> None:
        marks = self.desk.log.recovered.marks
        acks = Acks(marks.through, marks.ranges)
        self.saved = {number for number in range(1, marks.committed + 1) if not any(acks.unsettled(number, number))}
        self.maybe_saved = self.saved
        self.saved_committed = marks.committed

    @precondition(lambda self: self.accepted)
    @rule(data=st.data(), kind=st.sampled_from(["flip", "zero", "cut", "gone"]))
    def damage_and_restart(self, data: st.DataObject, kind: str) -> None:
        self.desk.log.close()
        every = places(self.folder, self.desk.log.stream)
        if every:
            place = data.draw(st.sampled_from(every))
            self.damage(data, kind, place, every)
        self.come_back()

    def damage(self, data: st.DataObject, kind: str, place: Place, every: list[Place]) -> None:
        same = [other for other in every if other.path == place.path]
        begin = place.frame.offset
        if kind == "flip":
            end = begin + FRAME_HEADER_BYTES + place.frame.header.length
            flip(place.path, data.draw(st.integers(begin, end - 1)), data.draw(st.integers(0, 7)))
            self.damaged |= place.numbers
        elif kind == "zero":
            page = data.draw(st.sampled_from([0, begin // 512 * 512]))
            poke(place.path, page, bytes(512))
            self.hit(other for other in same if other.frame.offset < page + 512 and other.frame.end > page)
        elif kind == "cut":
            with place.path.open("r+b") as file:
                file.truncate(begin + data.draw(st.sampled_from([0, 1, FRAME_HEADER_BYTES])))
            self.hit(other for other in same if other.frame.end > begin)
        else:
            place.path.unlink()
            self.hit(same)

    def hit(self, those: "list[Place]") -> None:
        for other in those:
            self.damaged |= other.numbers

    @rule(data=st.data())
    def damage_while_it_runs(self, data: st.DataObject) -> None:
        every = places(self.folder, self.desk.log.stream)
        every = [place for place in every if place.frame.header.first >= self.desk.sequence]
        if every:
            place = data.draw(st.sampled_from(every))
            end = place.frame.offset + FRAME_HEADER_BYTES + place.frame.header.length
            flip(place.path, data.draw(st.integers(place.frame.offset, end - 1)), data.draw(st.integers(0, 7)))
            self.damaged |= place.numbers

    @rule(kind=st.sampled_from(["noise", "copy", "folder", "lookalike", "empty"]))
    def foreign_file_and_restart(self, kind: str) -> None:
        self.desk.log.close()
        free = next(slot for slot in range(100) if not (self.folder / f"{slot:06d}.seg").exists())
        path = self.folder / f"{free:06d}.seg"
        existing = [one for one in sorted(self.folder.glob("0?????.seg")) if one.is_file()]
        if kind == "noise":
            path.write_bytes(b"noise" * 100)
        elif kind == "copy" and existing:
            shutil.copy(existing[-1], path)
        elif kind == "lookalike" and existing:
            (self.folder / f"{int(existing[-1].stem)}.seg").write_bytes(existing[-1].read_bytes())
        elif kind == "folder":
            path.mkdir()
        else:
            path.touch()
        self.come_back()

    @rule(where=st.sampled_from(["segment", "marks"]))
    def newer_version_is_refused(self, where: str) -> None:
        self.desk.log.close()
        if where == "segment":
            path = self.folder / "000050.seg"
            head = struct.pack("<8sHHIQQQQ12x", b"\xe5RSegmt\n", 2, 0, 0, self.desk.log.stream, 1 << 40, 1, AT_NS)
            path.write_bytes(head + struct.pack("<I", crc32(head)) + bytes(500))
            with pytest.raises(NewerFormat, match="version 2"):
                self.open()
            path.unlink()
        else:
            path = self.folder / "marks"
            was = path.read_bytes()
            head = struct.pack("<4sHHQII", b"\xe5RMk", 2, 0, 99, 3, 0)
            poke(path, 0, head + struct.pack("<I", crc32(head)) + b"new")
            with pytest.raises(NewerFormat, match="version 2"):
                self.open()
            path.write_bytes(was)
        self.come_back()

    @rule(kind=st.sampled_from(["first", "second", "both", "gone", "noise"]))
    def damage_marks_and_restart(self, kind: str) -> None:
        self.desk.log.close()
        path = self.folder / "marks"
        if kind == "gone":
            path.unlink()
        elif kind == "noise":
            path.write_bytes(os.urandom(2 * COPY_BYTES))
        else:
            for copy in {"first": [0], "second": [1], "both": [0, 1]}[kind]:
                poke(path, copy * COPY_BYTES + 10, b"\xff\xff")
        self.lose_marks()

    def lose_marks(self) -> None:
        """What was settled may come again, or count as unknown; nothing else may be lost."""
        before = self.saved | self.maybe_saved
        stream = self.desk.log.stream
        self.damaged |= before  # may be gone with the segments that were let go of
        must = set(self.accepted) - self.damaged
        self.come_back_without_marks(stream)
        self.save()  # as `Stream` does
        assert must <= set(self.accepted), "vanished"

    def come_back_without_marks(self, stream: int) -> None:
        if not places(self.folder, stream):
            # Nothing says whose it is any more, nor how far it was: begin anew.
            self.desk = self.open()
            committed = self.desk.log.committed
            self.accepted = {n: item for n, item in self.accepted.items() if n <= committed}
            self.know_what_is_saved()
            self.settled, self.delivered = self.settled_for_good(), {}
            return
        self.come_back(sure=False)

    # What always holds

    @invariant()
    def numbers_add_up(self) -> None:
        self.desk.check()
        assert not self.desk.lost - self.damaged, "lost without damage"

    @invariant()
    def disk_is_bounded(self) -> None:
        log = self.desk.log
        foreign = {f"{slot:06d}.seg" for slot in log.recovered.foreign_slots}
        own = [path for path in self.folder.glob("*.seg") if slot_of(path) is not None and path.name not in foreign]
        used = sum(path.stat().st_size for path in own)
        assert used <= log.used_bytes
        assert log.used_bytes <= (MAX_SEGMENTS + 2) * SEGMENT_BYTES


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(
    max_examples=3000 if LONG else 60,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
