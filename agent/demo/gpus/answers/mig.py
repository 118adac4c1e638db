"""MIG of a simulated GPU: `DEVICE` answers for the GPU, `SLICE` for one of its MIG devices."""

import ctypes
from collections.abc import Callable
from typing import Any

import pynvml

from agent.demo.gpus.answers.outs import (
    ARGUMENT_VERSION_MISMATCH,
    INVALID_ARGUMENT,
    NO_PERMISSION,
    NOT_FOUND,
    NOT_SUPPORTED,
    SUCCESS,
    fill,
    put,
    text,
)
from agent.demo.gpus.mig import MigDevice, placement_start
from agent.demo.gpus.model import NodeSim, SimulatedGpu

_MEGABYTE = 2**20

# What a GPU in MIG mode says of itself no longer (nvidia-smi on an H100 and an H200 in MIG mode shows N/A for all).
NOT_IN_MIG_MODE = frozenset(
    {
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetEncoderUtilization",
        "nvmlDeviceGetDecoderUtilization",
        "nvmlDeviceGetJpgUtilization",
        "nvmlDeviceGetOfaUtilization",
        "nvmlDeviceGetSamples",
        "nvmlDeviceGetRemappedRows",
    }
)


def _handle(out: Any, number: int) -> int:
    ctypes.cast(ctypes.pointer(out._obj), ctypes.POINTER(ctypes.c_void_p))[0] = number
    return SUCCESS


def _mode(gpu: SimulatedGpu, current: Any, pending: Any) -> int:
    if gpu.mig is None:
        return NOT_SUPPORTED
    enabled = int(gpu.mig.devices is not None)
    return put(current, enabled) or put(pending, enabled)


def _device(gpu: SimulatedGpu, index: Any, out: Any) -> int:
    devices = None if gpu.mig is None else gpu.mig.devices
    if devices is None:
        return NOT_SUPPORTED
    return _handle(out, devices[index.value].handle) if index.value < len(devices) else NOT_FOUND


def _profile(gpu: SimulatedGpu, number: Any, out: Any) -> int:
    if gpu.mig is None:
        return NOT_SUPPORTED
    known = {profile.number: (name, profile) for name, profile in gpu.mig.facts.profiles.items()}
    found = known.get(getattr(number, "value", number))
    if found is None:
        return NOT_SUPPORTED
    name, profile = found
    if hasattr(out._obj, "version"):
        if out._obj.version != pynvml.nvmlGpuInstanceProfileInfo_v2:
            return ARGUMENT_VERSION_MISMATCH
        out._obj.name = f"MIG {name}".encode()
    return fill(
        out,
        sliceCount=profile.slices,
        multiprocessorCount=profile.multiprocessors,
        memorySizeMB=profile.memory_bytes // _MEGABYTE,
        instanceCount=gpu.mig.facts.slices // profile.slices,
    )


def _instance(gpu: SimulatedGpu, number: Any, out: Any) -> int:
    if gpu.mig is None or not gpu.mig_rights:
        return NOT_SUPPORTED if gpu.mig is None else NO_PERMISSION
    inside = gpu.mig.inside(getattr(number, "value", number))
    return _handle(out, inside[0].handle) if inside else NOT_FOUND


def _instance_info(node: NodeSim, handle: Any, out: Any) -> int:
    wanted = ctypes.cast(handle, ctypes.c_void_p).value
    for gpu in node.gpus:
        for device in (gpu.mig and gpu.mig.devices) or ():
            if device.handle == wanted:
                out._obj.placement.start = placement_start(device.gpu_instance)
                return fill(out, id=device.gpu_instance)
    return INVALID_ARGUMENT


def _attributes(_gpu: SimulatedGpu, device: MigDevice, out: Any) -> int:
    return fill(
        out,
        multiprocessorCount=device.multiprocessors,
        gpuInstanceSliceCount=device.whole.slices,
        computeInstanceSliceCount=device.compute_slices,
        memorySizeMB=device.whole.memory_bytes // _MEGABYTE,
    )


def _memory(gpu: SimulatedGpu, device: MigDevice, out: Any) -> int:
    assert gpu.mig is not None  # it has this device
    if getattr(out._obj, "version", pynvml.nvmlMemory_v2) != pynvml.nvmlMemory_v2:
        return ARGUMENT_VERSION_MISMATCH
    total, used = device.whole.memory_bytes, gpu.mig.used_bytes(device.gpu_instance)
    return fill(out, total=total, used=used, free=total - used)  # nothing is reserved in a GPU instance


SYSTEM: dict[str, Callable[..., Any]] = {"nvmlGpuInstanceGetInfo": _instance_info}

DEVICE: dict[str, Callable[..., int | None]] = {
    "nvmlDeviceGetMigMode": _mode,
    "nvmlDeviceGetMaxMigDeviceCount": lambda gpu, out: put(out, 0 if gpu.mig is None else gpu.mig.facts.slices),
    "nvmlDeviceGetMigDeviceHandleByIndex": _device,
    "nvmlDeviceGetGpuInstanceById": _instance,
    "nvmlDeviceGetGpuInstanceProfileInfo": _profile,
    "nvmlDeviceGetGpuInstanceProfileInfoV": _profile,
    "nvmlDeviceGetGpuInstanceId": lambda _gpu, _out: NOT_SUPPORTED,
    "nvmlDeviceGetComputeInstanceId": lambda _gpu, _out: NOT_SUPPORTED,
    "nvmlDeviceGetAttributes_v2": lambda _gpu, _out: NOT_SUPPORTED,
    "nvmlDeviceIsMigDeviceHandle": lambda _gpu, out: put(out, 0),
    "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": lambda _gpu, _out: INVALID_ARGUMENT,
}

SLICE: dict[str, Callable[..., int | None]] = {
    "nvmlDeviceGetUUID": lambda _gpu, device, out, _size: text(out, device.uuid),
    "nvmlDeviceGetName": lambda gpu, device, out, _size: text(out, f"{gpu.facts.model} MIG {device.name}"),
    "nvmlDeviceGetGpuInstanceId": lambda _gpu, device, out: put(out, device.gpu_instance),
    "nvmlDeviceGetComputeInstanceId": lambda _gpu, device, out: put(out, device.compute_instance),
    "nvmlDeviceGetAttributes_v2": _attributes,
    "nvmlDeviceGetMemoryInfo": _memory,
    "nvmlDeviceGetMemoryInfo_v2": _memory,
    "nvmlDeviceIsMigDeviceHandle": lambda _gpu, _device, out: put(out, 1),
    "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": lambda gpu, _device, out: _handle(out, gpu.index + 1),
}
