"""Profiling ratios (GPM) of a simulated GPU: Hopper and newer, in MIG mode by GPU instance only."""

import ctypes
from collections.abc import Callable
from typing import Any

from agent.demo.gpus.answers.outs import (
    ARGUMENT_VERSION_MISMATCH,
    INVALID_ARGUMENT,
    NOT_FOUND,
    NOT_SUPPORTED,
    SUCCESS,
    fill,
)
from agent.demo.gpus.gpm import AT_FULL_LOAD, GpmSample
from agent.demo.gpus.model import NodeSim, SimulatedGpu

_HOPPER = 9  # NVML_DEVICE_ARCH_HOPPER
_NAMES = {"graphics_engine": 1, "sm": 2, "sm_occupancy": 3, "tensor": 5, "dram": 10, "fp64": 11, "fp32": 12, "fp16": 13}


def _number(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def _offers(gpu: SimulatedGpu) -> bool:
    return (gpu.facts.architecture or 0) >= _HOPPER


def _support(gpu: SimulatedGpu, out: Any) -> int:
    if out._obj.version != 1:
        return ARGUMENT_VERSION_MISMATCH
    return fill(out, isSupportedDevice=int(_offers(gpu)))


def _sample(gpu: SimulatedGpu, buffer: Any) -> int:
    if not _offers(gpu) or (gpu.mig is not None and gpu.mig.devices is not None):
        return NOT_SUPPORTED
    sample = GpmSample((gpu.index,), gpu.lived_seconds, gpu.busy_seconds)
    return SUCCESS if gpu.gpm_samples.put(_number(buffer), sample) else INVALID_ARGUMENT


def _mig_sample(gpu: SimulatedGpu, gpu_instance: Any, buffer: Any) -> int:
    if not _offers(gpu) or gpu.mig is None or gpu.mig.devices is None:
        return NOT_SUPPORTED
    inside = gpu.mig.inside(getattr(gpu_instance, "value", gpu_instance))
    if not inside:
        return NOT_FOUND
    busy = sum(one.busy_seconds * one.compute_slices for one in inside) / inside[0].whole.slices
    subject = (gpu.index, *(one.handle for one in inside))
    sample = GpmSample(subject, gpu.lived_seconds, busy)
    return SUCCESS if gpu.gpm_samples.put(_number(buffer), sample) else INVALID_ARGUMENT


def _allocate(node: NodeSim, out: Any) -> int:
    ctypes.cast(ctypes.pointer(out._obj), ctypes.POINTER(ctypes.c_void_p))[0] = node.gpm_samples.allocate()
    return SUCCESS


def _free(node: NodeSim, buffer: Any) -> int:
    return SUCCESS if node.gpm_samples.free(_number(buffer)) else INVALID_ARGUMENT


def _metrics(node: NodeSim, out: Any) -> int:
    asked = out._obj
    if asked.version != 1:
        return ARGUMENT_VERSION_MISMATCH
    older, newer = (node.gpm_samples.get(_number(one)) for one in (asked.sample1, asked.sample2))
    if older is None or newer is None or older.subject != newer.subject or newer.lived_seconds <= older.lived_seconds:
        return INVALID_ARGUMENT
    load = (newer.busy_seconds - older.busy_seconds) / (newer.lived_seconds - older.lived_seconds)
    at_full_load = AT_FULL_LOAD | {_NAMES[name]: ratio for name, ratio in node.control.activity.items()}
    for metric in asked.metrics[: asked.numMetrics]:
        ratio = at_full_load.get(metric.metricId)
        metric.nvmlReturn = NOT_SUPPORTED if ratio is None else SUCCESS
        metric.value = 0.0 if ratio is None else 100 * ratio * load
    return SUCCESS


SYSTEM: dict[str, Callable[..., Any]] = {
    "nvmlGpmSampleAlloc": _allocate,
    "nvmlGpmSampleFree": _free,
    "nvmlGpmMetricsGet": _metrics,
}

DEVICE: dict[str, Callable[..., int | None]] = {
    "nvmlGpmQueryDeviceSupport": _support,
    "nvmlGpmSampleGet": _sample,
    "nvmlGpmMigSampleGet": _mig_sample,
}
