import fcntl
import os
import shutil
from pathlib import Path

import pytest
from isal.isal_zlib import crc32

from agent.spool.files import Files
from agent.spool.frame import NewerFormat
from agent.spool.inspect import holder, items, look, look_at_marks, stat, streams_in
from agent.spool.marks import COPY_BYTES, Marks, MarksFile
from agent.spool.spool import open_spool
from tests.support.spool_folders import LIMITS, SMALL, flip, item, make_stream, overwrite, read_by_owner, writer


def test_stat_counts_what_the_owner_would_count(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    make_stream(folder, 300, settled=[*range(1, 101), 105, 106])
    found = stat(folder)
    assert (found.accepted, found.waiting, found.results) == (300, 198, {"delivered": 102})
    assert found.oldest_at_ns == 101_000  # of the frame with item 101
    assert found.used_bytes == sum(file.stat().st_size for file in folder.glob("*.seg"))
    assert found.segments + found.spare_segments == len(list(folder.glob("*.seg")))


def test_a_stream_without_items(tmp_path: Path) -> None:
    make_stream(tmp_path / "records", 0)
    found = stat(tmp_path / "records")
    assert (found.accepted, found.waiting, found.results, found.oldest_at_ns, found.segments) == (0, 0, {}, None, 0)
    assert list(items(tmp_path / "records")) == []


def test_nothing_waits_when_all_is_settled(tmp_path: Path) -> None:
    make_stream(tmp_path / "records", 50, settled=range(1, 51))
    found = stat(tmp_path / "records")
    assert (found.accepted, found.waiting, found.oldest_at_ns) == (50, 0, None)


@pytest.mark.parametrize("gone", ["000000.seg", "000002.seg", "000004.seg", "marks"])
async def test_stat_says_what_a_start_will_find(tmp_path: Path, gone: str) -> None:
    make_stream(tmp_path / "records", 170, settled=[*range(1, 11), 30], saves=2)
    (tmp_path / "records" / gone).unlink()
    found = stat(tmp_path / "records")
    async with open_spool(tmp_path, SMALL, {"records": LIMITS}, key="sidecar.spool") as spool:
        state = spool.streams["records"].state()
    assert (found.accepted, found.waiting, found.results) == (state.accepted, state.waiting, state.results)


def test_items_are_the_unsettled_ones_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    make_stream(folder, 100, settled=[1, 2, 3, 50, 51, 99])
    found = list(items(folder))
    assert [one.sequence for one in found] == [n for n in range(1, 101) if n not in (1, 2, 3, 50, 51, 99)]
    assert all(one.data == item(one.sequence) for one in found)
    assert {one.sequence: one.data for one in found} == read_by_owner(folder)
    assert found[0].at_ns == 1000


def test_looking_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    make_stream(folder, 100, settled=[1, 2, 3])
    flip(folder / "000000.seg", 700)
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}
    stat(folder)
    list(items(folder))
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()} == before


def test_only_folders_with_a_streams_files_are_streams(tmp_path: Path) -> None:
    make_stream(tmp_path / "records", 3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "quarantine").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    (tmp_path / "epoch").write_text("1\n")
    assert streams_in(tmp_path) == ["records"]


def test_what_does_not_belong_there_is_told_with_the_reason(tmp_path: Path) -> None:
    folder, other = tmp_path / "records", tmp_path / "other"
    make_stream(folder, 100, settled=[1])
    make_stream(other, 5)
    shutil.copy(other / "000000.seg", folder / "000090.seg")
    shutil.copy(folder / "000000.seg", folder / "000091.seg")
    shutil.copy(folder / "000000.seg", folder / "1.seg")
    (folder / "000092.seg").mkdir()
    (folder / "000093.seg").symlink_to("nowhere")
    os.mkfifo(folder / "000094.seg")
    (folder / "²²²²²².seg").touch()
    found = look(folder)
    assert {name: misfit.reason for name, misfit in found.misfits.items()} == {
        "000090.seg": "a segment of another stream",
        "000091.seg": "a copy of another segment",
        "000092.seg": "cannot be used: it is no ordinary file",
        "000093.seg": "cannot be used: it is a link to nothing",
        "000094.seg": "cannot be used: it is no ordinary file",
        "1.seg": "no file of a spool",
        "²²²²²².seg": "no file of a spool",
    }
    assert all(misfit.movable for misfit in found.misfits.values())
    assert len(list(items(folder))) == 99


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    make_stream(folder, 5)
    head = bytearray((folder / "000000.seg").read_bytes()[:64])
    head[8] = 2
    head[60:] = crc32(bytes(head[:60])).to_bytes(4, "little")
    overwrite(folder / "000000.seg", 0, bytes(head))
    with pytest.raises(NewerFormat):
        look(folder)


@pytest.mark.parametrize(
    ("saves", "wiped", "copies"),
    [
        (0, None, ("empty", "empty")),
        (1, None, ("empty", "whole")),
        (2, None, ("whole", "whole")),
        (2, 0, ("empty", "whole")),  # as after the first save: nobody can tell
        (2, 1, ("whole", "damaged")),  # the first save filled it, so somebody wiped it
        (3, 0, ("damaged", "whole")),
    ],
)
def test_copies_of_the_marks(tmp_path: Path, saves: int, wiped: int | None, copies: tuple[str, str]) -> None:
    file = MarksFile(tmp_path, Files())
    for _ in range(saves):
        file.save(Marks(stream=1))
    file.close()
    if wiped is not None:
        overwrite(tmp_path / "marks", wiped * COPY_BYTES, bytes(COPY_BYTES))
    found = look_at_marks(tmp_path)
    assert found.copies == copies
    assert found.sure == ("damaged" not in copies)


def test_the_holder_is_the_process_that_has_the_lock(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    try:
        assert holder(tmp_path) is None
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert holder(tmp_path) == str(os.getpid())
    finally:
        os.close(lock)
    assert holder(tmp_path) is None


LOOKS = 60


def test_numbers_add_up_while_a_process_writes(tmp_path: Path) -> None:
    with writer(tmp_path) as process:
        assert holder(tmp_path) == str(process.pid)
        accepted = 0
        for _ in range(LOOKS):
            found = stat(tmp_path / "records")
            assert found.accepted == found.waiting + sum(found.results.values())
            assert found.accepted >= accepted
            assert set(found.results) <= {"delivered", "dropped:test"}  # nothing is lost, nothing unknown
            accepted = found.accepted
        assert process.poll() is None
    assert holder(tmp_path) is None


def test_items_read_beside_a_writer_are_in_order_and_whole(tmp_path: Path) -> None:
    with writer(tmp_path):
        for _ in range(LOOKS):
            before = 0
            for one in items(tmp_path / "records"):
                assert one.sequence > before
                number = one.sequence - 1
                assert one.data == b"%d" % number * (1 + number % 200)
                before = one.sequence
