"""Spools on disk for tests of what looks at them from outside: made by the real writer, damaged by hand, read back."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from agent.delivery.deadletters import DeadLetter
from agent.spool.acks import Acks, runs
from agent.spool.bounds import Bounds
from agent.spool.files import Files
from agent.spool.log import Log
from agent.spool.marks import Marks
from agent.spool.settings import SpoolSettings, StreamLimits

ROOT = Path(__file__).resolve().parents[2]
SEGMENT_BYTES = 4096
SMALL = SpoolSettings(max_bytes=8 << 20, min_free_bytes=0, segment_bytes=64 << 10, group_seconds=0)
LIMITS = StreamLimits(group_seconds=0.0, save_seconds=0.01)


def open_log(folder: Path, segment_bytes: int = SEGMENT_BYTES) -> Log:
    """The stream in `folder` as its writer opens it."""
    folder.mkdir(parents=True, exist_ok=True)
    bounds = Bounds(folder, Files(), max_bytes=1 << 30, min_free_bytes=0, weights={folder.name: 1.0})
    return Log(folder, folder.name, bounds, Files(), segment_bytes=segment_bytes, max_segments=1000)


def item(number: int, size: int = 100) -> bytes:
    """An item that says which one it is."""
    return f"item {number} ".encode().ljust(size, b".")


def dead_letter(number: int, item: bytes, stream: str = "records") -> bytes:
    """A letter with `item`, as delivery writes it."""
    return msgspec.msgpack.encode(
        DeadLetter(
            stream=stream,
            destination="agent",
            reason=f"status 400: the schema of item {number} is unknown; " + "update the agent " * 5,
            at_ns=1_795_440_000_000_000_000 + number * 10**9,
            sequence=1000 + number,
            item=item,
        )
    )


def make_stream(
    folder: Path,
    items: int,
    *,
    settled: Sequence[int] = (),
    per_frame: int = 5,
    saves: int = 1,
    at_ns: Callable[[int], int] = lambda first: first * 1000,
    data: Callable[[int], bytes] = item,
) -> None:
    """A stream with items 1 to `items`, of which `settled` (ascending) are settled as delivered; then closed."""
    log = open_log(folder)
    for first in range(1, items + 1, per_frame):
        numbers = range(first, min(first + per_frame, items + 1))
        log.write([data(number) for number in numbers], at_ns(first))
    acks = Acks()
    for first, last in runs(list(settled)):
        acks.add(first, last)
    for _ in range(saves):
        log.save(
            Marks(
                stream=log.stream,
                committed=log.committed,
                through=acks.through,
                ranges=tuple(acks.ranges()),
                results={"delivered": acks.settled()} if settled else {},
            )
        )
    log.close()


def read_by_owner(folder: Path) -> dict[int, bytes]:
    """What is not settled, as a process that opens the stream would hand it out. Works on a copy."""
    copy = folder.parent / f"{folder.name}.copy"
    shutil.copytree(folder, copy)
    try:
        log = open_log(copy)
        marks = log.recovered.marks
        acks = Acks(marks.through, marks.ranges)
        pieces, _, _, _ = log.read(log.start(acks.through + 1), acks.through + 1, 1 << 40)
        log.close()
    finally:
        shutil.rmtree(copy)
    return {
        number: piece.items[number - piece.first]
        for piece in pieces
        for begin, end in acks.unsettled(piece.first, piece.first + len(piece.items) - 1)
        for number in range(begin, end + 1)
    }


def overwrite(file: Path, offset: int, data: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(data)


def flip(file: Path, offset: int) -> None:
    """Turn all bits of one byte."""
    with file.open("r+b") as opened:
        opened.seek(offset)
        was = opened.read(1)
        opened.seek(offset)
        opened.write(bytes([was[0] ^ 0xFF]))


_WRITER = """
import sys, anyio
from pathlib import Path
from tests.support.spool_folders import SMALL, LIMITS
from agent.spool.spool import open_spool

async def main(folder):
    async with open_spool(folder, SMALL, {"records": LIMITS, "dead-letters": LIMITS}, key="sidecar.spool") as spool:
        stream = spool.streams["records"]
        async def write():
            number = 0
            while True:
                await stream.append([b"%d" % n * (1 + n % 200) for n in range(number, number + 40)])
                number += 40
        async def settle():
            turn = 0
            while True:
                batch = await stream.read(100, 1 << 20)
                turn += 1
                stream.settle(batch.sequences, "delivered" if turn % 7 else "dropped:test")
                if stream.state().syncs > 30 and turn == 40:
                    print("running", flush=True)
        async with anyio.create_task_group() as group:
            group.start_soon(write)
            group.start_soon(settle)

anyio.run(main, Path(sys.argv[1]))
"""


@contextmanager
def writer(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes to and settles in the spool `folder` as fast as it can; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        yield process
    finally:
        process.kill()
        process.communicate()
