"""A node whose GPUs are cut, shared and held, against a real ledger file: reports by slot, restarts, old ledgers."""

from collections.abc import Iterable
from pathlib import Path

from agent.core.cost.reports import Dimension, ReportQuery
from agent.core.gpu_readings import GpuSnapshot
from agent.ledger.ledger import Ledger
from agent.ledger.schema import connect, upgrade
from agent.runners.settlement import Settlement
from tests.support.money import NS, HandClock, Sidecar, book, engine, expected_bill, record
from tests.support.slots import cut, device, gpu, held, known, pod, process, snapshot, user

T0 = 1_800_000_000 * NS
A, B, C = pod("a"), pod("b"), pod("c")
WHO = known(
    0,
    held("MIG-a", A),
    held("MIG-b", B),
    held("GPU-1", A, "0"),
    held("GPU-1", B, "1"),
    held("GPU-2", C),
    user("MIG-a", 7, A),
    user("GPU-1", 8, A),
    replicas={"GPU-1": 4},
    allocatable=("MIG-a", "MIG-b", "GPU-1", "GPU-2"),
)


def node(at: int) -> GpuSnapshot:
    """An engine on a MIG device, a notebook on one of four shares, a GPU that is held for nothing."""
    return snapshot(
        at,
        cut(at, device("MIG-a", 3, (7,)), device("MIG-b", 2)),
        gpu(at, "GPU-1", 1, processes=(process(8),)),
        gpu(at, "GPU-2", 2),
    )


async def seconds_by(ledger: Ledger, *aggregate: Dimension) -> dict[tuple[str, ...], float]:
    found = await ledger.report(ReportQuery(start_ns=0, end_ns=2**62, aggregate=aggregate))
    return {tuple(row.group[name] for name in aggregate): round(row.gpu_ns / NS, 6) for row in found.rows}


async def live(settlement: Settlement, clock: HandClock, seconds: Iterable[int]) -> None:
    for second in seconds:
        settlement.observe_gpus(node(clock.at_ns))
        settlement.observe_engine(engine(clock.at_ns, owns=(), pids=(7,)))
        if second % 5 == 0:
            settlement.observe_workloads(WHO)
        await settlement.step()
        clock.at_ns += NS


async def test_the_bill_of_slots_over_a_restart(tmp_path: Path) -> None:
    clock, sidecar = HandClock(T0), Sidecar()
    async with await Ledger.open(tmp_path / "ledger", "node-a") as ledger:
        settlement = Settlement(ledger, book(), "node-a", clock)
        await live(settlement, clock, range(14))
        ended = sidecar.end(record("r", clock.at_ns - 2 * NS, clock.at_ns))
        await settlement.accept(sidecar.batch(clock.at_ns, ended))
        await settlement.drain()
    async with await Ledger.open(tmp_path / "ledger", "node-a") as ledger:
        settlement = Settlement(ledger, book(), "node-a", clock)
        await live(settlement, clock, range(14))
        await settlement.drain()
        proof = await ledger.reconcile()
        assert proof.reconciles
        assert {slot.bill_nano for slot in proof.slots} == {expected_bill(T0, T0 + 28 * NS)}
        found = await seconds_by(ledger, "gpu", "slot", "state", "reason")
        assert found == {
            ("GPU-0", "MIG-a", "request", "process"): round(2 * 3 / 7, 6),
            ("GPU-0", "MIG-a", "loaded_idle", "process"): round(26 * 3 / 7, 6),
            ("GPU-0", "MIG-b", "allocated_idle", "held_no_process"): 8,
            ("GPU-0", "GPU-0", "unallocated", "mig_unpartitioned"): 8,
            ("GPU-1", "GPU-1::0", "other_workload", "process"): 7,
            ("GPU-1", "GPU-1::1", "allocated_idle", "held_no_process"): 7,
            ("GPU-1", "GPU-1::2", "unallocated", "free"): 7,
            ("GPU-1", "GPU-1::3", "unallocated", "free"): 7,
            ("GPU-2", "GPU-2", "allocated_idle", "held_no_process"): 28,
        }
        assert await seconds_by(ledger, "gpu") == {("GPU-0",): 28, ("GPU-1",): 28, ("GPU-2",): 28}
        cost = await ledger.request_cost("r")
        assert cost is not None
        assert abs(cost.gpu_ns - 2 * NS * 3 // 7) <= 10
        # The counters of /metrics are of whole GPUs, and go on where the ledger ended.
        booked = dict.fromkeys(("GPU-0", "GPU-1", "GPU-2"), 0)
        for (uuid, _), ns in settlement.slot_ns.items():
            booked[uuid] += ns
        assert set(booked.values()) == {28 * NS}


async def test_the_slots_now(tmp_path: Path) -> None:
    clock = HandClock(T0)
    async with await Ledger.open(tmp_path / "ledger", "node-a") as ledger:
        settlement = Settlement(ledger, None, "node-a", clock)
        assert settlement.present_slots() == ()
        await live(settlement, clock, range(2))
        found = {slot.slot: (slot.state, slot.holders) for slot in settlement.present_slots()}
        assert found["MIG-a"] == ("loaded_idle", (A,))
        assert found["GPU-1::1"] == ("allocated_idle", (B,))
        assert found["GPU-0"] == ("unallocated", ())
        clock.at_ns += 10 * NS
        assert {slot.state for slot in settlement.present_slots()} == {"gap"}


async def test_without_holders_nothing_is_held(tmp_path: Path) -> None:
    clock = HandClock(T0)
    async with await Ledger.open(tmp_path / "ledger", "node-a") as ledger:
        settlement = Settlement(ledger, None, "node-a", clock)
        for _ in range(3):
            settlement.observe_gpus(node(clock.at_ns))
            settlement.observe_workloads(known(0, held("GPU-2", C), replicas={"GPU-1": 4}, holders_known=False))
            clock.at_ns += NS
        await settlement.drain()
        assert await seconds_by(ledger, "slot", "state") == {
            ("MIG-a", "other_workload"): round(9 / 7, 6),
            ("MIG-b", "unallocated"): round(6 / 7, 6),
            ("GPU-0", "unallocated"): round(6 / 7, 6),
            ("GPU-1", "other_workload"): 3,
            ("GPU-2", "unallocated"): 3,
        }


async def test_a_ledger_of_before_there_were_slots_goes_on(tmp_path: Path) -> None:
    path, minute = tmp_path / "ledger", 60 * NS
    old = connect(path)
    upgrade(old, "0002")
    bill = expected_bill(T0, T0 + minute)
    with old.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO node_state VALUES (1, 'node-a', 'b', {T0}, 0, 3, {T0 + minute})")
        connection.exec_driver_sql(
            f"INSERT INTO accounts VALUES ('GPU-2', {T0}, 'NVIDIA H100 80GB HBM3', 'CNY', {T0 + minute}, 1)"
        )
        price = book().segments("NVIDIA H100 80GB HBM3", T0)[0][1]
        connection.exec_driver_sql(
            f"INSERT INTO price_segments VALUES ('GPU-2', {T0}, {T0}, '{price.numerator}', '{price.denominator}')"
        )
        connection.exec_driver_sql(
            f"INSERT INTO entries VALUES (1, {T0}, 'GPU-2', {T0}, 'unallocated', '', '', '', '',"
            f" {minute}, {bill}, 0, 0, 0)"
        )
    old.dispose()
    clock = HandClock(T0 + minute)
    async with await Ledger.open(path, "node-a") as ledger:
        settlement = Settlement(ledger, book(), "node-a", clock)
        await live(settlement, clock, range(6))
        await settlement.drain()
        proof = await ledger.reconcile()
        assert proof.reconciles
        (slot,) = [slot for slot in proof.slots if slot.gpu == "GPU-2"]
        assert (slot.from_ns, slot.wall_ns, slot.bill_nano) == (T0, 66 * NS, expected_bill(T0, T0 + 66 * NS))
        found = await seconds_by(ledger, "slot", "state", "reason")
        assert found["GPU-2", "unallocated", ""] == 60
        assert found["GPU-2", "allocated_idle", "held_no_process"] == 6
