"""Faults by number (19 to 24, 46, 47, 53 and the floor of free space) against open streams on the real disk."""

import errno
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
import structlog
from structlog.typing import EventDict

from agent.core.ports import ConfigError
from agent.spool.files import Files
from agent.spool.frame import FRAME_HEADER_BYTES
from agent.spool.marks import COPY_BYTES
from agent.spool.settings import SpoolSettings, StreamLimits
from agent.spool.spool import open_spool
from agent.spool.stream import Stream
from tests.support.faulty_files import FaultyFiles
from tests.support.spool_places import Place, flip, places, poke

ROOT = Path(__file__).resolve().parents[2]
SEGMENT = 64 << 10
MIB = 1 << 20
LIMITS = StreamLimits(group_bytes=16 << 10, group_seconds=0.001, save_seconds=0.01)


def spool(
    folder: Path, files: Files | None = None, *, max_bytes: int = 2 * MIB, min_free_bytes: int = 0
) -> AbstractAsyncContextManager[Stream]:
    """One open stream."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Stream]:
        settings = SpoolSettings(max_bytes=max_bytes, min_free_bytes=min_free_bytes, segment_bytes=SEGMENT)
        disk = files or Files()
        async with open_spool(folder, settings, {"s": LIMITS}, key="spool", files=lambda: disk) as found:
            yield found.streams["s"]

    return opened()


async def until(true: Callable[[], object]) -> None:
    with anyio.fail_after(20):
        while not true():  # noqa: ASYNC110 numbers of a stream are looked at, they tell nobody when they change
            await anyio.sleep(0.005)


async def drain(stream: Stream, count: int) -> list[bytes]:
    """The next `count` items, settled."""
    items: list[bytes] = []
    with anyio.fail_after(20):
        while len(items) < count:
            batch = await stream.read(count - len(items), 1 << 30)
            stream.settle(batch.sequences, "delivered")
            items += batch.items
    return items


def adds_up(stream: Stream) -> bool:
    state = stream.state()
    return state.accepted == state.waiting + sum(state.results.values())


ITEMS = [f"{number:04d}".encode() * 250 for number in range(200)]  # 1,000 bytes each


async def backlog(folder: Path, items: list[bytes] = ITEMS, *, settled: int = 0) -> None:
    """A folder that was closed in order, one frame for each item, `settled` of them settled."""
    async with spool(folder) as stream:
        for item in items:
            await stream.append([item])
        await drain(stream, settled) if settled else None


@pytest.fixture(name="log")
def _log() -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


def events(log: list[EventDict], name: str) -> list[EventDict]:
    return [line for line in log if line["event"] == name]


def stored(folder: Path) -> list[Place]:
    return places(folder / "s")


async def rest_after(folder: Path, damage: Callable[[list[Place]], set[int]]) -> Stream:
    """Damage a closed backlog and read it: only these are lost, each is counted, a fresh one passes."""
    await backlog(folder)
    gone = damage(stored(folder))
    left = [item for number, item in enumerate(ITEMS, 1) if number not in gone]
    async with spool(folder) as stream:
        assert await drain(stream, len(left)) == left
        await stream.append([b"fresh"])
        assert await drain(stream, 1) == [b"fresh"]
        state = stream.state()
        assert state.accepted == len(ITEMS) + 1
        assert sum(n for result, n in state.results.items() if result.startswith("dropped:")) == len(gone)
        assert state.waiting == 0
        assert adds_up(stream)
    async with spool(folder) as again:
        assert again.state().waiting == 0
        assert again.state().results == state.results
    return stream


async def test_fault_19_torn_last_record(tmp_path: Path) -> None:
    """A frame that was being written when the process died: never promised, never seen."""
    await backlog(tmp_path)
    last = stored(tmp_path)[-1]
    poke(last.path, last.frame.end, last.path.read_bytes()[last.frame.offset : last.frame.offset + 600])
    async with spool(tmp_path) as stream:
        assert stream.state().accepted == len(ITEMS)
        await stream.append([b"fresh"])
        assert await drain(stream, len(ITEMS) + 1) == [*ITEMS, b"fresh"]
        assert stream.state().damaged_frames == 0


@pytest.mark.parametrize("at", [0, 20, FRAME_HEADER_BYTES, FRAME_HEADER_BYTES + 500])
@pytest.mark.parametrize("which", [0, 70, 100, 199])
async def test_fault_19_bit_flip(tmp_path: Path, log: list[EventDict], at: int, which: int) -> None:
    def damage(every: list[Place]) -> set[int]:
        flip(every[which].path, every[which].frame.offset + at, 3)
        return every[which].numbers

    stream = await rest_after(tmp_path, damage)
    assert stream.state().damaged_frames == 1
    (line,) = events(log, "spool_frame_damaged")
    assert (tmp_path / "s" / line["copy"]).stat().st_size >= 1000


async def test_fault_19_zeroed_page(tmp_path: Path) -> None:
    def damage(every: list[Place]) -> set[int]:
        page = every[100].frame.offset // 4096 * 4096
        poke(every[100].path, page, bytes(4096))
        hit = [p for p in every if p.path == every[100].path and p.frame.offset < page + 4096 and p.frame.end > page]
        assert 4 <= len(hit) <= 6
        return {number for place in hit for number in place.numbers}

    # What is left of the frame before the page still says what it is, and so counts for itself.
    assert (await rest_after(tmp_path, damage)).state().damaged_frames in (1, 2)


async def test_fault_19_first_page_of_a_recycled_segment_zeroed(tmp_path: Path) -> None:
    """The file's own header is gone; its frames tell whose it is, and what an earlier life left in it stays dead."""
    await backlog(tmp_path, [b"o" * 1000] * 180, settled=180)
    async with spool(tmp_path) as stream:
        for item in ITEMS:
            await stream.append([item])
    every = stored(tmp_path)
    mine = next(p for p in every if p.frame.header.first > 180 and sum(q.path == p.path for q in every) > 50)
    first = [p for p in every if p.path == mine.path and p.frame.offset < 4096]
    poke(mine.path, 0, bytes(4096))
    gone = {number for place in first for number in place.numbers if number > 180}
    async with spool(tmp_path) as stream:
        left = [item for number, item in enumerate(ITEMS, 181) if number not in gone]
        assert await drain(stream, len(left)) == left
        state = stream.state()
        assert state.accepted == 380
        assert state.results["delivered"] == 380 - len(gone)
        assert adds_up(stream)


@pytest.mark.parametrize("which", ["first", "middle", "last"])
@pytest.mark.parametrize("how", ["empty", "missing", "cut"])
async def test_fault_19_empty_missing_and_cut_segments(tmp_path: Path, which: str, how: str) -> None:
    def damage(every: list[Place]) -> set[int]:
        paths = sorted({place.path for place in every})
        path = {"first": paths[0], "middle": paths[1], "last": paths[-1]}[which]
        own = [place for place in every if place.path == path]
        keep = len(own) // 2 if how == "cut" else 0
        if how == "missing":
            path.unlink()
        else:
            with path.open("r+b") as file:
                file.truncate(own[keep].frame.offset if keep else 0)
        return {number for place in own[keep:] for number in place.numbers}

    await rest_after(tmp_path, damage)


async def test_fault_19_foreign_files(tmp_path: Path, log: list[EventDict]) -> None:
    def damage(every: list[Place]) -> set[int]:
        folder = every[0].path.parent
        (folder / "000077.seg").write_bytes(os.urandom(5000))
        (folder / "000078.seg").mkdir()
        (folder / "000079.seg").symlink_to("nowhere")
        os.mkfifo(folder / "000080.seg")
        (folder / "1.seg").write_bytes(every[0].path.read_bytes())
        (folder / "²²²²²².seg").write_bytes(b"x")
        (folder / "000081.seg").write_bytes(every[0].path.read_bytes())
        (folder / "notes.txt").write_text("hello")
        (folder / "000082.seg").touch()
        return set()

    await rest_after(tmp_path, damage)
    notes = " ".join(line["note"] for line in events(log, "spool_found"))
    for name in ("77", "78", "79", "80", "81", "notes.txt", "1.seg", "²²²²²².seg"):
        assert f"{name} is" in notes
    assert (tmp_path / "s" / "000077.seg").stat().st_size == 5000


async def test_fault_20_marks_fall_back_to_the_older_copy(tmp_path: Path, log: list[EventDict]) -> None:
    async with spool(tmp_path) as stream:
        await stream.append(ITEMS[:10])
        await drain(stream, 4)
        marks = tmp_path / "s" / "marks"
        await until(lambda: stream.state().waiting == 6 and not stream._changed)
    data = bytearray(marks.read_bytes())
    newest = max((0, 1), key=lambda copy: int.from_bytes(data[copy * COPY_BYTES + 8 :][:8], "little"))
    poke(marks, newest * COPY_BYTES + 30, b"\xff\xff\xff")
    async with spool(tmp_path) as stream:
        state = stream.state()
        assert state.accepted == 10
        assert adds_up(stream)
        items = await drain(stream, state.waiting)
        assert items[-6:] == ITEMS[4:10], "what was settled last may come again; nothing is left out"
    assert any("marks file is damaged" in line["note"] for line in events(log, "spool_found"))


@pytest.mark.parametrize("how", ["gone", "noise", "zeros", "cut"])
async def test_fault_20_marks_are_rebuilt_from_the_segments(tmp_path: Path, how: str) -> None:
    await backlog(tmp_path, settled=150)
    marks = tmp_path / "s" / "marks"
    if how == "gone":
        marks.unlink()
    else:
        marks.write_bytes({"noise": os.urandom(2 * COPY_BYTES), "zeros": bytes(2 * COPY_BYTES), "cut": b"\xe5RMk"}[how])
    async with spool(tmp_path) as stream:
        state = stream.state()
        assert state.accepted == 200
        assert 50 <= state.waiting <= 200, "what is on the disk comes again, never from the end"
        assert sum(state.results.values()) == state.results.get("unknown", 0) == 200 - state.waiting
        items: list[bytes] = []
        while stream.state().waiting:  # gaps between the files that are left are found as the reader gets there
            items += await drain(stream, 1)
        assert items[-50:] == ITEMS[150:]
        assert adds_up(stream)


@pytest.fixture(name="volume")
def _volume(tmp_path: Path) -> Iterator[Path]:
    """A volume of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a volume of its own")
    path = tmp_path / "volume"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("this machine does not let us mount a volume")
    yield path
    subprocess.run(["umount", str(path)], check=True)


async def test_fault_21_disk_full(volume: Path, log: list[EventDict]) -> None:
    other = volume / "other"
    files = FaultyFiles()
    files.free = 1 << 40  # as where other programs are faster than our look at what is free
    async with spool(volume / "spool", files, max_bytes=64 * MIB) as stream:
        await stream.append([b"first"])
        other.write_bytes(bytes(7 * MIB))
        items = [os.urandom(30_000) for _ in range(60)]
        for item in items:
            while not stream.put([item]):
                await anyio.lowlevel.checkpoint()
        await until(lambda: stream.state().blocked)
        before = stream.state()
        assert "No space left" in before.blocked
        assert before.pending > 0
        assert await drain(stream, before.waiting)
        assert len(events(log, "spool_blocked")) == 1
        other.unlink()
        with anyio.fail_after(10):
            await stream.flush()
        assert not stream.state().blocked
        await stream.append([b"fresh"])
        rest = await drain(stream, stream.state().waiting)
        assert rest[-1] == b"fresh"
        assert stream.state().accepted == 62
        assert adds_up(stream)


async def test_fault_21_part_of_a_frame_on_a_full_disk_is_harmless(tmp_path: Path) -> None:
    files = FaultyFiles()
    async with spool(tmp_path, files) as stream:
        await stream.append([b"one"])
        files.fail("write", errno.ENOSPC, part=0.7, only=lambda name: name.endswith(".seg"))
        assert stream.put([b"two" * 1000])
        await until(lambda: stream.state().blocked)
        attempts = files.calls["write"]
        assert attempts < 20, "no busy loop"
        files.heal()
        await stream.append([b"three"])
        assert await drain(stream, 3) == [b"one", b"two" * 1000, b"three"]
        assert stream.state().retired_segments == 0


async def test_fault_21_a_full_disk_at_the_start_does_not_keep_from_starting(volume: Path) -> None:
    await backlog(volume / "spool", ITEMS[:20])
    left = os.statvfs(volume).f_bavail * os.statvfs(volume).f_frsize
    (volume / "other").write_bytes(bytes(left))
    async with spool(volume / "spool") as stream:
        assert await drain(stream, 20) == ITEMS[:20]
        await stream.append([b"fresh"])
        assert await drain(stream, 1) == [b"fresh"]


@pytest.mark.parametrize("kind", ["sync", "write"])
async def test_fault_22_a_failed_sync_retires_the_segment(tmp_path: Path, log: list[EventDict], kind: str) -> None:
    files = FaultyFiles()
    async with spool(tmp_path, files) as stream:
        await stream.append([b"one"])
        files.fail(kind, errno.EIO, 1, part=0.5, only=lambda name: name.endswith(".seg"))
        await stream.append([b"two"])
        await stream.append([b"three"])
        assert stream.state().retired_segments == 1
        assert not stream.state().blocked
    assert len({place.path for place in stored(tmp_path)}) == 2
    async with spool(tmp_path) as stream:
        assert await drain(stream, 3) == [b"one", b"two", b"three"]
        assert stream.state().accepted == 3
    assert len(events(log, "spool_segment_retired")) == 1


async def test_fault_22_a_disk_that_takes_nothing_blocks_and_recovers(tmp_path: Path, log: list[EventDict]) -> None:
    files = FaultyFiles()
    async with spool(tmp_path, files) as stream:
        await stream.append([b"one"])
        files.fail("sync", errno.EIO)
        assert stream.put([b"two"])
        await until(lambda: stream.state().blocked)
        assert "3 segments in a row failed: Input/output error" in stream.state().blocked
        assert stream.state().used_bytes <= 3 * SEGMENT, "failed attempts do not fill the disk"
        files.heal()
        await stream.append([b"three"])
        assert await drain(stream, 3) == [b"one", b"two", b"three"]
        assert not stream.state().blocked
    assert len(events(log, "spool_segment_retired")) == 1
    assert len(events(log, "spool_marks_not_saved")) <= 1


async def test_fault_22_a_disk_that_cannot_be_read_for_a_moment_loses_nothing(tmp_path: Path) -> None:
    await backlog(tmp_path)
    files = FaultyFiles()
    async with spool(tmp_path, files) as stream:
        files.fail("read", errno.EIO, 1)
        assert await drain(stream, 200) == ITEMS
        assert stream.state().damaged_frames == 0


async def test_fault_23_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "spool", tmp_path / "other" / "s"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    for folder, wrong in ((tmp_path / "spool", "spool"), (tmp_path / "other", "other/s")):
        with pytest.raises(ConfigError) as refused:
            async with spool(folder):
                pass
        assert str(tmp_path / wrong) in str(refused.value)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM])
@pytest.mark.parametrize("kind", ["create", "open", "open_to_read"])
async def test_fault_23_a_folder_that_is_not_ours(tmp_path: Path, kind: str, code: int) -> None:
    await backlog(tmp_path, ITEMS[:3])
    files = FaultyFiles()
    files.fail(kind, code)
    with pytest.raises(ConfigError) as refused:
        async with spool(tmp_path, files):
            pass
    assert f"{tmp_path / 's'} cannot be used: {os.strerror(code)}" in str(refused.value)
    async with spool(tmp_path) as stream:
        assert await drain(stream, 3) == ITEMS[:3]


@pytest.mark.parametrize("kind", ["create", "open"])
async def test_fault_24_no_descriptors_left(tmp_path: Path, kind: str) -> None:
    files = FaultyFiles()
    async with spool(tmp_path, files) as stream:
        await stream.append([b"x" * 60_000])
        files.fail(kind, errno.EMFILE)
        assert stream.put([b"y" * 60_000])
        await until(lambda: stream.state().blocked)
        assert "Too many open files" in stream.state().blocked
        files.heal()
        await stream.flush()
        assert not stream.state().blocked
        assert await drain(stream, 2) == [b"x" * 60_000, b"y" * 60_000]
        assert stream.state().used_bytes <= 2 * SEGMENT, "no file was forgotten"


async def test_fault_24_no_descriptors_left_to_read(tmp_path: Path) -> None:
    await backlog(tmp_path)
    files = FaultyFiles()
    async with spool(tmp_path, files) as stream:
        files.fail("open_to_read", errno.EMFILE)
        async with anyio.create_task_group() as group:
            group.start_soon(stream.read, 1, 1)
            await until(lambda: "Too many open files" in stream.state().blocked)
            group.cancel_scope.cancel()
        files.heal()
        assert (await drain(stream, 200))[-1] == ITEMS[-1]
        assert not stream.state().blocked


async def test_fault_46_two_on_one_folder(tmp_path: Path) -> None:
    async with spool(tmp_path) as stream:
        with pytest.raises(ConfigError, match=f"process {os.getpid()}"):
            async with spool(tmp_path):
                pass
        command = [sys.executable, "-m", "tests.support.spool_process", str(tmp_path), "1"]
        with anyio.fail_after(60):
            other = await anyio.run_process(command, cwd=ROOT, check=False)
        assert other.returncode == 3
        assert f"process {os.getpid()}".encode() in other.stdout
        await stream.append([b"goes on"])


async def test_fault_47_a_newer_format_is_refused_and_touched_by_nothing(tmp_path: Path) -> None:
    await backlog(tmp_path, ITEMS[:3])
    path = stored(tmp_path)[0].path
    was = path.read_bytes()
    from tests.support.spool_places import newer_segment

    path.write_bytes(newer_segment(was))
    before = {file: file.read_bytes() for file in (tmp_path / "s").iterdir()}
    with pytest.raises(ConfigError, match=r"newer engineroom \(format version 2; this program reads up to 1\)"):
        async with spool(tmp_path):
            pass
    assert {file: file.read_bytes() for file in (tmp_path / "s").iterdir()} == before
    path.write_bytes(was)
    async with spool(tmp_path) as stream:
        assert await drain(stream, 3) == ITEMS[:3]


def test_fault_53_a_long_backlog_does_not_take_memory(tmp_path: Path) -> None:
    """512 MiB of backlog: start, and read 256 MiB behind without settling at once, within 40 MiB."""
    program = """
import sys, anyio
from pathlib import Path
from bench.spool import LIMITS, _resident_mib, fill
from agent.spool.settings import SpoolSettings
from agent.spool.spool import open_spool
async def main(folder):
    settings = SpoolSettings(max_bytes=1 << 30, min_free_bytes=0)
    async with open_spool(folder / "empty", settings, {"bench": LIMITS}, key="spool") as spool:
        await spool.streams["bench"].append([bytes(1 << 20)])
        await spool.streams["bench"].read(1, 1 << 20)
    before = _resident_mib()
    async with open_spool(folder / "full", settings, {"bench": LIMITS}, key="spool") as spool:
        stream = spool.streams["bench"]
        at_start = _resident_mib() - before
        for number in range(256):
            batch = await stream.read(1, 2 << 20)
            stream.settle(batch.sequences, "delivered")
        print(stream.state().waiting, at_start, _resident_mib() - before)
anyio.run(main, Path(sys.argv[1]))
"""
    from bench.spool import fill

    waiting = fill(tmp_path / "full" / "bench", 512 * MIB)
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    left, at_start, reading = map(float, done.stdout.splitlines()[-1].split())
    assert left == waiting - 256
    assert at_start < 40
    assert reading < 40


async def test_the_floor_of_free_space_stops_growth_and_gives_back_what_is_spare(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.free = 1 << 40
    async with spool(tmp_path, files, min_free_bytes=1 << 30) as stream:
        for _ in range(5):
            await stream.append([b"x" * 60_000])
        await drain(stream, 5)
        await until(lambda: stream.state().used_bytes < 5 * SEGMENT or stream.state().used_bytes == 5 * SEGMENT)
        files.free = 1 << 20
        await until(lambda: stream.state().used_bytes == SEGMENT)
        for _ in range(2):
            assert stream.put([b"y" * 60_000])
        # Everything is settled, so the one segment that is left is used again; then there is no more.
        await until(lambda: stream.state().blocked)
        assert f"less than {1 << 30} bytes would stay free" in stream.state().blocked
        assert stream.state().used_bytes == SEGMENT
        files.free = 1 << 40
        await stream.flush()
        assert not stream.state().blocked
        assert await drain(stream, 2) == [b"y" * 60_000] * 2
        assert adds_up(stream)


async def test_the_floor_of_free_space_on_a_real_volume(volume: Path) -> None:
    async with spool(volume / "spool", max_bytes=64 * MIB, min_free_bytes=4 * MIB) as stream:
        for _ in range(200):
            if not stream.put([b"x" * 60_000]):
                break
            await anyio.sleep(0.001)
        await until(lambda: stream.state().blocked)
        assert "would stay free" in stream.state().blocked
        assert os.statvfs(volume).f_bavail * os.statvfs(volume).f_frsize >= 4 * MIB
        state = stream.state()
        await drain(stream, state.waiting + state.pending)
        await stream.append([b"fresh"])
        assert await drain(stream, 1) == [b"fresh"]
