"""A stream's files: rolling, recycling, letting go, and going on after errors. The proofs are in test_log_machine."""

import errno
from pathlib import Path

import pytest

from agent.spool.log import NoRoom
from tests.support.faulty_files import FaultyFiles
from tests.support.recording_files import RecordingFiles
from tests.support.spool import Desk, everything, open_log


def big(number: int) -> bytes:
    return b"%03d" % number * 250


def test_segments_are_used_again(tmp_path: Path) -> None:
    files = FaultyFiles()
    desk = Desk(open_log(tmp_path, files))
    for number in range(1, 41):
        desk.write([big(number)])
        if number % 4 == 0:
            desk.settle(desk.read_all())
            desk.save()
    assert files.calls["create"] <= 8
    assert len(list(tmp_path.glob("*.seg"))) <= 6
    desk.close()
    assert open_log(tmp_path).committed == 40


def test_what_is_in_reserve_follows_what_is_used(tmp_path: Path) -> None:
    desk = Desk(open_log(tmp_path, max_segments=50))
    for number in range(20):
        desk.write([big(number)])
    desk.settle(desk.read_all())
    desk.save()
    assert len(list(tmp_path.glob("*.seg"))) == 20
    for _ in range(30):
        desk.save()
    assert len(list(tmp_path.glob("*.seg"))) == 2


def test_files_of_another_size_are_not_used_again(tmp_path: Path) -> None:
    desk = Desk(open_log(tmp_path, segment_bytes=1024))
    for number in range(4):
        desk.write([big(number)])
    desk.log.close()
    desk = Desk(open_log(tmp_path, segment_bytes=4096, max_segments=20))
    desk.settle(desk.read_all())
    desk.save()
    for _ in range(6):
        desk.write([b"x" * 3900])
    desk.log.close()
    desk = Desk(open_log(tmp_path, segment_bytes=4096))
    assert list(desk.read_all().values()) == [b"x" * 3900] * 6
    assert {path.stat().st_size for path in tmp_path.glob("*.seg")} <= {1024, 4096}


def test_one_segment_is_enough_when_everything_is_settled(tmp_path: Path) -> None:
    desk = Desk(open_log(tmp_path, max_segments=1))
    for number in range(5):
        desk.write([big(number)])
        with pytest.raises(NoRoom, match="all of its 1 segments"):
            desk.write([big(number)])
        desk.settle(desk.read_all())
        desk.save()
    desk.log.close()
    assert open_log(tmp_path).committed == 5


@pytest.mark.parametrize("kind", ["sync_folder", "sync", "write"])
def test_a_failed_first_frame_leaves_the_segment_before_it_as_it_was(tmp_path: Path, kind: str) -> None:
    """The new file goes; the next attempt must not write over the start of the one before."""
    files = FaultyFiles()
    desk = Desk(open_log(tmp_path, files))
    desk.write([big(1)])
    for times in (1, 3, 2):
        files.fail(kind, errno.EIO, times)
        try:
            desk.write([big(2)])
        except NoRoom:
            assert times == 3
    assert list(everything(desk.log).values()) == [big(1), big(2), big(2)]
    desk.log.close()
    assert list(everything(open_log(tmp_path)).values()) == [big(1), big(2), big(2)]


def test_a_file_that_somebody_put_there_is_not_written_over(tmp_path: Path) -> None:
    desk = Desk(open_log(tmp_path))
    (tmp_path / "000000.seg").write_bytes(b"mine")
    with pytest.raises(NoRoom):
        desk.write([b"x"])
    desk.write([b"x"])
    assert (tmp_path / "000000.seg").read_bytes() == b"mine"
    assert desk.read_all() == {1: b"x"}


def test_a_file_that_somebody_removed_costs_what_was_in_it(tmp_path: Path) -> None:
    desk = Desk(open_log(tmp_path))
    for number in range(1, 5):
        desk.write([big(number)])
    (tmp_path / "000001.seg").unlink()
    assert list(desk.read_all()) == [1, 3, 4]
    assert desk.lost == {2}


def test_frames_that_fit_nowhere_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        open_log(tmp_path).write([b"x" * 1000], 1)


def test_handles_are_closed() -> None:
    files = RecordingFiles()
    for _ in range(3):
        desk = Desk(open_log(Path("/nowhere"), files, max_segments=20))
        for number in range(4):
            desk.write([big(number)])
        desk.read_all()
        desk.log.close()
        assert files.open_handles() == 0


def test_nothing_is_read_beyond_what_the_caller_knows(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for number in range(1, 6):
        log.write([b"%d" % number], 1)
    pieces, lost, position, following = log.read(log.start(1), 1, 1000, through=3)
    assert ([piece.first for piece in pieces], lost, following) == ([1, 2, 3], [], 4)
    pieces, lost, _, following = log.read(position, following, 1000)
    assert ([piece.first for piece in pieces], lost, following) == ([4, 5], [], 6)
