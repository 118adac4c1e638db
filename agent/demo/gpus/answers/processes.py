"""The processes on a simulated GPU or MIG device, and the driver's samples of what they did."""

from collections.abc import Callable, Iterator
from typing import Any

from agent.demo.gpus.answers.outs import INSUFFICIENT_SIZE, NO_PERMISSION, NOT_FOUND, NOT_SUPPORTED, SUCCESS
from agent.demo.gpus.control import SimulatedProcess
from agent.demo.gpus.mig import MigDevice
from agent.demo.gpus.model import SimulatedGpu

_NO_INSTANCE = 0xFFFFFFFF
_Entry = tuple[SimulatedProcess, int, int]  # with GPU and compute instance

_LISTS = {
    f"nvmlDeviceGet{word}RunningProcesses{version}": kind
    for word, kind in (("Compute", "compute"), ("Graphics", "graphics"), ("MPSCompute", "mps"))
    for version in ("_v3", "_v2")  # the same struct
}


def _write(entries: list[_Entry], count: Any, out: Any) -> int:
    room, count._obj.value = count._obj.value, len(entries)
    if room < len(entries):
        return INSUFFICIENT_SIZE
    for slot, (process, gpu_instance, compute_instance) in enumerate(entries):
        entry = out[slot]
        entry.pid, entry.usedGpuMemory = process.pid, process.memory_bytes
        entry.gpuInstanceId, entry.computeInstanceId = gpu_instance, compute_instance
    return SUCCESS


def _in_slices(devices: list[MigDevice]) -> Iterator[_Entry]:
    for device in devices:
        for process in device.processes:
            yield process, device.gpu_instance, device.compute_instance


def _on_gpu(kind: str) -> Callable[..., int]:
    def answer(gpu: SimulatedGpu, count: Any, out: Any) -> int:
        entries = [(process, _NO_INSTANCE, _NO_INSTANCE) for process in gpu.processes]
        if gpu.mig is not None and gpu.mig.devices is not None:
            if not gpu.mig_rights:
                return NO_PERMISSION
            entries += _in_slices(gpu.mig.devices)
        return _write([entry for entry in entries if entry[0].kind == kind], count, out)

    return answer


def _in_slice(kind: str) -> Callable[..., int]:
    def answer(gpu: SimulatedGpu, device: MigDevice, count: Any, out: Any) -> int:
        if not gpu.mig_rights:
            return NO_PERMISSION
        return _write([entry for entry in _in_slices([device]) if entry[0].kind == kind], count, out)

    return answer


def _samples(gpu: SimulatedGpu, out: Any, count: Any, last_seen: Any) -> int:
    if gpu.mig is not None and gpu.mig.devices is not None:
        return NOT_SUPPORTED
    samples = gpu.process_samples.since(last_seen.value)
    room, count._obj.value = count._obj.value, len(samples)
    if not samples:
        # As the driver does: "nothing new" while something runs, and "success, none" otherwise.
        return NOT_FOUND if gpu.processes else SUCCESS
    if room < len(samples) or out is None:
        return INSUFFICIENT_SIZE
    for slot, sample in enumerate(samples):
        entry = out[slot]
        entry.pid, entry.timeStamp, entry.smUtil = sample.pid, sample.stamp_us, sample.sm_percent
    return SUCCESS


DEVICE: dict[str, Callable[..., int | None]] = {
    **{function: _on_gpu(kind) for function, kind in _LISTS.items()},
    "nvmlDeviceGetProcessUtilization": _samples,
}

SLICE: dict[str, Callable[..., int | None]] = {function: _in_slice(kind) for function, kind in _LISTS.items()}
