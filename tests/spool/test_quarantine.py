"""Copies of what cannot be read: each once, and never so many that they fill the disk."""

import errno
from pathlib import Path

from agent.spool.bounds import Bounds
from agent.spool.quarantine import MOST_BYTES, MOST_FILES, NAME, Quarantine
from agent.spool.segment import Damage, Window
from tests.support.faulty_files import FaultyFiles


def made(folder: Path, files: FaultyFiles, floor: int = 0) -> tuple[Quarantine, Window]:
    bounds = Bounds(folder, files, max_bytes=1, min_free_bytes=floor, weights={"s": 1.0})
    (folder / "file").write_bytes(bytes(range(256)) * (4 * MOST_BYTES // 256))
    return Quarantine(folder, "s", bounds, files), Window(files, files.open(folder / "file"), 4 * MOST_BYTES)


def test_a_copy_of_each_up_to_a_number_and_a_size(tmp_path: Path) -> None:
    found, window = made(tmp_path, FaultyFiles())
    found.keep(1, 5, window, Damage(10, 300, None))
    found.keep(1, 5, window, Damage(10, 300, None))
    found.keep(1, 5, window, Damage(512, 4 * MOST_BYTES, None))
    assert found.damaged_frames == 2
    copies = sorted((tmp_path / NAME).iterdir())
    assert [copy.name for copy in copies] == ["000000000005-0000000010.bad", "000000000005-0000000512.bad"]
    assert copies[0].read_bytes() == (bytes(range(256)) * 2)[10:300]
    assert copies[1].stat().st_size == MOST_BYTES
    for at in range(100):
        found.keep(1, 6, window, Damage(at, at + 8, None))
    assert found.damaged_frames == 102
    assert len(list((tmp_path / NAME).iterdir())) == MOST_FILES


def test_no_copy_where_there_is_no_room(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.free = 5
    found, window = made(tmp_path, files, floor=10)
    found.keep(1, 5, window, Damage(10, 300, None))
    files.free = 50
    files.fail("create", errno.EROFS)
    found.keep(1, 5, window, Damage(20, 300, None))
    assert found.damaged_frames == 2
    assert list((tmp_path / NAME).iterdir()) == []
