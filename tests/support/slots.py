"""GPUs cut into MIG devices or shared by replicas, and who holds and uses them, for tests of the bill."""

from collections.abc import Iterable
from typing import Any

from agent.core.gpu_readings import GpuProcess, GpuReading, GpuSnapshot, MigReading
from agent.core.workloads import Attribution, Holding, SlotUser, Workload
from tests.support.money import MODEL

GIB = 1 << 30
NOWHERE = Workload()  # runs in no container and no job


def process(pid: int, memory: int | None = GIB) -> GpuProcess:
    return GpuProcess(pid=pid, kind="compute", memory_used_bytes=memory)


def device(uuid: str, slices: int = 1, pids: Iterable[int] | None = (), **fields: Any) -> MigReading:
    """A MIG device that is the whole of its GPU instance."""
    values: dict[str, Any] = {
        "index": 0,
        "gpu_instance": sum(map(ord, uuid)),
        "compute_instance": 0,
        "profile": f"{slices}g.{slices * 10}gb",
        "gpu_instance_slices": slices,
        "compute_slices": slices,
        "processes": None if pids is None else tuple(map(process, pids)),
    }
    return MigReading(uuid=uuid, **{**values, **fields})


def gpu(at_ns: int, uuid: str = "GPU-0", index: int = 0, **fields: Any) -> GpuReading:
    values: dict[str, Any] = {"model": MODEL, "state": "ok", "processes": ()}
    return GpuReading(uuid=uuid, index=index, read_at_ns=at_ns, **{**values, **fields})


def cut(at_ns: int, *devices: MigReading, **fields: Any) -> GpuReading:
    """A GPU in MIG mode; what runs on it is told by its devices."""
    return gpu(at_ns, **{"mig": devices, "mig_slices": 7, "processes": None, **fields})


def snapshot(at_ns: int, *found: GpuReading) -> GpuSnapshot:
    return GpuSnapshot(read_at_ns=at_ns, driver="ok", gpus=found)


def pod(name: str, container: str = "main") -> Workload:
    return Workload(namespace="ml", pod=name, container=container, pod_uid=f"uid-{name}")


def held(slot: str, by: Workload, replica: str | None = None) -> Holding:
    return Holding(slot=slot, workload=by, resource="nvidia.com/gpu", source="pod_resources", replica=replica)


def user(slot: str, pid: int, workload: Workload | None, name: str = "python3") -> SlotUser:
    return SlotUser(slot=slot, pid=pid, name=name, workload=workload)


def known(
    at_ns: int = 0,
    *said: Holding | SlotUser,
    replicas: dict[str, int] | None = None,
    allocatable: tuple[str, ...] | None = None,
    holders_known: bool = True,
) -> Attribution:
    return Attribution(
        read_at_ns=at_ns,
        holdings=tuple(one for one in said if isinstance(one, Holding)),
        users=tuple(one for one in said if isinstance(one, SlotUser)),
        replicas=replicas or {},
        allocatable=allocatable,
        holders_known=holders_known,
        users_known=True,
    )
