"""Marks: the newest whole copy wins, the older one stands in, nothing readable is none."""

import errno
import os
from pathlib import Path

import pytest

from agent.spool.frame import NewerFormat
from agent.spool.marks import COPY_BYTES, NAME, Marks, MarksFile, read_copy
from tests.support.faulty_files import FaultyFiles
from tests.support.spool_places import poke


def marks(through: int) -> Marks:
    return Marks(
        stream=5, committed=through + 9, through=through, ranges=((through + 2, through + 3),), results={"dead": 2}
    )


def test_the_last_one_saved_comes_back(tmp_path: Path) -> None:
    for through in range(5):
        file = MarksFile(tmp_path, FaultyFiles())
        assert file.load() == ((None, "none") if through == 0 else (marks(through - 1), "newest"))
        assert file.save(marks(through))
        file.close()
    assert (tmp_path / NAME).stat().st_size == 2 * COPY_BYTES


@pytest.mark.parametrize(("hurt", "expected"), [([0], 3), ([1], 4), ([0, 1], None)])
def test_a_damaged_copy(tmp_path: Path, hurt: list[int], expected: int | None) -> None:
    file = MarksFile(tmp_path, FaultyFiles())
    for through in (1, 2, 3, 4):  # revisions 1 to 4; the even ones are in the first copy
        file.save(marks(through))
    for copy in hurt:
        poke(tmp_path / NAME, copy * COPY_BYTES + 40, b"\xff\xff")
    found, condition = file.load()
    assert (found and found.through) == expected
    assert condition == ("none" if expected is None else "older")
    assert file.save(marks(7))
    assert file.load()[0] == marks(7)


def test_a_failed_save_leaves_the_other_copy(tmp_path: Path) -> None:
    files = FaultyFiles()
    file = MarksFile(tmp_path, files)
    file.save(marks(1))
    for part in (0.0, 0.5):
        files.fail("write", errno.EIO, 1, part)
        with pytest.raises(OSError, match="Input/output"):
            file.save(marks(2))
        assert file.load()[0] == marks(1)
    file.save(marks(3))
    assert file.load() == (marks(3), "newest")


def test_what_the_disk_cannot_read_is_a_damaged_copy(tmp_path: Path) -> None:
    files = FaultyFiles()
    file = MarksFile(tmp_path, files)
    file.save(marks(1))
    file.save(marks(2))
    files.fail("read", errno.EIO, 1)
    assert file.load() == (marks(1), "older")


def test_too_many_holes_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    file = MarksFile(tmp_path, FaultyFiles())
    file.save(marks(1))
    many = tuple((at, at) for at in range(10, 10 + 2 * COPY_BYTES, 2))
    assert not file.save(Marks(stream=5, ranges=many))
    assert file.load() == (marks(1), "newest")


def test_a_full_disk_does_not_keep_from_opening(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.fail("reserve", errno.ENOSPC)
    file = MarksFile(tmp_path, files)
    assert file.synced
    assert file.save(marks(1))


def test_what_a_killed_process_left_is_synced_before_it_is_believed(tmp_path: Path) -> None:
    files = FaultyFiles()
    MarksFile(tmp_path, files).save(marks(1))
    files.fail("sync", errno.EIO)
    assert not MarksFile(tmp_path, files).synced


def test_copies_of_other_kinds(tmp_path: Path) -> None:
    assert read_copy(b"") == "empty"
    assert read_copy(bytes(100)) == "empty"
    assert read_copy(os.urandom(100)) == "damaged"
    assert read_copy(b"\xe5RMk") == "damaged"
    import struct

    from isal.isal_zlib import crc32

    head = struct.pack("<4sHHQII", b"\xe5RMk", 2, 0, 1, 0, 0)
    with pytest.raises(NewerFormat, match="version 2"):
        read_copy(head + struct.pack("<I", crc32(head)))
