import shutil
from pathlib import Path

import pytest

from agent.spool.check import check
from agent.spool.marks import COPY_BYTES
from tests.support.spool_folders import flip, item, make_stream, open_log, overwrite, writer

FRAME = 568  # bytes of a frame of five items
FIRST = 64  # where the first frame begins
ROUNDS = 40


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    folder = tmp_path / "records"
    make_stream(folder, 120, settled=[1, 2, 3], saves=2)
    return folder


def test_a_sound_stream_has_no_problems(stream: Path) -> None:
    read: list[int] = []
    found = check(stream, read.append)
    assert (found.frames, found.items, found.problems, found.notes) == (24, 120, [], [])
    assert sum(read) == found.read_bytes == sum(file.stat().st_size for file in stream.glob("*.seg"))


@pytest.mark.parametrize("at", [FIRST + 30, FIRST + 200], ids=["header", "body"])
def test_a_damaged_frame_is_told_with_its_place_and_its_items(stream: Path, at: int) -> None:
    flip(stream / "000001.seg", FRAME + at)
    found = check(stream)
    (problem,) = found.problems
    assert (problem.kind, problem.file, problem.offset, problem.bytes) == (
        "damaged",
        "000001.seg",
        FIRST + FRAME,
        FRAME,
    )
    assert (problem.first, problem.last, problem.items) == (41, 45, 5)
    assert "568 bytes at 632 are damaged: items 41 to 45" in problem.text
    assert found.items == 115


def test_frames_damaged_side_by_side_are_one_place(stream: Path) -> None:
    for at in (1, 2):
        flip(stream / "000001.seg", FIRST + at * FRAME + 200)
    (problem,) = check(stream).problems
    assert (problem.offset, problem.bytes, problem.first, problem.last) == (FIRST + FRAME, 2 * FRAME, 41, 50)


def test_damage_at_the_end_of_a_segment_is_seen_by_the_next_one(stream: Path) -> None:
    flip(stream / "000000.seg", FIRST + 6 * FRAME + 200)
    (problem,) = check(stream).problems
    assert (problem.kind, problem.file, problem.first, problem.last) == ("damaged", "000000.seg", 31, 35)


def test_damage_among_settled_items_is_only_a_note(stream: Path) -> None:
    shutil.rmtree(stream)
    make_stream(stream, 120, settled=[*range(1, 11), 11, 12, 13, 14, 15], saves=2)
    flip(stream / "000000.seg", FIRST + FRAME + 200)
    found = check(stream)
    assert found.problems == []
    assert found.notes == ["000000.seg: 568 bytes at 632 are damaged; their items (6 to 10) are settled"]


def test_a_missing_file_leaves_a_gap_in_the_numbers(stream: Path) -> None:
    (stream / "000001.seg").unlink()
    (problem,) = check(stream).problems
    assert (problem.kind, problem.first, problem.last, problem.items) == ("missing", 36, 70, 35)
    assert problem.text == "no file holds items 36 to 70"


def test_a_missing_last_file_is_known_from_the_marks(stream: Path) -> None:
    (stream / "000003.seg").unlink()
    (problem,) = check(stream).problems
    assert (problem.kind, problem.first, problem.last) == ("missing", 106, 120)


def test_a_frame_that_was_never_completed_is_only_a_note(stream: Path) -> None:
    log = open_log(stream)
    log.write([item(number) for number in range(121, 126)], 1)
    log.close()
    file = max(stream.glob("*.seg"), key=lambda path: path.name)
    flip(file, FIRST + 3 * FRAME + 200)  # the marks do not know of it yet
    found = check(stream)
    assert found.problems == []
    assert found.notes == ["the last frame was never completed (5 items); it will be written over"]


def test_marks_that_were_never_saved_are_no_problem(tmp_path: Path) -> None:
    make_stream(tmp_path / "records", 40, saves=0)
    assert check(tmp_path / "records").problems == []


def test_one_damaged_copy_of_the_marks_matters_only_when_nobody_writes_them(stream: Path) -> None:
    overwrite(stream / "marks", COPY_BYTES, b"\xff" * 40)
    (problem,) = check(stream).problems
    assert (problem.kind, problem.file) == ("marks", "marks")
    owned = check(stream, owned=True)
    assert owned.problems == []
    assert owned.notes == ["one of the two copies of the marks is damaged; the owner writes over it when it saves next"]


def test_nothing_is_called_damaged_that_is_merely_being_written(tmp_path: Path) -> None:
    with writer(tmp_path) as process:
        for _ in range(ROUNDS):
            found = check(tmp_path / "records", owned=True)
            assert found.problems == []
            assert found.notes == []
        assert process.poll() is None
    assert check(tmp_path / "records").problems == []  # nor after its sudden end


def test_real_damage_is_found_while_a_process_writes(tmp_path: Path) -> None:
    with writer(tmp_path):
        (tmp_path / "records" / "notes.txt").touch()
        for _ in range(ROUNDS):
            assert [problem.file for problem in check(tmp_path / "records", owned=True).problems] == ["notes.txt"]
