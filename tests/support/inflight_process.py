"""`python -m tests.support.inflight_process FOLDER SEED [drain]`: a sidecar without its sockets, to be killed.

Requests begin, run and end through the real in-flight file, queue and spool; a reader delivers. What happened goes to
the file `told` in FOLDER, line by line: `b ID` before a request begins, `B ID` after, `d ID OUTCOME EPOCH SEQUENCE` for
each end that is delivered. `adopting` and `ready` on the standard output say how far the start is. With `drain`,
nothing begins, and the process ends when all is delivered.
"""

import os
import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import msgspec

from agent.clock import unix_ns
from agent.core.requests import RequestEnded, RequestEvent, RequestRecord, RequestStarted
from agent.sidecar.ids import RANDOM_BITS, uuid7
from agent.sidecar.records.inflight import InFlight, open_inflight
from agent.sidecar.records.lost import EventMaker, tell_lost
from agent.sidecar.records.queue import RecordQueue, read_item
from agent.spool.settings import SpoolSettings, StreamLimits
from agent.spool.spool import open_spool
from agent.spool.stream import Stream

SETTINGS = SpoolSettings(max_bytes=4 << 20, min_free_bytes=0, segment_bytes=64 << 10)
LIMITS = StreamLimits(group_seconds=0.01, save_seconds=0.02)
CLIENTS = 40
Put = Callable[[EventMaker], int]
SWEEP_SECONDS = 0.01


class Told:
    """Lines that survive whoever writes them."""

    def __init__(self, file: Path) -> None:
        self._fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def say(self, line: str) -> None:
        os.write(self._fd, line.encode() + b"\n")


def numbered(queue: RecordQueue, stream: Stream, make: EventMaker) -> int:
    """Put; the item's number, or 0 when it was dropped."""
    dropped = sum(queue.dropped.values())
    queue.put(make)
    return stream.put_through if sum(queue.dropped.values()) == dropped else 0


async def client(inflight: InFlight, put: Put, told: Told, dice: random.Random) -> None:
    while True:
        now = unix_ns()
        name = uuid7(now, dice.getrandbits(RANDOM_BITS))
        told.say(f"b {name.text}")
        slot = inflight.begin(name.hex, now, "/v1/completions", "acme")
        told.say(f"B {name.text}")
        await anyio.sleep(dice.uniform(0, 0.005))
        inflight.tell(slot, "127.0.0.1:8000", "m")
        put(_start(name.text, now))
        await anyio.sleep(dice.uniform(0, 0.03))
        inflight.ended(slot, put(_end(name.text, now, unix_ns())))


def _start(name: str, at_ns: int) -> EventMaker:
    return lambda n: RequestStarted(sequence=n, id=name, upstream="127.0.0.1:8000", path="/", started_at_ns=at_ns)


def _end(name: str, from_ns: int, to_ns: int) -> EventMaker:
    record = RequestRecord(
        id=name, upstream="127.0.0.1:8000", path="/", started_at_ns=from_ns, ended_at_ns=to_ns, outcome="ok"
    )
    return lambda n: RequestEnded(sequence=n, record=record)


async def deliver(inflight: InFlight, stream: Stream, told: Told) -> None:
    while True:
        batch = await stream.read(50, 1 << 20)
        for item in batch.items:
            spooled = read_item(item)
            event = msgspec.msgpack.decode(spooled.event, type=RequestEvent)
            if isinstance(event, RequestEnded):
                told.say(f"d {event.record.id} {event.record.outcome} {spooled.epoch} {event.sequence}")
        inflight.release(stream.durable_through)
        stream.settle(batch.sequences, "delivered")


async def sweep(inflight: InFlight, stream: Stream) -> None:
    while True:
        inflight.alive(unix_ns())
        inflight.release(stream.durable_through)
        await anyio.sleep(SWEEP_SECONDS)


async def main(folder: Path, seed: int, *, drain: bool) -> None:
    dice = random.Random(seed)
    told = Told(folder / "told")
    async with open_spool(folder / "spool", SETTINGS, {"records": LIMITS}, key="sidecar.spool") as spool:
        stream = spool.streams["records"]
        queue = RecordQueue(stream, unix_ns(), "me")
        put = partial(numbered, queue, stream)
        inflight = open_inflight(spool.folder, "me", unix_ns(), first_slots=8)
        os.write(1, b"adopting\n")
        await tell_lost(inflight, stream, put, "127.0.0.1:8000")
        os.write(1, b"ready\n")
        async with anyio.create_task_group() as group:
            group.start_soon(deliver, inflight, stream, told)
            group.start_soon(sweep, inflight, stream)
            if drain:
                await stream.flush()
                while stream.state().waiting:  # noqa: ASYNC110 - the reader tells nobody that it is done
                    await anyio.sleep(SWEEP_SECONDS)
                group.cancel_scope.cancel()
            for _ in range(0 if drain else CLIENTS):
                group.start_soon(client, inflight, put, told, dice)
        inflight.release(stream.durable_through)
        told.say(f"taken {inflight.taken}")
        inflight.close()


if __name__ == "__main__":
    anyio.run(partial(main, Path(sys.argv[1]), int(sys.argv[2]), drain=sys.argv[3:] == ["drain"]))
