"""An engine over two nodes, each with its own settlement and ledger file; beside it a training job."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from agent.core.cost.reports import Dimension, ReportQuery
from agent.core.engine_join import EngineJoin
from agent.core.readings import EngineStatus
from agent.core.workloads import Workload
from agent.ledger.ledger import Ledger
from agent.ledger.schema import connect, upgrade
from agent.runners.settlement import Settlement
from tests.support.engine_groups import GROUP, scraped, status, worker
from tests.support.money import NS, HandClock, Sidecar, book, engine, expected_bill, record
from tests.support.slots import GIB, cut, device, gpu, held, known, process, snapshot, user

T0 = 1_800_000_000 * NS
URL, UPSTREAM = "http://10.0.0.1:8000", "10.0.0.1:8000"


def place(pod: str) -> Workload:
    return Workload(namespace="ml", pod=pod, container="main", pod_uid=f"uid-{pod}", container_id=f"id-{pod}")


LEADER, STAGE, TRAINING = place("chat-0"), place("chat-1"), place("train-0")


@dataclass
class Node:
    """GPU-0 and GPU-1 are the engine's (pids 7 and 8), GPU-2 has a training job (9) on it."""

    settlement: Settlement
    ledger: Ledger
    clock: HandClock
    place: Workload
    join: EngineJoin = field(default_factory=EngineJoin)

    async def live(self, seconds: Iterable[int], *statuses: EngineStatus, load: float = 0.0) -> None:
        for second in seconds:
            now = self.clock.at_ns
            ours = [gpu(now, f"GPU-{n}", n, processes=(process(7 + n),), utilization_ratio=load) for n in range(2)]
            training = gpu(now, "GPU-2", 2, processes=(process(9),), utilization_ratio=1.0)
            self.settlement.observe_gpus(snapshot(now, *ours, training))
            for found in statuses:
                own, *others = self.join.on_engine(scraped(found))
                self.settlement.observe_engine(own)
                for other in others:
                    self.settlement.observe_status(other.status)
            if second % 5 == 0:
                who = [user("GPU-0", 7, self.place), user("GPU-1", 8, self.place), user("GPU-2", 9, TRAINING)]
                attribution = known(now, *who, holders_known=False)
                for changed in self.join.on_attribution(attribution):
                    self.settlement.observe_status(changed.status)
                self.settlement.observe_workloads(attribution)
            await self.settlement.step()
            self.clock.at_ns += NS

    async def seconds_by(self, *aggregate: Dimension) -> dict[tuple[str, ...], float]:
        found = await self.ledger.report(ReportQuery(start_ns=0, end_ns=2**62, aggregate=aggregate))
        return {tuple(row.group[name] for name in aggregate): round(row.gpu_ns / NS, 6) for row in found.rows}

    async def proven(self) -> None:
        proof = await self.ledger.reconcile()
        assert proof.reconciles
        assert {slot.bill_nano for slot in proof.slots} == {expected_bill(T0, self.clock.at_ns)}


@asynccontextmanager
async def node(path: Path, where: Workload, clock: HandClock | None = None) -> AsyncIterator[Node]:
    clock = clock or HandClock(T0)
    async with await Ledger.open(path, path.name) as ledger:
        yield Node(Settlement(ledger, book(), path.name, clock), ledger, clock, where)


def server(*pids: int, **fields: Any) -> EngineStatus:
    return status("chat", *pids, url=URL, group=GROUP, workload=LEADER, **fields)


async def test_both_nodes_slots_are_booked_to_the_group_and_the_training_job_is_not(tmp_path: Path) -> None:
    sidecar = Sidecar()
    async with node(tmp_path / "leader", LEADER) as leader:
        # The server's own tree is on one GPU; the other worker was started by Ray, in the same container.
        await leader.live(range(20), server(6, 7))
        ended = record("r", leader.clock.at_ns - 4 * NS, leader.clock.at_ns, upstream=UPSTREAM)
        await leader.settlement.accept(sidecar.batch(leader.clock.at_ns, sidecar.end(ended)))
        await leader.settlement.drain()
        assert await leader.seconds_by("group", "state") == {
            (GROUP, "request"): 8,
            (GROUP, "loaded_idle"): 32,
            ("", "other_workload"): 20,
        }
        await leader.proven()
    async with node(tmp_path / "follower", STAGE) as follower:
        headless = worker(7, workload=STAGE)
        await follower.live(range(5), headless, load=0.6)
        await follower.live(range(5, 20), headless)
        await follower.settlement.drain()
        assert await follower.seconds_by("group", "state", "reason") == {
            (GROUP, "unattributed", "group_worker"): 2 * 14,  # five seconds of work, ten after the last sign of it
            (GROUP, "loaded_idle", "group_idle"): 2 * 6,
            ("", "other_workload", "process"): 20,
        }
        await follower.proven()
        (one,) = {slot.groups for slot in follower.settlement.present_slots() if slot.slot != "GPU-2"}
        assert one == (GROUP,)


async def test_a_leader_that_restarts_and_its_worker_on_the_same_node(tmp_path: Path) -> None:
    async with node(tmp_path / "leader", LEADER) as there:
        ray = worker(8, workload=LEADER)
        await there.live(range(10), server(6, 7), ray)
        await there.live(range(10, 20), server(state="down"), ray)  # its process is gone, Ray's goes on
        await there.live(range(20, 30), server(16, 7, state="starting"), ray)
        await there.live(range(30, 40), server(16, 7), ray)
        await there.settlement.drain()
        assert await there.seconds_by("slot", "engine", "state") == {
            ("GPU-0", "chat", "loaded_idle"): 20,
            ("GPU-0", "", "other_workload"): 10,
            ("GPU-0", "chat", "warmup"): 10,
            ("GPU-1", "chat", "loaded_idle"): 20,
            ("GPU-1", f"vllm {GROUP}", "loaded_idle"): 10,
            ("GPU-1", "chat", "warmup"): 10,
            ("GPU-2", "", "other_workload"): 40,
        }
        assert await there.seconds_by("slot", "group") == {
            ("GPU-0", GROUP): 30,
            ("GPU-0", ""): 10,
            ("GPU-1", GROUP): 40,
            ("GPU-2", ""): 40,
        }
        await there.proven()


async def test_a_worker_without_a_group_is_named_after_its_pod_and_one_that_is_gone_is_let_go(tmp_path: Path) -> None:
    async with node(tmp_path / "follower", STAGE) as there:
        await there.live(range(10), worker(7, group="", name="vllm ml/chat-1", workload=STAGE))
        there.join.forget("vllm ml/chat-1")
        there.settlement.forget_engine("vllm ml/chat-1")
        await there.live(range(10, 20))
        await there.settlement.drain()
        assert await there.seconds_by("engine", "group", "state") == {
            ("vllm ml/chat-1", "ml/chat-1", "loaded_idle"): 20,
            ("", "", "other_workload"): 40,
        }
        await there.proven()


async def test_requests_in_flight_keep_their_group_over_a_restart_of_the_agent(tmp_path: Path) -> None:
    clock, sidecar = HandClock(T0), Sidecar()
    async with node(tmp_path / "leader", LEADER, clock) as there:
        await there.live(range(10), server(6, 7))
        started = sidecar.start("r", clock.at_ns, upstream=UPSTREAM)
        await there.settlement.accept(sidecar.batch(clock.at_ns, started))
        await there.live(range(10, 20), server(6, 7))
        await there.settlement.drain()
        assert (await there.seconds_by("group", "outcome"))[GROUP, "in_flight"] == 20
    async with node(tmp_path / "leader", LEADER, clock) as there:
        await there.live(range(10), server(6, 7))
        ended = record("r", T0 + 10 * NS, clock.at_ns, upstream=UPSTREAM)
        await there.settlement.accept(sidecar.batch(clock.at_ns, sidecar.end(ended)))
        await there.settlement.drain()
        assert (await there.seconds_by("group", "state"))[GROUP, "request"] == 40
        cost = await there.ledger.request_cost("r")
        assert cost is not None
        assert cost.gpu_ns == 40 * NS
        await there.proven()


async def test_two_roles_of_a_service_own_a_gpu_each(tmp_path: Path) -> None:
    """Prefill and decode engines of one service answer for themselves."""
    async with node(tmp_path / "both", LEADER) as there:
        prefill = status("prefill", 7, url="http://10.0.0.1:1", role="prefill", service="chat", workload=LEADER)
        decode = status("decode", 8, url="http://10.0.0.1:2", role="decode", service="chat", workload=LEADER)
        await there.live(range(10), prefill, decode)
        await there.settlement.drain()
        assert await there.seconds_by("slot", "engine", "group") == {
            ("GPU-0", "prefill", ""): 10,
            ("GPU-1", "decode", ""): 10,
            ("GPU-2", "", ""): 10,
        }
        await there.proven()


async def test_an_engine_on_a_mig_device_whose_processes_are_hidden(tmp_path: Path) -> None:
    clock = HandClock(T0)
    async with await Ledger.open(tmp_path / "ledger", "node") as ledger:
        settlement = Settlement(ledger, book(), "node", clock)
        for _ in range(7):
            devices = [device(f"MIG-{n}", slices, None, memory_used_bytes=9 * GIB) for n, slices in enumerate((3, 2))]
            settlement.observe_gpus(snapshot(clock.at_ns, cut(clock.at_ns, *devices)))
            settlement.observe_workloads(known(clock.at_ns, held("MIG-0", LEADER), held("MIG-1", TRAINING)))
            settlement.observe_engine(scraped(status("chat", 70, workload=LEADER)))
            clock.at_ns += NS
        await settlement.drain()
        found = await ledger.report(ReportQuery(start_ns=0, end_ns=2**62, aggregate=("slot", "state", "reason")))
        assert {tuple(row.group.values()): round(row.gpu_ns / NS, 6) for row in found.rows} == {
            ("MIG-0", "loaded_idle", "holding"): 3,
            ("MIG-1", "other_workload", "memory"): 2,
            ("GPU-0", "unallocated", "mig_unpartitioned"): 2,
        }
        assert (await ledger.reconcile()).reconciles


async def test_a_ledger_of_before_there_were_groups_goes_on(tmp_path: Path) -> None:
    path, minute = tmp_path / "follower", 60 * NS
    old = connect(path)
    upgrade(old, "0003")
    bill = expected_bill(T0, T0 + minute)
    price = book().segments("NVIDIA H100 80GB HBM3", T0)[0][1]
    with old.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO node_state VALUES (1, 'follower', 'b', {T0}, 0, 3, {T0 + minute})")
        for n in range(3):
            connection.exec_driver_sql(
                f"INSERT INTO accounts VALUES ('GPU-{n}', {T0}, 'NVIDIA H100 80GB HBM3', 'CNY', {T0 + minute}, 1)"
            )
            connection.exec_driver_sql(
                f"INSERT INTO price_segments VALUES ('GPU-{n}', {T0}, {T0}, '{price.numerator}', '{price.denominator}')"
            )
            connection.exec_driver_sql(
                f"INSERT INTO entries VALUES ({T0}, 'GPU-{n}', {T0}, 'GPU-{n}', 'other_workload', 'process', '', '',"
                f" '', '', {minute}, {bill}, 0, 0, 0)"
            )
    old.dispose()
    async with node(path, STAGE, HandClock(T0 + minute)) as there:
        await there.live(range(10), worker(7, workload=STAGE), load=1.0)
        await there.settlement.drain()
        await there.proven()
        assert await there.seconds_by("group", "state") == {
            ("", "other_workload"): 3 * 60 + 10,
            (GROUP, "unattributed"): 20,
        }


async def test_a_worker_answers_nobody_so_no_request_is_its(tmp_path: Path) -> None:
    clock = HandClock(T0)
    async with await Ledger.open(tmp_path / "ledger", "node") as ledger:
        settlement = Settlement(ledger, None, "node", clock)
        settlement.observe_engine(scraped(server(7)))
        settlement.observe_engine(scraped(worker(8, name="w")))
        assert settlement.engine_of(UPSTREAM) == "chat"
        assert settlement.engine_of("") != "w"


async def test_a_status_alone_tells_nothing_of_traffic(tmp_path: Path) -> None:
    """Whose a process is becomes known between two scrapes: the last counters must not count as new ones."""
    clock = HandClock(T0)
    async with await Ledger.open(tmp_path / "ledger", "node") as ledger:
        settlement = Settlement(ledger, None, "node", clock)
        for second in range(12):
            settlement.observe_gpus(snapshot(clock.at_ns, gpu(clock.at_ns, processes=(process(7),))))
            if second % 5 == 0:
                counted = engine(clock.at_ns, owns=(), output=100.0 * second, running=0.0)
                settlement.observe_engine(counted)
            else:
                settlement.observe_status(replace(counted.status, pids=(7,)))
            clock.at_ns += NS
        await settlement.drain()
        found = await ledger.report(ReportQuery(start_ns=0, end_ns=2**62, aggregate=("state",)))
        booked = {row.group["state"]: row.gpu_ns for row in found.rows}
        assert sum(booked.values()) == 12 * NS
        assert booked["unattributed"] > 0
