"""The processes on a simulated GPU."""

from collections.abc import Callable
from typing import Any

from agent.demo.gpus.answers.outs import INSUFFICIENT_SIZE, SUCCESS
from agent.demo.gpus.model import SimulatedGpu


def _processes(gpu: SimulatedGpu, count: Any, out: Any) -> int:
    room, count._obj.value = count._obj.value, len(gpu.processes)
    if room < len(gpu.processes):
        return INSUFFICIENT_SIZE
    for slot, process in enumerate(gpu.processes):
        entry = out[slot]
        entry.pid, entry.usedGpuMemory = process.pid, process.memory_bytes
        entry.gpuInstanceId = entry.computeInstanceId = 0xFFFFFFFF
    return SUCCESS


def _no_processes(_gpu: SimulatedGpu, count: Any, _out: Any) -> int:
    count._obj.value = 0
    return SUCCESS


DEVICE: dict[str, Callable[..., int | None]] = {
    "nvmlDeviceGetComputeRunningProcesses_v3": _processes,
    "nvmlDeviceGetGraphicsRunningProcesses_v3": _no_processes,
    "nvmlDeviceGetMPSComputeRunningProcesses_v3": _no_processes,
}
