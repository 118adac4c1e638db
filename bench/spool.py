"""The spool at work: durable appends beside a bare loop on the same disk, small items on one core, a start with 10 GiB.

Appends: 1 MiB batches, each durable before the next, with a reader that follows and settles; the peer is the least that
can be done for it, a pwrite and an fdatasync over a file whose blocks are already there. Rounds of the two alternate.
Small items count CPU time of the whole process. The backlog is made of real frames of 1 MiB; the start of a process
that opens it is compared with one that opens an empty spool.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import anyio

from agent.clock import unix_ns
from agent.spool.frame import (
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    encode_frame,
    encode_segment_header,
    frame_bytes,
    padded,
)
from agent.spool.settings import SpoolSettings, StreamLimits
from agent.spool.spool import open_spool
from agent.spool.stream import Stream
from bench.figures import Figure

MIB = 1 << 20
ROUNDS = 5
BATCHES = 250
WARM_BATCHES = 300  # until as many segments are in reserve as are used between two saves
PEER_BYTES = 64 * MIB
ITEM = bytes(300)
ITEMS = 400_000
ITEMS_AT_ONCE = 1_000
BACKLOG_BYTES = 10 << 30
BAR_OF_PEER = 0.7
BAR_ITEMS = 500_000
BAR_START_SECONDS = 1.0
BAR_START_MIB = 40.0

SETTINGS = SpoolSettings(max_bytes=2 << 30, min_free_bytes=0)
LIMITS = StreamLimits()


async def _follow(stream: Stream, items: int) -> None:
    while items:
        batch = await stream.read(ITEMS_AT_ONCE, 4 * MIB)
        stream.settle(batch.sequences, "delivered")
        items -= len(batch.items)


async def _append(stream: Stream, batches: int, batch: Sequence[bytes]) -> float:
    """Seconds for so many durable batches, settled as they come."""
    began = perf_counter()
    async with anyio.create_task_group() as group:
        group.start_soon(_follow, stream, batches * len(batch))
        for _ in range(batches):
            await stream.append(batch)
    return perf_counter() - began


def _bare(path: Path, batches: int) -> float:
    """Seconds for writing and syncing as many MiB over a file that is there, round and round."""
    data = os.urandom(MIB)
    fd = os.open(path, os.O_RDWR)
    began = perf_counter()
    for at in range(batches):
        os.pwrite(fd, data, at * MIB % PEER_BYTES)
        os.fdatasync(fd)
    spent = perf_counter() - began
    os.close(fd)
    return spent


async def _appends(folder: Path) -> float:
    """Our speed in parts of the bare loop's: the median of rounds side by side."""
    peer = folder / "peer"
    peer.write_bytes(bytes(PEER_BYTES))
    batch = [os.urandom(MIB - 16)]
    parts = []
    async with open_spool(folder / "spool", SETTINGS, {"bench": LIMITS}, key="spool") as spool:
        stream = spool.streams["bench"]
        await _append(stream, WARM_BATCHES, batch)
        for _ in range(ROUNDS):
            bare = _bare(peer, BATCHES)
            ours = await _append(stream, BATCHES, batch)
            bare += _bare(peer, BATCHES)
            parts.append(bare / 2 / ours)
    return median(parts)


async def _items(folder: Path) -> float:
    """Small items put, made durable, read and settled for each second of CPU time."""
    items = [ITEM] * ITEMS_AT_ONCE
    async with open_spool(folder / "spool", SETTINGS, {"bench": LIMITS}, key="spool") as spool:
        stream = spool.streams["bench"]
        rates = []
        for _ in range(ROUNDS):
            began = process_time()
            async with anyio.create_task_group() as group:
                group.start_soon(_follow, stream, ITEMS)
                for _ in range(ITEMS // ITEMS_AT_ONCE):
                    while not stream.put(items):
                        await stream.flush()
                    await anyio.lowlevel.checkpoint()
                await stream.flush()
            rates.append(ITEMS / (process_time() - began))
            assert stream.state().waiting == 0
    return median(rates)


def fill(folder: Path, size_bytes: int, segment_bytes: int = SETTINGS.segment_bytes) -> int:
    """A stream's folder with so many bytes of backlog, in frames of 1 MiB. Returns how many items wait."""
    folder.mkdir(parents=True)
    body = [os.urandom(MIB - 4096)]
    stream, first, now = 42, 1, unix_ns()
    room = (segment_bytes - SEGMENT_HEADER_BYTES) // padded(frame_bytes(len(body[0]), 1))
    for slot in range(size_bytes // segment_bytes):
        header = SegmentHeader(stream, slot + 1, first, now)
        with (folder / f"{slot:06d}.seg").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, segment_bytes)
            file.write(encode_segment_header(header))
            for _ in range(room):
                file.writelines(encode_frame(stream, slot + 1, first, now, body))
                first += 1
    return first - 1


def _start(folder: Path, max_bytes: int) -> dict[str, float]:
    """What a process says that opens the spool and reads one item."""
    command = [sys.executable, "-m", "bench.spool", str(folder), str(max_bytes)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


async def _tell_start(folder: Path, max_bytes: int) -> None:
    settings = SpoolSettings(max_bytes=max_bytes, min_free_bytes=0)
    before = _resident_mib()
    began = perf_counter()
    async with open_spool(folder, settings, {"bench": LIMITS}, key="spool") as spool:
        seconds = perf_counter() - began
        stream = spool.streams["bench"]
        waiting = stream.state().waiting
        if waiting:
            assert (await stream.read(1, MIB)).sequences[0] == 1
        print(json.dumps({"seconds": seconds, "mib": _resident_mib() - before, "waiting": waiting}))


def _resident_mib() -> float:
    """The most this process ever had (proc(5), VmHWM is in KiB)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _starts(folder: Path) -> tuple[float, float]:
    """Seconds and MiB more than an empty start, with a backlog of 10 GiB."""
    empty = _start(folder / "empty", BACKLOG_BYTES)
    waiting = fill(folder / "full" / "bench", BACKLOG_BYTES)
    found = [_start(folder / "full", BACKLOG_BYTES) for _ in range(3)]
    assert all(one["waiting"] == waiting for one in found)
    return median(one["seconds"] for one in found), median(one["mib"] for one in found) - empty["mib"]


def run() -> list[Figure]:
    """All four figures; needs 13 GiB of disk for a moment."""
    folder = Path(tempfile.mkdtemp(prefix="bench-spool-"))
    cores = os.sched_getaffinity(0)
    try:
        part = anyio.run(_appends, folder / "a", backend_options={"use_uvloop": True}) if _made(folder / "a") else 0.0
        os.sched_setaffinity(0, {min(cores)})
        rate = anyio.run(_items, folder / "b", backend_options={"use_uvloop": True}) if _made(folder / "b") else 0.0
        os.sched_setaffinity(0, cores)
        seconds, mib = _starts(folder)
    finally:
        os.sched_setaffinity(0, cores)
        shutil.rmtree(folder)
    return [
        Figure(name="spool_append_vs_bare_loop", value=part, unit="parts", bar=BAR_OF_PEER, better="higher"),
        Figure(name="spool_items_per_second", value=rate, unit="items/s", bar=BAR_ITEMS, better="higher"),
        Figure(name="spool_start_10gib_seconds", value=seconds, unit="s", bar=BAR_START_SECONDS, better="lower"),
        Figure(name="spool_start_10gib_memory", value=mib, unit="MiB", bar=BAR_START_MIB, better="lower"),
    ]


def _made(folder: Path) -> bool:
    folder.mkdir()
    return True


if __name__ == "__main__":
    anyio.run(_tell_start, Path(sys.argv[1]), int(sys.argv[2]), backend_options={"use_uvloop": True})
