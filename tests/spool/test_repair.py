import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.spool.check import check
from agent.spool.frame import NewerFormat
from agent.spool.inspect import QUARANTINE, items, look_at_marks, stat
from agent.spool.marks import COPY_BYTES
from agent.spool.repair import CannotRepair, repair
from tests.support.spool_folders import SEGMENT_BYTES, flip, make_stream, overwrite, read_by_owner

ITEMS = 120
FRAME_MAGIC = b"\xe5RFm"


def readable(folder: Path) -> dict[int, bytes]:
    return {one.sequence: one.data for one in items(folder)}


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    folder = tmp_path / "spool" / "records"
    make_stream(folder, ITEMS, settled=[*range(1, 8), 20, 21], saves=3)
    return folder


def damage_a_body(folder: Path) -> None:
    flip(folder / "000000.seg", 64 + 600 + 300)


def remove_a_segment(folder: Path) -> None:
    (folder / "000001.seg").unlink()


def put_a_stranger(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / "000077.seg").write_bytes(b"nothing of the kind" * 50)


def copy_a_segment(folder: Path) -> None:
    shutil.copy(folder / "000001.seg", folder / "000050.seg")


def bring_another_stream(folder: Path) -> None:
    other = folder.parent / "other"
    make_stream(other, 20)
    shutil.move(other / "000000.seg", folder / "000060.seg")
    shutil.rmtree(other)


def damage_a_header(folder: Path) -> None:
    flip(folder / "000001.seg", 20)


def damage_a_header_and_every_body(folder: Path) -> None:
    file = folder / "000001.seg"
    data = file.read_bytes()
    flip(file, 20)
    at = data.find(FRAME_MAGIC)
    while at >= 0:
        flip(file, at + 100)
        at = data.find(FRAME_MAGIC, at + 1)


def wipe_a_segment(folder: Path) -> None:
    overwrite(folder / "000001.seg", 0, bytes(SEGMENT_BYTES))


def damage_the_older_marks(folder: Path) -> None:
    flip(folder / "marks", 10)


def damage_all_marks(folder: Path) -> None:
    overwrite(folder / "marks", 0, b"\x01" * 64)
    overwrite(folder / "marks", COPY_BYTES, b"\x01" * 64)


def wipe_a_copy_of_the_marks(folder: Path) -> None:
    overwrite(folder / "marks", COPY_BYTES, bytes(COPY_BYTES))


def remove_the_marks(folder: Path) -> None:
    (folder / "marks").unlink()


DAMAGES: dict[Callable[[Path], None], str] = {
    damage_a_body: "damaged",
    remove_a_segment: "missing",
    put_a_stranger: "foreign",
    copy_a_segment: "foreign",
    bring_another_stream: "foreign",
    damage_a_header: "header",
    damage_a_header_and_every_body: "header",
    wipe_a_segment: "missing",
    damage_the_older_marks: "marks",
    damage_all_marks: "marks",
    wipe_a_copy_of_the_marks: "marks",
    remove_the_marks: "marks",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_after_a_repair_check_is_clean_and_nothing_readable_is_lost(
    stream: Path, damage: Callable[[Path], None]
) -> None:
    damage(stream)
    found = check(stream)
    assert DAMAGES[damage] in {problem.kind for problem in found.problems}
    before = readable(stream)

    done = repair(stream)

    assert done.done
    assert done.left == []
    assert check(stream).problems == []
    assert readable(stream) == before
    assert read_by_owner(stream) == before
    assert stat(stream).waiting == len(before)


def test_a_sound_stream_is_left_alone(stream: Path) -> None:
    before = {file.name: file.read_bytes() for file in stream.iterdir()}
    done = repair(stream)
    assert (done.done, done.lost, done.left) == ([], 0, [])
    assert {file.name: file.read_bytes() for file in stream.iterdir()} == before


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_dry_run_says_the_same_and_changes_nothing(stream: Path, damage: Callable[[Path], None]) -> None:
    damage(stream)
    before = {file.name: file.read_bytes() for file in stream.iterdir()}
    said = repair(stream, dry_run=True).done
    assert {file.name: file.read_bytes() for file in stream.iterdir()} == before
    assert repair(stream).done == said


def test_what_cannot_be_read_is_settled_by_its_numbers_and_kept(stream: Path) -> None:
    damage_a_body(stream)
    lost = check(stream).problems[0]
    assert (lost.kind, lost.first, lost.last, lost.items) == ("damaged", 6, 10, 3)  # 6 and 7 were settled before
    assert lost.file is not None
    assert lost.offset is not None
    assert lost.bytes is not None
    held = (stream / lost.file).read_bytes()[lost.offset : lost.offset + lost.bytes]

    done = repair(stream)

    assert done.lost == 3
    assert stat(stream).results == {"delivered": 9, "dropped:damaged": 3}
    copies = list((stream / QUARANTINE).iterdir())
    assert [copy.read_bytes() for copy in copies] == [held]


def test_strangers_lie_in_quarantine_afterwards_as_they_were(stream: Path) -> None:
    put_a_stranger(stream)
    held = (stream / "000077.seg").read_bytes()
    repair(stream)
    put_a_stranger(stream)
    repair(stream)
    names = sorted(file.name for file in (stream / QUARANTINE).iterdir())
    assert names == ["000077.seg", "000077.seg.2", "notes.txt", "notes.txt.2"]
    assert (stream / QUARANTINE / "000077.seg").read_bytes() == held


def test_marks_are_written_anew_from_the_older_copy(stream: Path) -> None:
    newest = look_at_marks(stream).marks
    damage_the_older_marks(stream)
    repair(stream)
    found = look_at_marks(stream)
    assert found.copies == ("whole", "whole")
    assert found.marks == newest


def test_without_marks_what_was_released_counts_as_settled_in_an_unknown_way(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    make_stream(folder, ITEMS, settled=range(1, 101), saves=3)
    (folder / "000000.seg").unlink(missing_ok=True)  # its items are settled, so it may be gone
    damage_all_marks(folder)
    before = readable(folder)  # items of files that are still there are handed out again
    assert set(range(101, ITEMS + 1)) < set(before) < set(range(2, ITEMS + 1))
    repair(folder)
    assert stat(folder).results == {"unknown": ITEMS - len(before)}
    assert stat(folder).accepted == ITEMS


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_files_that_this_user_may_not_read_stop_it() -> None:
    with TemporaryDirectory() as place:
        folder = Path(place) / "records"
        make_stream(folder, ITEMS)
        for path in (Path(place), folder, *folder.iterdir()):
            os.chown(path, 65534, 65534)
        os.chown(folder / "000001.seg", 0, 0)
        before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
        os.seteuid(65534)
        try:
            with pytest.raises(CannotRepair, match=r"000001\.seg cannot be used: Permission denied"):
                repair(folder)
        finally:
            os.seteuid(0)
        assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before


def test_a_newer_version_is_left_alone(stream: Path) -> None:
    from isal.isal_zlib import crc32

    file = stream / "000001.seg"
    head = bytearray(file.read_bytes()[:64])
    head[8] = 2
    head[60:64] = crc32(bytes(head[:60])).to_bytes(4, "little")
    overwrite(file, 0, bytes(head))
    with pytest.raises(NewerFormat):
        repair(stream)


# Any damage

Damage = tuple[str, int, int, int]
damages = st.lists(
    st.tuples(
        st.sampled_from(["flip", "zero", "cut", "remove", "copy", "swap", "garbage", "marks", "stranger"]),
        st.integers(0, 9),
        st.integers(0, 2 * COPY_BYTES),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=5,
)


def _do(folder: Path, damage: Damage) -> None:
    kind, which, offset, other = damage
    segments = sorted(folder.glob("*.seg"))
    if kind == "stranger":
        (folder / f"{which}.tmp").write_bytes(b"x" * other)
    elif kind == "marks" and (folder / "marks").exists():
        if other == 0:
            (folder / "marks").unlink()
        elif other == 1:
            with (folder / "marks").open("r+b") as opened:
                opened.truncate(offset)
        else:
            overwrite(folder / "marks", (other % 2) * COPY_BYTES + offset % 60, b"\xff\x00" * 8)
    elif segments and kind != "marks":
        file, second = segments[which % len(segments)], segments[other % len(segments)]
        _do_to_segment(folder, kind, file, second, offset % SEGMENT_BYTES)


def _do_to_segment(folder: Path, kind: str, file: Path, second: Path, offset: int) -> None:
    if kind == "flip":
        if offset < file.stat().st_size:
            flip(file, offset)
    elif kind == "zero":
        overwrite(file, offset & ~511, bytes(512))
    elif kind == "cut":
        with file.open("r+b") as opened:
            opened.truncate(offset)
    elif kind == "remove":
        file.unlink()
    elif kind == "copy":
        (folder / f"{offset % 100:06d}.seg").write_bytes(file.read_bytes())
    elif kind == "swap" and file != second:
        file.rename(folder / "swap")
        second.rename(file)
        (folder / "swap").rename(second)
    elif kind == "garbage":
        overwrite(file, 0, bytes(range(256)) * 4)


def settled_sets() -> Iterator[list[int]]:
    yield []
    yield list(range(1, 41))
    yield [*range(1, 50), 52, 60, 61, 62, 119]


MEMORY = Path("/dev/shm")  # where nothing waits for a disk


@settings(max_examples=150, deadline=None)
@example(done=[("copy", 0, 1, 0), ("flip", 0, 3472, 0)], settled=[], saves=1)  # the copy has more in it
@given(done=damages, settled=st.sampled_from(list(settled_sets())), saves=st.integers(1, 3))
def test_whatever_happened_all_that_can_be_read_before_can_be_read_after(
    done: list[Damage], settled: list[int], saves: int
) -> None:
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as place:
        folder = Path(place) / "records"
        make_stream(folder, ITEMS, settled=settled, saves=saves)
        for damage in done:
            _do(folder, damage)
        before = readable(folder)
        assert read_by_owner(folder) == before

        result = repair(folder)

        assert result.left == []
        assert check(folder).problems == []
        assert readable(folder) == before
        assert read_by_owner(folder) == before
        numbers = stat(folder)
        assert numbers.waiting == len(before)
        assert numbers.accepted == numbers.waiting + sum(numbers.results.values())
        assert repair(folder).done == []
