"""GPU snapshots, engine snapshots and sidecar batches against a real ledger file; the bill is recomputed here."""

import random
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.cost.reports import ReportQuery
from agent.core.ports import TryLater
from agent.core.requests import RefusedEvent, RequestEvent, RequestProgressed, RequestRecord
from agent.ledger.ledger import Ledger
from agent.ledger.tables import requests, sidecars
from agent.runners.settlement import MAX_WAITING, Settlement
from tests.support.ledger import fresh, opened, rows
from tests.support.money import NS, HandClock, Sidecar, book, engine, expected_bill, gpus, record

ROOT = Path(__file__).resolve().parents[2]
T0 = 1_800_000_000 * NS + 123_456_789


class Bench:
    """A settlement on a hand-turned clock, and ways to end and start it again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = HandClock(T0)
        self.ended: list[RequestRecord] = []
        self.ledger: Ledger
        self.settlement: Settlement

    async def start(self) -> None:
        self.ledger = await Ledger.open(self.path, "node-a")
        self.settlement = Settlement(self.ledger, book(), "node-a", self.clock, on_ended=self.ended.append)

    async def restart(self) -> None:
        self.ledger.close()
        await self.start()

    async def run(self, seconds: int, each: Callable[[int], None]) -> None:
        for _ in range(seconds):
            each(self.clock.at_ns)
            await self.settlement.step()
            self.clock.at_ns += NS


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "ledger.sqlite")
    await bench.start()
    yield bench
    bench.ledger.close()


async def test_every_state_is_booked_and_the_sum_is_the_bill(bench: Bench) -> None:
    settlement, sidecar = bench.settlement, Sidecar()

    def see(at: int) -> None:
        settlement.observe_gpus(gpus(at, 2, pids=(7,)))
        settlement.observe_engine(engine(at))

    await bench.run(3, see)
    now = bench.clock.at_ns
    await settlement.accept(sidecar.batch(now, sidecar.start("r1", now), sidecar.start("r2", now + NS // 3)))
    await bench.run(2, see)
    end = bench.clock.at_ns
    await settlement.accept(
        sidecar.batch(end, sidecar.end(record("r1", now, end)), sidecar.end(record("r2", now, end)))
    )
    await bench.run(20, see)
    await settlement.drain()

    found = await bench.ledger.reconcile()
    assert found.reconciles
    assert found.bill_nano == 2 * expected_bill(T0, bench.clock.at_ns)
    assert sum(found.parts_nano.values()) == found.bill_nano
    assert set(found.parts_nano) == {"request", "loaded_idle", "other_workload"}
    assert found.slots[0].parts_ns["request"] == end - now
    one, two = await bench.ledger.request_cost("r1"), await bench.ledger.request_cost("r2")
    assert one is not None
    assert two is not None
    assert (one.settled, two.settled) == (True, True)
    assert one.gpu_ns + two.gpu_ns == end - now
    assert (one.cost_nano or 0) + (two.cost_nano or 0) == found.parts_nano["request"]
    assert [r.id for r in bench.ended] == ["r1", "r2"]


async def test_a_restart_books_the_time_in_between_as_a_gap(bench: Bench) -> None:
    def see(at: int) -> None:
        bench.settlement.observe_gpus(gpus(at))

    await bench.run(15, see)
    before = dict(bench.settlement.slot_ns)
    bench.clock.at_ns += 100 * NS
    await bench.restart()
    assert bench.settlement.slot_ns == before
    await bench.run(10, see)
    await bench.settlement.drain()
    found = await bench.ledger.reconcile()
    assert found.reconciles
    assert found.bill_nano == expected_bill(T0, bench.clock.at_ns)
    assert found.slots[0].parts_ns["gap"] > 90 * NS


async def test_repeats_are_harmless(bench: Bench) -> None:
    sidecar = Sidecar()
    batch = sidecar.batch(T0, sidecar.start("r1", T0), sidecar.end(record("r1", T0, T0 + NS)))
    first = await bench.settlement.accept(batch)
    again = await bench.settlement.accept(batch)
    assert (first.accepted_through, first.repeated) == (2, 0)
    assert (again.accepted_through, again.repeated) == (2, 2)
    assert len(bench.ended) == 1


async def test_a_full_disk_loses_nothing(bench: Bench) -> None:
    sidecar = Sidecar()

    def see(at: int) -> None:
        bench.settlement.observe_gpus(gpus(at, 8))

    await bench.run(10, see)
    with bench.ledger._writer.begin() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    events = [sidecar.end(record(f"r{i}", T0, T0 + NS)) for i in range(2000)]
    with pytest.raises(TryLater, match="full"):
        await bench.settlement.accept(sidecar.batch(bench.clock.at_ns, *events))
    assert bench.ended == []
    with bench.ledger._writer.begin() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    receipt = await bench.settlement.accept(sidecar.batch(bench.clock.at_ns, *events))
    assert (receipt.accepted_through, receipt.repeated) == (2000, 0)
    await bench.run(10, see)
    await bench.settlement.drain()
    found = await bench.ledger.reconcile()
    assert found.reconciles
    assert found.bill_nano == 8 * expected_bill(T0, bench.clock.at_ns)
    report = await bench.ledger.report(ReportQuery(start_ns=0, end_ns=T0 * 2))
    assert sum(row.requests for row in report.rows) == 2000


async def _lives(path: Path, seed: int, lives: int) -> None:
    """Start the process `lives` times; kill it at a random moment each time but the last, which ends by itself."""
    dice = random.Random(seed)
    for life in range(lives):
        command = [sys.executable, "-m", "tests.support.money_process", str(path), str(life)]
        async with await anyio.open_process(command, cwd=ROOT, stderr=None) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            lines = 0
            wanted = dice.randrange(1, 30)
            with anyio.fail_after(60):
                while lines < wanted:
                    lines += (await process.stdout.receive()).count(b"\n")
                if life == lives - 1:
                    await process.stdin.aclose()
                    assert await process.wait() == 0
                else:
                    # Anywhere in the next cycle: between a commit and its answer, in the middle of a transaction, ...
                    await anyio.sleep(dice.random() * 0.02)
                    process.kill()
                    await process.wait()


@pytest.mark.parametrize(
    ("seed", "lives"), [pytest.param(1, 6), *(pytest.param(seed, 25, marks=pytest.mark.long) for seed in range(2, 6))]
)
async def test_killed_at_any_moment_nothing_is_counted_twice(tmp_path: Path, seed: int, lives: int) -> None:
    path = tmp_path / "ledger.sqlite"
    await _lives(path, seed, lives)
    async with await Ledger.open(path, "node-a") as ledger:
        found = await ledger.reconcile()
        report = await ledger.report(ReportQuery(start_ns=0, end_ns=2**62, aggregate=("state",)))
    assert found.reconciles
    assert len(found.slots) == 2
    for slot in found.slots:
        assert sum(slot.parts_ns.values()) == slot.to_ns - slot.from_ns
        assert sum(slot.parts_nano.values()) == expected_bill(slot.from_ns, slot.to_ns)
        assert slot.parts_ns["gap"] > 0
    assert found.parts_nano["request"] > 0
    database = sqlite3.connect(path)
    try:
        settled, nano = database.execute("SELECT count(*), sum(nano) FROM settled_requests").fetchone()
        ended, open_nano = database.execute("SELECT count(ended_ns), coalesce(sum(nano), 0) FROM requests").fetchone()
    finally:
        database.close()
    assert ended == 0, "what has ended is settled"
    assert settled == sum(row.requests for row in report.rows)
    assert nano + open_nano == found.parts_nano["request"]


async def test_a_step_that_cannot_be_written_is_kept_and_written_later(bench: Bench) -> None:
    sidecar = Sidecar()

    def see(at: int) -> None:
        bench.settlement.observe_gpus(gpus(at, 8))
        bench.settlement.observe_engine(engine(at))

    await bench.run(10, see)
    driver = bench.ledger._writer.raw_connection().driver_connection
    assert driver is not None
    driver.execute("PRAGMA query_only=ON")  # as on a file system that was remounted read-only
    refused = 0
    for _ in range(130):
        try:
            await bench.run(1, see)
        except TryLater:
            refused += 1
            bench.clock.at_ns += NS
    assert refused > 100
    with pytest.raises(TryLater, match="cannot be written"):
        await bench.settlement.accept(sidecar.batch(bench.clock.at_ns, sidecar.start("r", bench.clock.at_ns)))
    driver.execute("PRAGMA query_only=OFF")
    await bench.run(10, see)
    await bench.settlement.drain()
    found = await bench.ledger.reconcile()
    assert found.reconciles
    assert found.bill_nano == 8 * expected_bill(T0, bench.clock.at_ns)
    assert "gap" not in found.parts_nano


async def test_bypass_traffic_is_booked_as_unattributed(bench: Bench) -> None:
    counted = 0

    def see(at: int) -> None:
        nonlocal counted
        busy = 10 <= (at - T0) // NS < 20
        counted += 100 if busy else 0
        bench.settlement.observe_gpus(gpus(at))
        bench.settlement.observe_engine(engine(at, output=float(counted), running=1.0 if busy else 0.0))

    await bench.run(60, see)
    await bench.settlement.drain()
    found = await bench.ledger.reconcile()
    assert found.reconciles
    assert abs(found.slots[0].parts_ns["unattributed"] - 10 * NS) <= 2 * NS


async def test_requests_that_came_before_their_engine_find_it(bench: Bench) -> None:
    sidecar, settlement = Sidecar(), bench.settlement
    settlement.observe_gpus(gpus(T0))
    await settlement.accept(
        sidecar.batch(T0, sidecar.end(record("r", T0 + NS, T0 + 2 * NS, upstream="localhost:8000")))
    )
    settlement.observe_engine(engine(T0))
    bench.clock.at_ns += 3 * NS
    await settlement.drain()
    cost = await bench.ledger.request_cost("r")
    assert cost is not None
    assert (cost.engine, cost.gpu_ns) == ("vllm", NS)


async def test_prices_in_force(bench: Bench) -> None:
    assert bench.settlement.prices_in_force() == ()
    bench.settlement.observe_gpus(gpus(T0, 4))
    (price,) = bench.settlement.prices_in_force()
    assert (price.gpu_model, price.currency) == ("NVIDIA H100 80GB HBM3", "CNY")
    assert price.nano_per_hour == sum(part.nano_per_hour for part in price.parts)


async def test_the_open_requests_of_a_silent_sidecar_are_lost_and_a_late_end_still_counts(bench: Bench) -> None:
    sidecar = Sidecar()

    def see(at: int) -> None:
        bench.settlement.observe_gpus(gpus(at, 2, pids=(7,)))
        bench.settlement.observe_engine(engine(at))

    await bench.run(3, see)
    heard = bench.clock.at_ns
    await bench.settlement.accept(sidecar.batch(heard, sidecar.start("r1", heard)))
    await bench.run(50, see)
    assert bench.settlement.open_requests == 1
    assert list(bench.settlement.in_flight().values()) == [1]
    await bench.run(30, see)
    assert bench.settlement.open_requests == 0
    assert bench.settlement.in_flight() == {}
    late = bench.clock.at_ns
    await bench.settlement.accept(sidecar.batch(late, sidecar.end(record("r1", heard, heard + NS))))
    await bench.run(10, see)
    await bench.settlement.drain()
    cost = await bench.ledger.request_cost("r1")
    assert cost is not None
    assert (cost.outcome, cost.settled) == ("ok", True)
    found = await bench.ledger.reconcile()
    assert found.reconciles
    assert found.bill_nano == 2 * expected_bill(T0, bench.clock.at_ns)
    assert found.slots[0].parts_ns["loaded_idle"] > 20 * NS
    assert [r.id for r in bench.ended] == ["r1"]


@pytest.mark.parametrize("started", [True, False], ids=["start told", "start unknown"])
@pytest.mark.parametrize("first_word", ["lost ends", "new requests", "nothing for minutes"])
async def test_what_a_killed_sidecar_left_is_settled_once_with_the_end_that_its_next_start_tells(
    bench: Bench, started: bool, first_word: str
) -> None:
    """The next start has another epoch; what was given up before it spoke is put right, and nothing counts twice."""
    old, new = Sidecar(epoch=1), Sidecar(epoch=2)

    def see(at: int) -> None:
        bench.settlement.observe_gpus(gpus(at, 1, pids=(7,)))
        bench.settlement.observe_engine(engine(at))

    await bench.run(3, see)
    begun = bench.clock.at_ns
    if started:
        await bench.settlement.accept(old.batch(begun, old.start("r1", begun)))
    await bench.run(2, see)
    await bench.settlement.accept(old.batch(bench.clock.at_ns))  # a sign of life; then it is killed
    await bench.run(100 if first_word == "nothing for minutes" else 1, see)
    now = bench.clock.at_ns
    if first_word == "new requests":
        await bench.settlement.accept(new.batch(now, new.start("r2", now), new.end(record("r2", now, now))))
    lost = record("r1", begun, begun + 2 * NS, outcome="lost_record", tokens=None)
    told = new.batch(now, new.end(lost))
    receipts = [await bench.settlement.accept(told) for _ in range(2)]
    assert [(receipt.repeated, receipt.refused) for receipt in receipts] == [(0, ()), (1, ())]
    await bench.run(10, see)
    await bench.restart()
    assert (await bench.settlement.accept(told)).repeated == 1
    await bench.settlement.drain()
    cost = await bench.ledger.request_cost("r1")
    assert cost is not None
    assert (cost.outcome, cost.settled) == ("lost_record", True)
    assert cost.ended_at_ns is not None
    assert cost.ended_at_ns // 1000 == (begun + 2 * NS) // 1000, "settled requests are kept to the microsecond"
    assert [r.id for r in bench.ended] == (["r2", "r1"] if first_word == "new requests" else ["r1"])
    if first_word != "nothing for minutes":
        assert cost.gpu_ns == 2 * NS
    elif started:  # it took its share until its sidecar counted as gone, and that is settled
        assert 2 * NS < cost.gpu_ns <= 62 * NS
    else:  # that time is settled without it
        assert cost.gpu_ns == 0
    found = await bench.ledger.reconcile()
    assert found.reconciles
    assert found.bill_nano == expected_bill(T0, bench.clock.at_ns)


async def test_an_end_that_came_is_not_taken_back_by_a_lost_one(bench: Bench) -> None:
    """After a power cut the file of requests in flight may be older than the spool."""
    old, new = Sidecar(epoch=1), Sidecar(epoch=2)
    now = bench.clock.at_ns
    await bench.settlement.accept(old.batch(now, old.start("r1", now), old.end(record("r1", now, now + NS))))
    lost = record("r1", now, now + 9 * NS, outcome="lost_record")
    assert (await bench.settlement.accept(new.batch(now, new.end(lost)))).repeated == 1
    assert [r.outcome for r in bench.ended] == ["ok"]
    (row,) = rows(bench.ledger, requests)
    assert (row["outcome"], row["ended_ns"]) == ("ok", now + NS)


async def test_a_sidecar_that_is_heard_keeps_its_requests_also_over_a_restart(bench: Bench) -> None:
    sidecar = Sidecar()

    def see(at: int) -> None:
        bench.settlement.observe_gpus(gpus(at, 2, pids=(7,)))
        bench.settlement.observe_engine(engine(at))

    await bench.run(3, see)
    await bench.settlement.accept(sidecar.batch(bench.clock.at_ns, sidecar.start("r1", bench.clock.at_ns)))
    for _ in range(4):
        await bench.run(30, see)
        await bench.settlement.accept(sidecar.batch(bench.clock.at_ns))  # a heartbeat
    assert bench.settlement.open_requests == 1
    bench.clock.at_ns += 300 * NS  # the agent is away
    await bench.restart()
    await bench.run(50, see)
    assert bench.settlement.open_requests == 1, "silence counts from the restart on"
    await bench.run(30, see)
    assert bench.settlement.open_requests == 0


async def test_a_sender_that_went_away_is_counted_like_any_other(bench: Bench) -> None:
    """The door ends a request after its time; what the ledger has stored by then must be on the bill."""
    sidecar, settlement = Sidecar(), bench.settlement
    settlement.observe_gpus(gpus(T0))
    settlement.observe_engine(engine(T0))
    batch = sidecar.batch(T0, sidecar.start("r1", T0), sidecar.end(record("r2", T0, T0)))
    async with anyio.create_task_group() as group:
        group.start_soon(settlement.accept, batch)
        await anyio.lowlevel.checkpoint()  # it is under way
        group.cancel_scope.cancel()
    assert (settlement.open_requests, settlement.senders.accepted["start"]) == (1, 1)
    assert [r.id for r in bench.ended] == ["r2"]
    assert (await settlement.accept(batch)).repeated == 2


async def test_of_many_batches_at_once_some_are_told_to_come_later(bench: Bench) -> None:
    settlement = bench.settlement
    sidecars = [Sidecar(f"s{n}") for n in range(MAX_WAITING + 10)]
    later: list[float | None] = []
    stored: list[str] = []

    async def send(sidecar: Sidecar) -> None:
        try:
            await settlement.accept(sidecar.batch(T0, sidecar.end(record(sidecar.name, T0, T0))))
            stored.append(sidecar.name)
        except TryLater as error:
            later.append(error.after_seconds)

    driver = bench.ledger._writer.raw_connection().driver_connection
    assert driver is not None
    other = sqlite3.connect(bench.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # the ledger is slow: its next write waits
    try:
        async with anyio.create_task_group() as group:
            for sidecar in sidecars:
                group.start_soon(send, sidecar)
            with anyio.fail_after(5):
                while len(later) < 9:
                    await anyio.lowlevel.checkpoint()
            other.execute("ROLLBACK")
    finally:
        other.close()
    assert (len(stored), later) == (MAX_WAITING + 1, [1.0] * 9)
    assert stored == [s.name for s in sidecars[: MAX_WAITING + 1]], "first come, first served"
    for sidecar in sidecars[MAX_WAITING + 1 :]:
        await send(Sidecar(sidecar.name))
    assert len(stored) == len(sidecars)


async def test_every_event_is_counted_as_one_thing(bench: Bench) -> None:
    settlement = bench.settlement
    one, two = Sidecar("one"), Sidecar("two")
    told = (one.start("a", T0), one.end(record("b", T0, T0)), one.end(record("b", T0, T0)))
    await settlement.accept(one.batch(T0, *told), "token::x")
    await settlement.accept(one.batch(T0, *told), "token::x")
    refused = (RefusedEvent(index=1, kind="value", reason="no", sequence=2),)
    receipt = await settlement.accept(two.batch(T0, two.end(record("a", T0, T0))), "token::y", refused)
    assert [event.kind for event in receipt.refused] == ["sender", "value"]
    two._sequence = 9
    await settlement.accept(two.batch(T0, two.end(record("c", T0, T0))), "token::y")
    assert settlement.senders.accepted == {"start": 1, "progress": 0, "end": 2}
    assert settlement.senders.repeated == 4
    assert settlement.senders.refused == {"unreadable": 0, "value": 1, "tenant": 0, "sender": 1}
    assert settlement.senders.missing == 7
    await bench.restart()
    again = bench.settlement
    assert (again.senders.accepted["end"], again.senders.missing) == (2, 7), "the ledger knows"
    assert (again.senders.repeated, sum(again.senders.refused.values())) == (0, 0), "since this process started"


async def test_requests_go_on_when_the_doors_get_locks(bench: Bench) -> None:
    """From then on the same sidecar is heard under another name, and still watches over what it told before."""
    sidecar = Sidecar()

    def see(at: int) -> None:
        bench.settlement.observe_gpus(gpus(at, 1, pids=(7,)))
        bench.settlement.observe_engine(engine(at))

    await bench.run(3, see)
    begun = bench.clock.at_ns
    await bench.settlement.accept(sidecar.batch(begun, sidecar.start("r1", begun)))
    await bench.restart()
    for _ in range(4):
        await bench.run(30, see)
        await bench.settlement.accept(sidecar.batch(bench.clock.at_ns), "token::gateway")
    assert bench.settlement.open_requests == 1
    end = bench.clock.at_ns
    await bench.settlement.accept(sidecar.batch(end, sidecar.end(record("r1", begun, end))), "token::gateway")
    bench.clock.at_ns += NS
    await bench.settlement.drain()
    cost = await bench.ledger.request_cost("r1")
    assert cost is not None
    assert (cost.outcome, cost.settled) == ("ok", True)
    assert cost.gpu_ns > 110 * NS
    assert (await bench.ledger.reconcile()).reconciles


async def test_nobody_keeps_another_senders_requests_alive(bench: Bench) -> None:
    sidecar = Sidecar()
    bench.settlement.observe_gpus(gpus(T0))
    await bench.settlement.accept(sidecar.batch(T0, sidecar.start("r1", T0)), "token::a")
    for _ in range(3):
        bench.clock.at_ns += 30 * NS
        await bench.settlement.accept(sidecar.batch(bench.clock.at_ns), "token::b")
        await bench.settlement.step()
    assert bench.settlement.open_requests == 0


async def test_a_sidecar_whose_clock_was_set_back_before_it_started_keeps_its_requests(bench: Bench) -> None:
    """Its epoch is smaller than that of the start before, which is heard no more."""
    before, now = Sidecar(epoch=9), Sidecar(epoch=5)
    bench.settlement.observe_gpus(gpus(T0))
    await bench.settlement.accept(before.batch(T0, before.end(record("old", T0, T0))))
    for number in range(3):
        await bench.settlement.accept(now.batch(T0, now.start(f"r{number}", T0)))
    assert bench.settlement.open_requests == 3


async def test_what_a_failed_write_should_have_ended_is_ended_by_the_next(bench: Bench) -> None:
    old, new = Sidecar(epoch=1), Sidecar(epoch=2)
    await bench.settlement.accept(old.batch(T0, old.start("r", T0)))
    driver = bench.ledger._writer.raw_connection().driver_connection
    assert driver is not None
    driver.execute("PRAGMA query_only=ON")
    with pytest.raises(TryLater):
        await bench.settlement.accept(new.batch(T0))
    driver.execute("PRAGMA query_only=OFF")
    await bench.settlement.accept(new.batch(T0))
    assert bench.settlement.open_requests == 0


class Delivery(NamedTuple):
    """Events `low` to `high` of one start arrive; after it the agent may be killed before its answer is heard."""

    epoch: int
    low: int
    high: int
    dies: bool


@st.composite
def histories(draw: st.DrawFn, *, shuffled: bool) -> tuple[dict[int, list[RequestEvent]], list[Delivery]]:
    """What up to three starts of a sidecar told, some of it lost on its side, and how it came to the agent.

    Each start's events come in slices that overlap and repeat, those of the starts interleaved in any way. With
    `shuffled`, slices of one start come in any order, too.
    """
    starts: dict[int, list[RequestEvent]] = {}
    pending: dict[int, list[Delivery]] = {}
    for epoch in range(1, draw(st.integers(1, 3)) + 1):
        sidecar, events = Sidecar(epoch=epoch), []
        told = dict.fromkeys("abcd", 0)
        for name in draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=12)):
            at, key = T0 + (epoch * 100 + len(events)) * NS, f"{epoch}{name}"
            kind = draw(st.sampled_from({0: ("start", "end"), 1: ("progress", "end"), 2: ("nothing",)}[told[name]]))
            match kind:
                case "start":
                    events.append(sidecar.start(key, T0 + epoch * 100 * NS))
                    told[name] = 1
                case "progress":
                    tokens = draw(st.integers(0, 50))
                    events.append(RequestProgressed(sequence=sidecar.next(), id=key, at_ns=at, output_tokens=tokens))
                case "end":
                    events.append(sidecar.end(record(key, T0 + epoch * 100 * NS, at)))
                    told[name] = 2
            if draw(st.integers(0, 9)) == 0:
                sidecar.next()  # an event that was lost on its side
        starts[epoch] = events
        cuts = sorted({*draw(st.sets(st.integers(1, len(events)), max_size=3)), len(events)}) if events else []
        slices = [
            Delivery(epoch, draw(st.integers(0, low)), high, draw(st.booleans()))
            for low, high in zip([0, *cuts], cuts, strict=False)
        ]
        if shuffled:
            slices = (
                draw(st.permutations(slices + draw(st.lists(st.sampled_from(slices), max_size=2)))) if slices else []
            )
        pending[epoch] = slices
    order: list[Delivery] = []
    while any(pending.values()):
        epoch = draw(st.sampled_from([epoch for epoch, left in pending.items() if left]))
        order.append(pending[epoch].pop(0))
    return starts, order


async def _ledger_after(path: Path, starts: dict[int, list[RequestEvent]], order: list[Delivery]) -> Any:
    """What is in the ledger, and which requests were told to have ended, how often."""
    told: list[str] = []
    ledger = await fresh(path)
    settlement = Settlement(ledger, None, "node-a", HandClock(T0 + 1000 * NS), on_ended=lambda r: told.append(r.id))
    for delivery in order:
        events = starts[delivery.epoch][delivery.low : delivery.high]
        batch = Sidecar(epoch=delivery.epoch).batch(T0 + 1000 * NS, *events)
        await settlement.accept(batch)
        if delivery.dies:
            ledger.close()
            ledger = await opened(ledger.path)
            settlement = Settlement(
                ledger, None, "node-a", HandClock(T0 + 1000 * NS), on_ended=lambda r: told.append(r.id)
            )
            await settlement.accept(batch)  # its sender did not hear the answer
    await settlement.accept(Sidecar(epoch=max(starts)).batch(T0 + 1000 * NS))  # it lives, its earlier starts do not
    found = (rows(ledger, requests), rows(ledger, sidecars), sorted(told), settlement.senders.missing)
    ends = {live.id: live.ended_ns for live in settlement._tariff.live.values()}
    assert ends == {row["id"]: row["ended_ns"] for row in found[0]}, "memory and file say the same"
    ledger.close()
    return found


@pytest.mark.parametrize("shuffled", [False, True])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_however_it_is_delivered_the_ledger_is_that_of_one_clean_delivery(
    tmp_path: Path, data: st.DataObject, shuffled: bool
) -> None:
    starts, order = data.draw(histories(shuffled=shuffled))
    clean = [Delivery(epoch, 0, len(events), False) for epoch, events in starts.items() if events]
    expected = await _ledger_after(tmp_path / "clean", starts, clean)
    found = await _ledger_after(tmp_path / "node", starts, order)
    if shuffled:
        # How far a request was is of use while it runs: what comes after its end, or before its start, is not kept.
        for row in (*expected[0], *found[0]):
            del row["progress_ns"], row["progress_tokens"]
    assert found == expected
    assert len(set(found[2])) == len(found[2]), "no request ends twice"
