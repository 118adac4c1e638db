"""GPU snapshots, engine snapshots and sidecar batches against a real ledger file; the bill is recomputed here."""

import random
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest

from agent.core.cost.reports import ReportQuery
from agent.core.ports import TryLater
from agent.core.requests import RequestRecord
from agent.ledger.ledger import Ledger
from agent.runners.settlement import Settlement
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
        ended, settled, nano = database.execute(
            "SELECT count(*), sum(settled), sum(nano) FROM requests WHERE ended_ns IS NOT NULL"
        ).fetchone()
        open_nano = database.execute("SELECT coalesce(sum(nano), 0) FROM requests WHERE ended_ns IS NULL").fetchone()[0]
    finally:
        database.close()
    assert ended == settled == sum(row.requests for row in report.rows)
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
    await bench.run(30, see)
    assert bench.settlement.open_requests == 0
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
