"""Fault 16 for the spool alone: kill -9 at random instants of a process that appends, reads and settles."""

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from agent.spool.spool import open_spool
from tests.support.spool_process import LIMITS, SETTINGS, STREAM, make, name_of

ROOT = Path(__file__).resolve().parents[2]
KILLS = 200 if os.environ.get("ENGINEROOM_LONG") else 20


def lines_until_killed(folder: Path, seed: int, seconds: float) -> list[str]:
    """What the process told until it was killed, `seconds` after it had opened the spool."""
    command = [sys.executable, "-m", "tests.support.spool_process", str(folder), str(seed)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        pipe, told, deadline = process.stdout.fileno(), b"", time.monotonic() + 30
        opened = False
        while (left := deadline - time.monotonic()) > 0:
            if select.select([pipe], [], [], left)[0]:
                piece = os.read(pipe, 1 << 16)
                assert piece, "the process ended by itself"
                told += piece
            if not opened and b"open\n" in told:
                opened, deadline = True, time.monotonic() + seconds
        os.kill(process.pid, signal.SIGKILL)
        told += process.stdout.read()
        process.wait()
    return told.decode().rpartition("\n")[0].splitlines()


async def test_fault_16_kill_at_random_instants(tmp_path: Path) -> None:
    dice = random.Random(16)
    written: set[str] = set()
    acked: set[str] = set()
    settled: set[str] = set()
    read: list[str] = []
    for seed in range(KILLS):
        for line in lines_until_killed(tmp_path, seed, dice.uniform(0.01, 0.5)):
            kind, _, name = line.partition(" ")
            assert kind in {"open", "w", "a", "r", "s"}, line
            if kind in "wars":
                {"w": written.add, "a": acked.add, "r": read.append, "s": settled.add}[kind](name)
    async with open_spool(tmp_path, SETTINGS, {STREAM: LIMITS}, key="spool") as spool:
        stream = spool.streams[STREAM]
        await stream.append([make("fresh")])
        written.add("fresh")
        while "fresh" not in read:
            batch = await stream.read(1000, 1 << 20)
            read += [name_of(item) or "corrupted" for item in batch.items]
            stream.settle(batch.sequences, "delivered")
        state = stream.state()
    assert state.waiting == 0
    assert state.accepted == sum(state.results.values())
    assert set(state.results) == {"delivered"}
    assert acked - set(read) == set(), "missing"
    assert "corrupted" not in read
    assert set(read) - written == set(), "spurious"
    assert len(acked) > 20 * KILLS
    repeated = len(read) - len(set(read))
    assert repeated > 0, "replay really ran"
    print(f"kills {KILLS}, acknowledged {len(acked)}, settled {len(settled)}, repeated {repeated}")
