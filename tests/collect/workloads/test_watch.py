"""The whole of it: a kubelet over gRPC, a /proc and log folders of files; snapshots in, attributions out."""

import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent.clock import NS, boot_ns, unix_ns
from agent.collect.workloads import watch as watch_module
from agent.collect.workloads.settings import WorkloadSettings
from agent.collect.workloads.watch import WorkloadWatch
from agent.core.gpu_readings import GpuReading, GpuSnapshot
from agent.core.workloads import Attribution, Workload
from tests.support.gpu_slots import gpu, gpu_uuid, mig, mig_uuid, process, snapshot
from tests.support.kubelet import allocatable, claim, kubelet, pod
from tests.support.proc_tree import ProcTree, checkpoint, log_folders

UID = "0b0c8f5e-7a52-4a66-9a3f-5d1f0c3e8a11"
OTHER = "1b0c8f5e-7a52-4a66-9a3f-5d1f0c3e8a11"
ID = "1" * 64
GROUP = f"0::/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/cri-containerd-{ID}.scope\n"
PODS = {("ml", "llama-0", UID): {"server": ID}, ("ml", "dra-0", OTHER): {"server": "2" * 64}}
GIVEN = {"nvidia.com/gpu": [gpu_uuid(0)]}


@dataclass(slots=True)
class Machine:
    """Where everything of it lies, and what was published about it."""

    root: Path
    proc: ProcTree
    published: list[Attribution] = field(default_factory=list)
    news: anyio.Event = field(default_factory=anyio.Event)

    @property
    def socket(self) -> Path:
        return self.root / "kubelet.sock"

    def settings(self, **more: Any) -> WorkloadSettings:
        fields: dict[str, Any] = {
            "kubelet_sockets": (self.socket,),
            "checkpoints": (self.root / "checkpoint",),
            "pod_logs": self.root / "pods",
            "container_logs": self.root / "containers",
            "proc": self.proc.root,
            "interval_seconds": 1,
            "timeout_seconds": 5,
        }
        return WorkloadSettings(**(fields | more))

    def publish(self, attribution: Attribution) -> None:
        self.published.append(attribution)
        self.news.set()
        self.news = anyio.Event()

    async def until(self, fits: Callable[[Attribution], bool]) -> Attribution:
        with anyio.fail_after(20):
            while not self.published or not fits(self.published[-1]):
                await self.news.wait()
        return self.published[-1]


@pytest.fixture
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="er") as folder:
        yield Machine(Path(folder), ProcTree(Path(folder) / "proc"))


@asynccontextmanager
async def watching(machine: Machine, **more: Any) -> AsyncIterator[WorkloadWatch]:
    watch = WorkloadWatch(machine.settings(**more), machine.publish)
    async with anyio.create_task_group() as group:
        group.start_soon(watch.run)
        yield watch
        group.cancel_scope.cancel()


def node(*gpus: GpuReading) -> GpuSnapshot:
    """GPUs whose processes were listed just now."""
    return snapshot(*gpus)


def live(number: int, *pids: int, **more: Any) -> GpuReading:
    return gpu(number, *map(process, pids), processes_read_at_ns=unix_ns(), **more)


def enabled(attribution: Attribution) -> dict[str, bool]:
    return {feature.name: feature.enabled for feature in attribution.features}


async def test_holders_and_users_by_name(machine: Machine) -> None:
    log_folders(machine.root, PODS)
    machine.proc.process(7, GROUP, name="vllm")
    with kubelet(machine.socket) as fake:
        fake.pods = [
            pod("ml", "llama-0", "server", GIVEN),
            pod("ml", "dra-0", "server", {}, [claim("slice", "ml", "gpu-1-mig-1g10gb-19-0")]),
            pod("ml", "ended-0", "server", {"nvidia.com/gpu": [gpu_uuid(5)]}),
        ]
        fake.allocatable = allocatable({"nvidia.com/gpu": [gpu_uuid(0)], "nvidia.com/gpu.shared": ["x"]})
        async with watching(machine) as watch:
            watch.see(node(live(0, 7), live(1, mig=(mig(10, 7),))))
            found = await machine.until(lambda one: one.holders_known)
            assert watch.attribution is found
    workload = Workload(namespace="ml", pod="llama-0", container="server", pod_uid=UID)
    assert [(one.slot, one.workload, one.source) for one in found.holdings] == [
        (gpu_uuid(0), workload, "pod_resources"),
        (mig_uuid(10), Workload(namespace="ml", pod="dra-0", container="server", pod_uid=OTHER), "pod_resources"),
    ]
    assert found.holdings[1].claim is not None
    (user,) = found.users
    assert (user.slot, user.pid, user.name) == (gpu_uuid(0), 7, "vllm")
    assert user.workload == Workload(namespace="ml", pod="llama-0", container="server", pod_uid=UID, container_id=ID)
    assert found.users_known
    assert found.allocatable == (gpu_uuid(0),)
    assert found.unresolved == {"finished_pod": 1}
    assert enabled(found) == {
        "pod_resources": True,
        "checkpoint": False,
        "pod_logs": True,
        "container_logs": True,
        "host_pid": True,
        "process_files": True,
    }


async def test_replicas(machine: Machine) -> None:
    with kubelet(machine.socket) as fake:
        ids = [f"{gpu_uuid(0)}::{n}" for n in range(4)]
        fake.pods = [pod("ml", f"part-{n}", "server", {"nvidia.com/gpu": [ids[n]]}) for n in (0, 3)]
        fake.allocatable = allocatable({"nvidia.com/gpu": ids})
        async with watching(machine) as watch:
            watch.see(node(live(0)))
            found = await machine.until(lambda one: one.holders_known)
    assert [(one.slot, one.replica) for one in found.holdings] == [(gpu_uuid(0), "0"), (gpu_uuid(0), "3")]
    assert found.replicas == {gpu_uuid(0): 4}


async def test_a_process_that_comes_is_looked_at_at_once(machine: Machine) -> None:
    log_folders(machine.root, PODS)
    with kubelet(machine.socket) as fake:
        async with watching(machine, interval_seconds=600) as watch:
            watch.see(node(live(0)))
            await machine.until(lambda one: one.holders_known and not one.users)
            asked = len(fake.asked)
            machine.proc.process(7, GROUP)
            fake.pods = [pod("ml", "llama-0", "server", GIVEN)]
            watch.see(node(live(0, 7)))
            found = await machine.until(lambda one: bool(one.users and one.holdings))
            assert len(fake.asked) == asked + 2
            for _ in range(20):
                watch.see(node(live(0, 7)))
            with anyio.move_on_after(1.5) as waited:
                await machine.news.wait()
            assert waited.cancelled_caught, "nothing new, no look"
    assert found.users[0].workload is not None


async def test_a_kubelet_that_hangs_does_not_hold_up_the_users(machine: Machine) -> None:
    machine.proc.process(7, GROUP)
    with kubelet(machine.socket, "stall") as fake:
        fake.pods = [pod("ml", "llama-0", "server", GIVEN)]
        async with watching(machine, interval_seconds=600, timeout_seconds=30) as watch:
            watch.see(node(live(0, 7)))
            first = await machine.until(lambda one: bool(one.users))
            assert not first.holders_known
            assert not enabled(first)["pod_resources"]
            fake.mode = "ok"
            fake.release.set()
            found = await machine.until(lambda one: one.holders_known)
            assert [one.workload.pod for one in found.holdings] == ["llama-0"]


async def test_the_end_does_not_wait_for_a_kubelet_that_hangs(machine: Machine) -> None:
    with kubelet(machine.socket, "stall") as fake:
        async with watching(machine, timeout_seconds=60) as watch:
            watch.see(node(live(0)))
            assert await anyio.to_thread.run_sync(fake.stalled.wait, 20)
            began = boot_ns()
        assert boot_ns() - began < 2 * NS


async def test_the_last_answer_holds_for_a_while_then_the_checkpoint_then_nothing(machine: Machine) -> None:
    log_folders(machine.root, PODS)
    checkpoint(machine.root / "checkpoint", [(UID, "server", "nvidia.com/gpu", [gpu_uuid(0)])])
    async with watching(machine, keep_seconds=2) as watch:
        with kubelet(machine.socket) as fake:
            fake.pods = [pod("ml", "llama-0", "server", GIVEN)]
            watch.see(node(live(0)))
            good = await machine.until(lambda one: one.holders_known and enabled(one)["pod_resources"])
        kept = await machine.until(lambda one: not enabled(one)["pod_resources"])
        assert kept.holdings == good.holdings
        assert kept.holders_read_at_ns == good.holders_read_at_ns
        assert kept.read_at_ns > good.read_at_ns
        assert "last answer" in kept.features[0].reason
        file = await machine.until(lambda one: bool(one.holdings) and one.holdings[0].source == "checkpoint")
        assert file.holders_known
        assert file.holdings[0].workload == good.holdings[0].workload
        (machine.root / "checkpoint").unlink()
        nothing = await machine.until(lambda one: not one.holders_known)
        assert nothing.holdings == ()
        with kubelet(machine.socket) as fake:
            fake.pods = [pod("ml", "llama-0", "server", GIVEN)]
            again = await machine.until(lambda one: one.holders_known)
            assert again.holdings == good.holdings


async def test_a_container_that_sees_its_own_pids_names_nobody(machine: Machine) -> None:
    machine.proc = ProcTree(machine.root / "own", host=False)
    machine.proc.process(7, GROUP)
    async with watching(machine) as watch:
        watch.see(node(live(0, 7)))
        found = await machine.until(lambda one: bool(one.users))
    assert not found.users_known
    assert found.users[0].workload is None
    assert found.users[0].started_at_ns is None
    assert not enabled(found)["host_pid"]


async def test_pids_of_simulated_gpus_are_ours(machine: Machine) -> None:
    machine.proc = ProcTree(machine.root / "own", host=False)
    machine.proc.process(7, GROUP)
    async with watching(machine) as watch:
        watch.see(node(live(0, 7, simulated=True)))
        found = await machine.until(lambda one: bool(one.users))
    assert found.users_known
    assert found.users[0].workload is not None


async def test_nothing_is_there(machine: Machine) -> None:
    async with watching(machine, proc=machine.root / "none") as watch:
        watch.see(node(live(0, 7)))
        found = await machine.until(lambda one: "it has not answered" not in one.features[0].reason)
    assert (found.holders_known, found.users_known) == (False, False)
    assert enabled(found) == {"pod_resources": False, "host_pid": False}


async def test_garbage_pids_and_a_pid_used_anew(machine: Machine) -> None:
    machine.proc.process(7, GROUP, start_ticks=10**9)  # it starts long after the list was read
    async with watching(machine) as watch:
        watch.see(node(live(0, 7, 0, 2**32 - 1)))
        found = await machine.until(lambda one: len(one.users) == 3)
    assert all(user.workload is None for user in found.users)
    assert found.unresolved["process_not_visible"] == 3


async def test_switched_off(machine: Machine) -> None:
    async with watching(machine, enabled=False) as watch:
        watch.see(node(live(0, 7)))
        await anyio.wait_all_tasks_blocked()
        assert watch.attribution is None


async def test_idle_power_is_learned(machine: Machine) -> None:
    watch = WorkloadWatch(machine.settings(), machine.publish)
    watch.see(node(live(0, power_watts=55.0)))
    assert watch.idle_watts == {gpu_uuid(0): 55.0}


def test_grpc_is_not_imported_before_a_socket_answers() -> None:
    code = (
        "import sys; from pathlib import Path; import agent.collect.workloads.watch\n"
        "from agent.collect.workloads.kubelet import Kubelet, KubeletAway\n"
        "try: Kubelet((Path('/nonexistent'),), 1).ask()\n"
        "except KubeletAway: print('grpc' in sys.modules, 'google.protobuf' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
    assert watch_module.LEAST_GAP_SECONDS > 0
