"""What a folder is found to hold. The proofs by power cuts and damage are in test_power_cuts and test_log_machine."""

import errno
import shutil
from pathlib import Path

import pytest

from agent.spool.recovery import Lost
from tests.support.faulty_files import FaultyFiles
from tests.support.spool import Desk, everything, open_log
from tests.support.spool_places import places, poke


def filled(folder: Path, count: int = 8) -> Desk:
    desk = Desk(open_log(folder))
    for number in range(1, count + 1):
        desk.write([b"%d" % number * 400])
    desk.read_all()
    return desk


def test_a_new_folder_says_whose_it_is_before_anything_is_in_it(tmp_path: Path) -> None:
    stream = open_log(tmp_path).stream
    again = open_log(tmp_path)
    assert again.stream == stream
    assert again.recovered.notes == []
    assert again.recovered.gaps_are_lost


def test_numbers_go_on_after_everything_was_settled_and_let_go_of(tmp_path: Path) -> None:
    desk = filled(tmp_path)
    desk.settle(range(1, 9))
    desk.close()
    for path in tmp_path.glob("*.seg"):
        path.unlink()
    log = open_log(tmp_path)
    assert (log.committed, log.recovered.lost) == (8, [])
    assert log.write([b"x"], 1).first == 9


def test_a_damaged_header_before_another_segment_costs_that_one_nothing(tmp_path: Path) -> None:
    """A segment whose every frame is damaged must not make the one before it look settled."""
    desk = filled(tmp_path, 6)
    desk.close()
    last = max(places(tmp_path), key=lambda place: place.frame.header.first)
    for place in [place for place in places(tmp_path) if place.path == last.path]:
        poke(place.path, place.frame.offset + 100, b"\xff\xfe")
    poke(last.path, 0, bytes(16))
    log = open_log(tmp_path)
    assert list(everything(log)) == [1, 2, 3, 4]
    assert log.committed == 6
    assert log.write([b"x"], 1).first == 7


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EACCES, errno.ENOMEM])
def test_a_file_that_cannot_be_opened_now_is_not_counted_as_lost(tmp_path: Path, code: int) -> None:
    filled(tmp_path).close()
    files = FaultyFiles()
    files.fail("open_to_read", code, only=lambda name: name == "000001.seg")
    with pytest.raises(OSError, match="000001"):
        open_log(tmp_path, files)
    assert len(everything(open_log(tmp_path))) == 8


def test_of_copies_the_one_with_the_most_in_it_counts(tmp_path: Path) -> None:
    desk = filled(tmp_path, 3)
    newest = max(places(tmp_path), key=lambda place: place.frame.header.first).path
    shutil.copy(newest, tmp_path / "stale")
    desk.write([b"4" * 400])
    desk.close()
    newest.rename(tmp_path / "000050.seg")
    (tmp_path / "stale").rename(newest)
    log = open_log(tmp_path)
    assert list(everything(log)) == [1, 2, 3, 4]
    assert any("a copy of another segment" in note for note in log.recovered.notes)


def test_without_marks_a_single_foreign_file_does_not_make_the_folder_its_own(tmp_path: Path) -> None:
    filled(tmp_path / "other" if (tmp_path / "other").mkdir() is None else tmp_path, 1).close()
    (tmp_path / "own").mkdir()
    desk = filled(tmp_path / "own")
    desk.close()
    shutil.copy(tmp_path / "other" / "000000.seg", tmp_path / "own" / "000099.seg")
    (tmp_path / "own" / "marks").unlink()
    log = open_log(tmp_path / "own")
    assert log.stream == desk.log.stream
    assert len(everything(log)) == 8


def test_what_is_missing_is_told_once_and_as_unknown_without_marks(tmp_path: Path) -> None:
    filled(tmp_path).close()
    (tmp_path / "000000.seg").unlink()
    assert open_log(tmp_path).recovered.lost == [Lost(1, 2, "missing")]
    (tmp_path / "marks").unlink()
    found = open_log(tmp_path).recovered
    assert found.lost == [Lost(1, 2, "unknown")]
    assert not found.gaps_are_lost


def test_marks_that_may_not_be_durable_let_go_of_nothing(tmp_path: Path) -> None:
    desk = filled(tmp_path)
    desk.settle(range(1, 9))
    assert desk.log._marks.save(desk.marks())
    files = FaultyFiles()
    files.fail("sync", errno.EIO, 1)
    log = open_log(tmp_path, files)
    assert len(log.recovered.segments) == 4
    assert log.recovered.spare == []
