"""`python -m tests.support.spool_process FOLDER SEED`: appends, reads and settles; tells each promise on a pipe.

A line `a ID` says that an item is durable, `s ID` that it was settled before the marks were saved, `S` that they were.
Each item is made from its id alone, so that whoever reads it can tell whether it is what was written.
"""

import hashlib
import os
import random
import sys
from pathlib import Path

import anyio

from agent.core.ports import ConfigError
from agent.spool.settings import SpoolSettings, StreamLimits
from agent.spool.spool import open_spool
from agent.spool.stream import Stream

STREAM = "records"
SETTINGS = SpoolSettings(max_bytes=2 << 20, min_free_bytes=0, segment_bytes=64 << 10)
LIMITS = StreamLimits(group_bytes=16 << 10, group_seconds=0.002, save_seconds=0.01)


def make(name: str) -> bytes:
    """The item of this id: 40 to 6,000 bytes."""
    digest = hashlib.sha256(name.encode()).digest()
    return name.encode() + b"|" + digest * (1 + int.from_bytes(digest[:2], "big") % 180)


def name_of(item: bytes) -> str | None:
    """The id of an item; None when it is not what `make` made."""
    name = item.partition(b"|")[0].decode(errors="replace")
    return name if make(name) == item else None


def tell(line: str) -> None:
    os.write(1, line.encode() + b"\n")


async def produce(stream: Stream, life: str, worker: int, dice: random.Random) -> None:
    number = 0
    while True:
        names = [f"{life}-{worker}-{number + at}" for at in range(dice.randint(1, 5))]
        number += len(names)
        tell("".join(f"w {name}\n" for name in names)[:-1])
        await stream.append([make(name) for name in names])
        tell("".join(f"a {name}\n" for name in names)[:-1])


async def consume(stream: Stream, dice: random.Random) -> None:
    while True:
        batch = await stream.read(20, 64 << 10)
        for item in batch.items:
            name = name_of(item)
            tell(f"r {name}" if name else "corrupted")
        chosen = list(batch.sequences)
        tell("".join(f"s {name_of(item)}\n" for item in batch.items)[:-1])
        stream.settle(chosen, "delivered")
        state = stream.state()
        if state.accepted != state.waiting + sum(state.results.values()):
            tell("identity")
        await anyio.sleep(dice.choice([0, 0, 0.01]))


async def main(folder: Path, seed: int) -> None:
    dice = random.Random(seed)
    async with (
        open_spool(folder, SETTINGS, {STREAM: LIMITS}, key="spool") as spool,
        anyio.create_task_group() as group,
    ):
        tell("open")
        for worker in range(3):
            group.start_soon(produce, spool.streams[STREAM], f"{seed}", worker, dice)
        group.start_soon(consume, spool.streams[STREAM], dice)


if __name__ == "__main__":
    try:
        anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]), backend_options={"use_uvloop": True})
    except ConfigError as error:
        tell(f"refused {error}")
        sys.exit(3)
