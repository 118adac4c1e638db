"""GPUs, holders and Xids for tests of the DCGM page, and a reader of its lines."""

import re
from typing import Any

from msgspec.structs import replace

from agent.core.gpu_readings import (
    GpuActivity,
    GpuDetails,
    GpuErrors,
    GpuNvlink,
    GpuPcie,
    GpuProcess,
    GpuReading,
    GpuSnapshot,
    MigReading,
)
from agent.core.workloads import Attribution, Claim, Holding, SlotUser, Workload

NS = 1_000_000_000
NOW_NS = 1_763_894_400 * NS
MIB = 2**20

CHAT = Workload(namespace="inference", pod="chat-0", container="vllm", pod_uid="11111111-2222")
EMBED = Workload(namespace="inference", pod="embed-0", container="tei", pod_uid="33333333-4444")


def gpu(index: int = 0, **changes: Any) -> GpuReading:
    """An H100 that has said everything."""
    reading = GpuReading(
        uuid=f"GPU-{index}",
        index=index,
        model="NVIDIA H100 80GB HBM3",
        read_at_ns=NOW_NS,
        state="ok",
        pci_bus_id=f"00000000:{0x1A + index:02X}:00.0",
        driver_version="590.48.01",
        utilization_ratio=0.87,
        memory_utilization_ratio=0.41,
        encoder_utilization_ratio=0.0,
        decoder_utilization_ratio=0.0,
        memory_used_bytes=70_000 * MIB + 5,
        memory_free_bytes=11_000 * MIB,
        memory_reserved_bytes=559 * MIB,
        memory_total_bytes=81_559 * MIB,
        bar1_used_bytes=5 * MIB,
        bar1_total_bytes=131_072 * MIB,
        temperature_celsius=64.0,
        memory_temperature_celsius=71.0,
        temperature_slowdown_celsius=87.0,
        fan_speed_ratio=0.3,
        power_watts=612.345,
        power_limit_watts=700.0,
        energy_joules=5551899.58,
        energy_source="counter",
        clocks_hertz={"sm": 1_980e6, "memory": 2_619e6, "graphics": 1_980e6, "video": 1_545e6},
        performance_state=0,
        throttle_mask=0x4,
        violation_ns={
            "power": 12_000,
            "thermal": 0,
            "sync_boost": 0,
            "board_limit": 7,
            "low_util": 1,
            "reliability": 2,
            "sw_thermal": 3,
            "hw_thermal": 4,
            "power_brake": 5,
        },
        activity=GpuActivity(
            graphics_engine_ratio=0.9,
            sm_ratio=0.8,
            sm_occupancy_ratio=0.2,
            tensor_ratio=0.55,
            dram_ratio=0.600001,
            fp64_ratio=0.0,
            fp32_ratio=0.01,
            fp16_ratio=0.02,
        ),
        pcie=GpuPcie(
            generation=5,
            generation_max=5,
            width=16,
            width_max=16,
            transmitted_bytes=10_000_000_000,
            received_bytes=20_000_000_000,
            replays=3,
        ),
        nvlink=GpuNvlink(
            links=18,
            links_active=18,
            transmitted_bytes=1024_000_000,
            received_bytes=1024_000_000,
            errors={"crc_flit": 0, "crc_data": 1, "replay": 2, "recovery": 3},
        ),
        errors=GpuErrors(
            ecc_enabled=True,
            ecc_errors={
                "corrected_volatile": 1,
                "uncorrected_volatile": 0,
                "corrected_aggregate": 12,
                "uncorrected_aggregate": 0,
            },
            remapped_rows={"corrected": 1, "uncorrected": 0},
            row_remap_pending=False,
            row_remap_failed=False,
            row_remap_banks={"max": 2559, "high": 1, "partial": 0, "low": 0, "none": 0},
            recovery_action="none",
        ),
        details=GpuDetails(
            architecture="hopper",
            persistence_mode=True,
            mig_mode=False,
            power_limit_default_watts=700.0,
            power_limit_requested_watts=700.0,
            power_limit_min_watts=200.0,
            power_limit_max_watts=700.0,
            temperature_shutdown_celsius=92.0,
            clocks_max_hertz={"sm": 1_980e6, "memory": 2_619e6},
        ),
        processes=(),
    )
    return replace(reading, **changes)


def older_gpu(index: int = 0, **changes: Any) -> GpuReading:
    """An Ampere GPU without GPM: retired pages are for those still older, but nothing else is left out."""
    details = GpuDetails(architecture="ampere", mig_mode=False)
    values: dict[str, Any] = {"model": "NVIDIA A10G", "activity": None, "details": details, "nvlink": None}
    return gpu(index, **values | changes)


def mig(number: int, compute: int = 0, profile: str = "3g.40gb", **changes: Any) -> MigReading:
    """A MIG device: compute instance `compute` of GPU instance `number`."""
    device = MigReading(
        uuid=f"MIG-{number}-{compute}",
        index=number + compute,
        gpu_instance=number,
        compute_instance=compute,
        profile=profile,
        memory_used_bytes=1_000 * MIB,
        memory_free_bytes=39_000 * MIB,
        memory_reserved_bytes=0,
        memory_total_bytes=40_000 * MIB,
        activity=GpuActivity(graphics_engine_ratio=0.25, tensor_ratio=0.125, dram_ratio=0.5),
        processes=(),
    )
    return replace(device, **changes)


def in_mig_mode(index: int, *devices: MigReading) -> GpuReading:
    """A GPU divided into `devices`; it refuses to tell its load, as real ones do."""
    refused = {f"{kind}utilization_ratio": None for kind in ("", "memory_", "encoder_", "decoder_")}
    return gpu(index, **refused, activity=None, mig=devices, mig_slices=7, details=GpuDetails(mig_mode=True))


def snapshot(*gpus: GpuReading, at_ns: int = NOW_NS, **changes: Any) -> GpuSnapshot:
    return GpuSnapshot(read_at_ns=at_ns, driver="ok", gpus=gpus, **changes)


def holding(slot: str, workload: Workload, replica: str | None = None, claim: Claim | None = None) -> Holding:
    resource = "" if claim else "nvidia.com/gpu"
    return Holding(
        slot=slot, workload=workload, resource=resource, source="pod_resources", replica=replica, claim=claim
    )


def held(*holdings: Holding, users: tuple[SlotUser, ...] = (), replicas: dict[str, int] | None = None) -> Attribution:
    return Attribution(
        read_at_ns=NOW_NS,
        holdings=holdings,
        users=users,
        replicas=replicas or {},
        holders_known=True,
        users_known=True,
    )


def process(pid: int, mib: int | None, sm: float | None = None, kind: Any = "compute") -> GpuProcess:
    size = None if mib is None else mib * MIB
    return GpuProcess(pid=pid, kind=kind, memory_used_bytes=size, sm_utilization_ratio=sm)


LINE = re.compile(r"^([A-Za-z_][A-Za-z0-9_]*)\{(.*)\} (\S+)$")
LABEL = re.compile(r'([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"')

Lines = dict[str, list[tuple[dict[str, str], str]]]


def read(page: bytes) -> Lines:
    """Family -> (labels, value as written) of each line."""
    found: Lines = {}
    for line in page.decode().splitlines():
        if not line.startswith("#"):
            name, labels, value = LINE.fullmatch(line).groups()  # type: ignore[union-attr]
            found.setdefault(name, []).append((dict(LABEL.findall(labels)), value))
    return found


def sample_lines(page: str) -> list[str]:
    return [line for line in page.splitlines() if not line.startswith("#")]
