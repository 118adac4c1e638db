"""Short GPU snapshots for tests about who holds and uses slots."""

from typing import Any

from agent.core.gpu_readings import GpuActivity, GpuDetails, GpuProcess, GpuReading, GpuSnapshot, MigReading

AT_NS = 1_700_000_000_000_000_000


def gpu_uuid(number: int) -> str:
    return f"GPU-00000000-0000-0000-0000-{number:012d}"


def mig_uuid(number: int) -> str:
    return f"MIG-00000000-0000-0000-0000-{number:012d}"


def process(pid: int, memory: int | None = 1000, sm: float | None = None, kind: Any = "compute") -> GpuProcess:
    return GpuProcess(pid=pid, kind=kind, memory_used_bytes=memory, sm_utilization_ratio=sm)


def gpu(number: int, *processes: GpuProcess, minor: int | None = -1, **more: Any) -> GpuReading:
    """GPU `number`; its minor number is the same unless given, None where the driver does not tell."""
    if minor == -1:
        minor = number
    fields: dict[str, Any] = {
        "uuid": gpu_uuid(number),
        "index": number,
        "model": "NVIDIA H100 80GB HBM3",
        "read_at_ns": AT_NS,
        "state": "ok",
        "details": GpuDetails(minor_number=minor),
        "processes": processes,
        "processes_read_at_ns": AT_NS,
    }
    return GpuReading(**(fields | more))


def mig(
    number: int, instance: int, *processes: GpuProcess, sm: float | None = None, slices: int = 1, **more: Any
) -> MigReading:
    """MIG device `number` in GPU instance `instance`."""
    fields: dict[str, Any] = {
        "uuid": mig_uuid(number),
        "index": number,
        "gpu_instance": instance,
        "compute_instance": 0,
        "profile": f"{slices}g.{slices * 10}gb",
        "gpu_instance_slices": slices,
        "compute_slices": slices,
        "activity": None if sm is None else GpuActivity(sm_ratio=sm),
        "processes": processes,
    }
    return MigReading(**(fields | more))


def snapshot(*gpus: GpuReading) -> GpuSnapshot:
    return GpuSnapshot(read_at_ns=AT_NS, driver="ok", gpus=gpus)
