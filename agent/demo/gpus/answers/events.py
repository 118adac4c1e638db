"""Events of simulated GPUs: event sets, the waiting, driver bind and unbind; and what the kernel log says of an Xid.

The control file carries a growing list of numbered events. A set hears of those that are newer than itself.
"""

import ctypes
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pynvml

from agent.collect.gpu.codes import EVENT_KINDS
from agent.demo.gpus.answers.outs import (
    ARGUMENT_VERSION_MISMATCH,
    GPU_IS_LOST,
    INVALID_ARGUMENT,
    SUCCESS,
    TIMEOUT,
    UNINITIALIZED,
)
from agent.demo.gpus.control import SimulatedEvent
from agent.demo.gpus.model import NodeSim, SimulatedGpu

KINDS = {word: bit for bit, word in EVENT_KINDS.items()}
_NOISE = 0x94  # performance state, clock, power source: a driver has them, and our reader does not want them
_NO_INSTANCE = 0xFFFFFFFF
_LOOK_SECONDS = 0.05
_DRIVER_EVENTS = {
    "driver_unbind": pynvml.nvmlSystemEventTypeGpuDriverUnbind,
    "driver_bind": pynvml.nvmlSystemEventTypeGpuDriverBind,
}


@dataclass(slots=True)
class _EventSet:
    seen: int  # number of the newest event that it knows
    of: dict[int, int] = field(default_factory=dict)  # index of a GPU -> kinds


_sets: dict[int, _EventSet] = {}
_numbers = itertools.count(1)


def _number(pointer: Any) -> int:
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def _new_set(node: NodeSim) -> int:
    number = next(_numbers)
    _sets[number] = _EventSet(max((event.number for event in node.control.events), default=0))
    return number


def _create(node: NodeSim, out: Any) -> int:
    ctypes.cast(ctypes.pointer(out._obj), ctypes.POINTER(ctypes.c_void_p))[0] = _new_set(node)
    return SUCCESS


def _free(_node: NodeSim, pointer: Any) -> int:
    return SUCCESS if _sets.pop(_number(pointer), None) else INVALID_ARGUMENT


def _register(gpu: SimulatedGpu, kinds: Any, pointer: Any) -> int:
    found = _sets.get(_number(pointer))
    if found is None:
        return INVALID_ARGUMENT
    found.of[gpu.index] = kinds.value
    return SUCCESS


def _supported(_gpu: SimulatedGpu, out: Any) -> int:
    out._obj.value = sum(EVENT_KINDS) | _NOISE
    return SUCCESS


def event_data(event: SimulatedEvent, handle: int) -> Any:
    """nvmlEventData_t of an event; `handle` is that of its GPU."""
    data = pynvml.c_nvmlEventData_t()
    data.device = ctypes.cast(handle, type(data.device))
    data.eventType = KINDS[event.kind]
    data.eventData = event.xid or 0
    data.gpuInstanceId = _NO_INSTANCE if event.gpu_instance is None else event.gpu_instance
    data.computeInstanceId = _NO_INSTANCE if event.compute_instance is None else event.compute_instance
    return data


def gpu_events(node: NodeSim) -> Iterator[SimulatedEvent]:
    """Those that are about a GPU, the oldest first."""
    yield from (event for event in sorted(node.control.events, key=lambda e: e.number) if event.kind in KINDS)


def _wait(node: NodeSim, pointer: Any, out: Any, milliseconds: Any) -> int:
    found = _sets.get(_number(pointer))
    if found is None:
        return INVALID_ARGUMENT
    left = milliseconds.value / 1000
    while True:
        if node.control.driver != "loaded":
            return UNINITIALIZED
        if any(index in node.control.lost for index in found.of):
            return GPU_IS_LOST
        for event in gpu_events(node):
            if event.number > found.seen and found.of.get(event.gpu, 0) & KINDS[event.kind]:
                found.seen = event.number
                ctypes.memmove(ctypes.pointer(out._obj), ctypes.byref(event_data(event, event.gpu + 1)), 32)
                return SUCCESS
        if left <= 0:
            return TIMEOUT
        threading.Event().wait(min(left, _LOOK_SECONDS))
        left -= _LOOK_SECONDS


def _create_system(node: NodeSim, request: Any) -> int:
    asked = request._obj
    if asked.version != pynvml.nvmlSystemEventSetCreateRequest_v1:
        return ARGUMENT_VERSION_MISMATCH
    asked.set = ctypes.cast(_new_set(node), type(asked.set))
    return SUCCESS


def _register_system(_node: NodeSim, request: Any) -> int:
    found = _sets.get(_number(request._obj.set))
    if found is None:
        return INVALID_ARGUMENT
    found.of[-1] = request._obj.eventTypes
    return SUCCESS


def _wait_system(node: NodeSim, request: Any) -> int:
    asked = request._obj
    found = _sets.get(_number(asked.set))
    if found is None:
        return INVALID_ARGUMENT
    left = asked.timeoutms / 1000
    while True:
        wanted = found.of.get(-1, 0)
        fresh = [
            event
            for event in sorted(node.control.events, key=lambda e: e.number)
            if event.number > found.seen and _DRIVER_EVENTS.get(event.kind, 0) & wanted
        ][: asked.dataSize]
        for place, event in enumerate(fresh):
            asked.data[place].eventType = _DRIVER_EVENTS[event.kind]
            asked.data[place].gpuId = event.gpu
            found.seen = event.number
        asked.numEvent = len(fresh)
        if fresh or left <= 0:
            return SUCCESS if fresh else TIMEOUT
        threading.Event().wait(min(left, _LOOK_SECONDS))
        left -= _LOOK_SECONDS


def kernel_line(event: SimulatedEvent, gpu: SimulatedGpu) -> str:
    """What the kernel log says of an Xid."""
    place = gpu.pci_bus_id[4:].split(".")[0].lower()
    part = "".join(
        f" {word}:{number:02d}"
        for word, number in (("GPU-I", event.gpu_instance), ("GPU-CI", event.compute_instance))
        if number is not None
    )
    who = f"pid={event.pid}, name={event.process or 'python'}, " if event.pid is not None else ""
    return f"NVRM: Xid (PCI:{place}{part}): {event.xid}, {who}simulated by engineroom"


SYSTEM: dict[str, Callable[..., Any]] = {
    "nvmlEventSetCreate": _create,
    "nvmlEventSetWait_v2": _wait,
    "nvmlEventSetFree": _free,
    "nvmlSystemEventSetCreate": _create_system,
    "nvmlSystemRegisterEvents": _register_system,
    "nvmlSystemEventSetWait": _wait_system,
    "nvmlSystemEventSetFree": lambda node, request: _free(node, request._obj.set),
}

DEVICE: dict[str, Callable[..., int | None]] = {
    "nvmlDeviceGetSupportedEventTypes": _supported,
    "nvmlDeviceRegisterEvents": _register,
}
