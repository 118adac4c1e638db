"""kill -9 of a sidecar: every request that had begun is told exactly once, by its own end or as lost."""

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import msgspec
import pytest

from agent.core.requests import RequestEnded, RequestEvent, RequestRecord, RequestStarted
from agent.sidecar.ids import uuid7
from agent.sidecar.records.inflight import LostRequest, open_inflight
from agent.sidecar.records.lost import LOST_ERROR, EventMaker, lost_events, tell_lost
from agent.sidecar.records.queue import RecordQueue, read_item
from agent.spool.spool import open_spool
from tests.support.inflight_process import LIMITS, SETTINGS, numbered

ROOT = Path(__file__).resolve().parents[3]
KILLS = 60 if os.environ.get("ENGINEROOM_LONG") else 8
NS = 1_000_000_000
NOW = 1_795_000_000 * NS


def run_until_killed(folder: Path, seed: int, seconds: float, *, after: bytes) -> None:
    """A life that ends `seconds` after it has told `after`."""
    command = [sys.executable, "-m", "tests.support.inflight_process", str(folder), str(seed)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        deadline, told = time.monotonic() + 30, b""
        while after not in told and (left := deadline - time.monotonic()) > 0:
            if select.select([process.stdout], [], [], left)[0]:
                piece = os.read(process.stdout.fileno(), 1 << 16)
                assert piece, "the process ended by itself"
                told += piece
        select.select([process.stdout], [], [], seconds)  # it says nothing more; or so much after `adopting`
        os.kill(process.pid, signal.SIGKILL)


def test_fault_16_every_request_is_recorded_or_lost_and_never_both(tmp_path: Path) -> None:
    dice = random.Random(16)
    for seed in range(KILLS):
        after = b"adopting" if dice.random() < 0.3 else b"ready"
        run_until_killed(tmp_path, seed, dice.uniform(0.02, 0.4), after=after)
    command = [sys.executable, "-m", "tests.support.inflight_process", str(tmp_path), "0", "drain"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)

    begun, surely, ends = set(), set(), defaultdict(set)
    lines = (tmp_path / "told").read_text().splitlines()
    for line in lines:
        kind, _, rest = line.partition(" ")
        name, *end = rest.split(" ")
        if kind == "b":
            begun.add(name)
        elif kind == "B":
            surely.add(name)
        elif kind == "d":
            ends[name].add(tuple(end))  # delivered again after a kill, it is still the same one
    assert lines[-1] == "taken 0"
    assert [name for name in surely if name not in ends] == [], "neither recorded nor lost"
    assert [name for name, told in ends.items() if len(told) > 1] == [], "told twice"
    assert set(ends) <= begun
    outcomes = [next(iter(told))[0] for told in ends.values()]
    print(f"{KILLS} kills, {len(begun)} begun, {len(surely)} surely, {outcomes.count('lost_record')} lost")
    assert outcomes.count("lost_record") >= KILLS
    assert outcomes.count("ok") > 100


def ended(name: str) -> EventMaker:
    record = RequestRecord(id=name, upstream="u:1", path="/", started_at_ns=NOW, ended_at_ns=NOW, outcome="ok")
    return lambda n: RequestEnded(sequence=n, record=record)


def started(name: str) -> EventMaker:
    return lambda n: RequestStarted(sequence=n, id=name, upstream="u:1", path="/", started_at_ns=NOW)


async def test_only_those_are_lost_whose_end_the_spool_does_not_hold(tmp_path: Path) -> None:
    first, second, third = (uuid7(NOW, bits) for bits in range(3))
    async with open_spool(tmp_path, SETTINGS, {"records": LIMITS}, key="k") as spool:
        queue = RecordQueue(spool.streams["records"], 1, "me")
        killed = open_inflight(tmp_path, "me", NOW)
        for request in (first, second, third):
            killed.begin(request.hex, NOW, "/v1/completions", "acme")
            queue.put(started(request.text))
        await spool.streams["records"].flush()
        killed.release(3)
        queue.put(ended(second.text))  # durable, but nobody has come round to letting go
        spool.streams["records"].put((b"\xff no event",))
    async with open_spool(tmp_path, SETTINGS, {"records": LIMITS}, key="k") as spool:
        stream = spool.streams["records"]
        queue = RecordQueue(stream, 2, "me")
        inflight = open_inflight(tmp_path, "me", NOW + 9 * NS)
        assert len(inflight.left) == 3

        assert await tell_lost(inflight, stream, lambda make: numbered(queue, stream, make), "d:1") == 2
        assert (inflight.left, inflight.taken) == ([], 2), "they keep their slots until that is durable"
        await stream.flush()
        inflight.release(stream.durable_through)
        assert inflight.taken == 0

        batch, _ = await stream.look(6, 1 << 20)
        events = [msgspec.msgpack.decode(read_item(item).event, type=RequestEvent) for item in batch.items]
        assert {event.record.id for event in events if isinstance(event, RequestEnded)} == {first.text, third.text}
        assert {event.record.outcome for event in events if isinstance(event, RequestEnded)} == {"lost_record"}
        inflight.close()


async def test_where_nothing_was_left_the_spool_is_not_looked_at(tmp_path: Path) -> None:
    async with open_spool(tmp_path, SETTINGS, {"records": LIMITS}, key="k") as spool:
        inflight = open_inflight(tmp_path, "me", NOW)
        assert await tell_lost(inflight, spool.streams["records"], pytest.fail, "d:1") == 0
        inflight.close()


async def test_a_lost_request_that_finds_no_room_is_dropped_like_any_other(tmp_path: Path) -> None:
    open_inflight(tmp_path, "me", NOW).begin(uuid7(NOW, 1).hex, NOW, "/")
    async with open_spool(tmp_path, SETTINGS, {"records": LIMITS}, key="k") as spool:
        inflight = open_inflight(tmp_path, "me", NOW)
        assert await tell_lost(inflight, spool.streams["records"], lambda _make: 0, "d:1") == 1
        assert inflight.taken == 0
        inflight.close()


@pytest.mark.parametrize(("upstream", "told"), [("a:1", "a:1"), (None, "d:1")])
def test_the_end_of_a_lost_request_tells_what_is_known_of_it(upstream: str | None, told: str) -> None:
    lost = LostRequest(0, "id", NOW, NOW + NS, "/v1/completions", "acme", "m", upstream)
    (make,) = lost_events([lost], "d:1")
    assert make(17) == RequestEnded(
        sequence=17,
        record=RequestRecord(
            id="id",
            upstream=told,
            path="/v1/completions",
            started_at_ns=NOW,
            ended_at_ns=NOW + NS,
            outcome="lost_record",
            model="m",
            tenant="acme",
            error=LOST_ERROR,
        ),
    )
