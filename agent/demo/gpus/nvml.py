"""A `NodeSim` in the place of libnvidia-ml.so.1: genuine pynvml marshals structs to and from these functions.

pynvml looks functions up by name in `pynvml.nvmlLib` and takes a missing attribute for a missing symbol. Arguments
arrive as ctypes objects; `byref(x)` carries its target in ``_obj``.
"""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pynvml

from agent.demo.gpus.answers import events, fields, gpm, health, identity, links, load, mig, processes
from agent.demo.gpus.answers.outs import (
    DRIVER_NOT_LOADED,
    GPU_IS_LOST,
    GPU_NOT_FOUND,
    INVALID_ARGUMENT,
    NOT_FOUND,
    NOT_SUPPORTED,
    SUCCESS,
    UNINITIALIZED,
    VERSION_MISMATCH,
    Refused,
    overwrite,
    put,
    text,
)
from agent.demo.gpus.calls import call_seconds
from agent.demo.gpus.mig import MigDevice, parent_of
from agent.demo.gpus.model import NodeSim, SimulatedGpu

Answer = Callable[..., int]


def install(node: NodeSim) -> "SimulatedNvml":
    """Put `node` behind pynvml in this process. pynvml keeps function pointers; they are forgotten too."""
    library = SimulatedNvml(node)
    pynvml._nvmlGetFunctionPointer_cache.clear()
    pynvml.nvmlLib = library
    return library


def uninstall() -> None:
    """Let pynvml look for the real library again."""
    pynvml._nvmlGetFunctionPointer_cache.clear()
    pynvml.nvmlLib = None


class SimulatedNvml:
    """What a `ctypes.CDLL` of the library would be, as far as pynvml can tell."""

    def __init__(self, node: NodeSim) -> None:
        self._node = node
        self._initialised = False
        self._succeeded: dict[tuple[str, int | None], int] = {}  # calls that were let pass before they fail
        self._stale = False  # loaded before the driver was upgraded

    def __getattr__(self, name: str) -> Answer:
        if name in self._node.machine.missing:
            raise AttributeError(name)
        if name in _SYSTEM:
            answer = _SYSTEM[name]
            function: Answer = lambda *arguments: self._system(name, answer, arguments)  # noqa: E731
        elif name in _DEVICE:
            about = _DEVICE[name]
            function = lambda *arguments: self._device(name, about, arguments)  # noqa: E731
        else:
            raise AttributeError(name)
        return function

    def _system(self, name: str, answer: Callable[..., int | None], arguments: tuple[Any, ...]) -> int:
        unloaded = self._node.control.driver == "unloaded"
        if name != "nvmlErrorString" and self._outdated():
            return VERSION_MISMATCH
        if name == "nvmlInitWithFlags":
            if self._node.control.hang_driver:
                threading.Event().wait()
            self._initialised = not unloaded
            return self._forced(name, None) or (DRIVER_NOT_LOADED if unloaded else SUCCESS)
        if name == "nvmlErrorString":
            return answer(self._node, *arguments)  # type: ignore[return-value] # the one function that returns text
        if unloaded or not self._initialised:
            return UNINITIALIZED
        if name == "nvmlShutdown":
            self._initialised = False
            return SUCCESS
        try:
            gpu = _handle_target(self._node, name, arguments)
            forced = self._faults(name, gpu)
            return forced or answer(self._node, *arguments) or SUCCESS
        except Refused as refusal:
            return refusal.code

    def _outdated(self) -> bool:
        upgraded = self._node.control.driver == "mismatch"
        if not upgraded:
            self._stale = self._initialised
        return upgraded and self._stale

    def _device(self, name: str, about: Callable[..., int | None], arguments: tuple[Any, ...]) -> int:
        if self._node.control.driver == "unloaded" or not self._initialised:
            return UNINITIALIZED
        if self._outdated():
            return VERSION_MISMATCH
        try:
            gpu = _from_handle(self._node, arguments[0])
            if gpu.index in self._node.control.removed:
                return GPU_NOT_FOUND
            if code := self._faults(name, gpu):
                return code
            if code := _recorded_code(gpu, name, arguments[0]):
                return code
            if gpu.mig is not None and gpu.mig.devices is not None:
                return _in_mig_mode(gpu, gpu.mig.devices, name, about, arguments)
            code = about(gpu, *arguments[1:]) or SUCCESS
            if code == SUCCESS and name in gpu.wishes.values:
                overwrite(arguments[1:], gpu.wishes.values[name])
            return code
        except Refused as refusal:
            return refusal.code

    def _faults(self, name: str, gpu: SimulatedGpu | None) -> int:
        control = self._node.control
        if gpu is not None and gpu.index in control.hang:
            threading.Event().wait()  # for ever, as a wedged driver does
        if gpu is not None and gpu.index in control.crash:
            os.kill(os.getpid(), signal.SIGSEGV)
        if control.call_seconds is not None:
            # As a driver's call blocks.
            time.sleep(call_seconds(control, None if gpu is None else gpu.facts, name))  # noqa: TID251
        if code := self._forced(name, gpu):
            return code
        return GPU_IS_LOST if gpu is not None and gpu.index in control.lost else SUCCESS

    def _forced(self, name: str, gpu: SimulatedGpu | None) -> int:
        codes = self._node.control.returns.get(name) or self._node.control.returns.get("*", {})
        code = codes.get(str(gpu.index) if gpu is not None else "*", codes.get("*", SUCCESS))
        if code != SUCCESS and name in self._node.control.returns_after:
            key = (name, None if gpu is None else gpu.index)
            self._succeeded[key] = self._succeeded.get(key, -1) + 1
            return code if self._succeeded[key] >= self._node.control.returns_after[name] else SUCCESS
        return code


def _handle_target(node: NodeSim, name: str, arguments: tuple[Any, ...]) -> SimulatedGpu | None:
    """The GPU that a handle is asked for."""
    if name == "nvmlDeviceGetHandleByIndex_v2":
        index: int = arguments[0].value
        there = _there(node)
        if index >= len(there):
            raise Refused(INVALID_ARGUMENT)
        return there[index]
    wanted = {"nvmlDeviceGetHandleByUUID": "uuid", "nvmlDeviceGetHandleByPciBusId_v2": "pci_bus_id"}.get(name)
    if wanted is None:
        return None
    text: str = arguments[0].value.decode()
    for gpu in _there(node):
        known: str = getattr(gpu, wanted)
        if known == text:
            return gpu
    raise Refused(NOT_FOUND)


def _there(node: NodeSim) -> list[SimulatedGpu]:
    return [gpu for gpu in node.gpus if gpu.index not in node.control.removed]


def _from_handle(node: NodeSim, handle: Any) -> SimulatedGpu:
    handle = _number(handle)
    number = parent_of(handle)
    if not 0 < number <= len(node.gpus):
        raise Refused(INVALID_ARGUMENT)
    gpu = node.gpus[number - 1]
    if number != handle and (gpu.mig is None or gpu.mig.devices is None):
        raise Refused(INVALID_ARGUMENT)  # MIG mode was switched off
    return gpu


def _recorded_code(gpu: SimulatedGpu, name: str, handle: Any) -> int:
    """What the GPU was recorded to answer where it did not give a value. Its MIG devices speak for themselves."""
    if parent_of(_number(handle)) != _number(handle):
        return SUCCESS
    if name in gpu.facts.unsupported:
        return NOT_SUPPORTED
    return gpu.facts.calls[name].code if name in gpu.facts.calls else SUCCESS


def _number(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def _in_mig_mode(
    gpu: SimulatedGpu, devices: list[MigDevice], name: str, about: Callable[..., int | None], arguments: Any
) -> int:
    """What a GPU in MIG mode answers, or one of its MIG devices."""
    handle, *rest = arguments
    if parent_of(_number(handle)) == _number(handle):
        return NOT_SUPPORTED if name in mig.NOT_IN_MIG_MODE else about(gpu, *rest) or SUCCESS
    for device in devices:
        if device.handle == _number(handle):
            answer = _SLICE.get(name)
            return NOT_SUPPORTED if answer is None else answer(gpu, device, *rest) or SUCCESS
    raise Refused(NOT_FOUND)  # the instance was destroyed


def _give_handle(node: NodeSim, key: Any, out: Any, by: str) -> None:
    gpu = _handle_target(node, by, (key,))
    if gpu is None:
        raise Refused(NOT_FOUND)
    # A handle is an opaque pointer; ours is the index + 1, so that none is NULL.
    ctypes.cast(ctypes.pointer(out._obj), ctypes.POINTER(ctypes.c_void_p))[0] = gpu.index + 1


def _error_string(_node: NodeSim, code: Any) -> bytes:
    return f"simulated error {code}".encode()


_SYSTEM: dict[str, Callable[..., Any]] = {
    **gpm.SYSTEM,
    **mig.SYSTEM,
    **events.SYSTEM,
    "nvmlInitWithFlags": lambda _node, _flags: None,
    "nvmlShutdown": lambda _node: None,
    "nvmlErrorString": _error_string,
    "nvmlSystemGetDriverVersion": lambda node, out, _size: text(out, node.machine.driver_version),
    "nvmlSystemGetNVMLVersion": lambda node, out, _size: text(out, node.machine.nvml_version),
    "nvmlSystemGetCudaDriverVersion": lambda node, out: put(out, node.machine.cuda_driver_version),
    "nvmlSystemGetCudaDriverVersion_v2": lambda node, out: put(out, node.machine.cuda_driver_version),
    "nvmlDeviceGetCount_v2": lambda node, out: put(out, len(_there(node))),
    "nvmlDeviceGetHandleByIndex_v2": lambda node, key, out: _give_handle(
        node, key, out, "nvmlDeviceGetHandleByIndex_v2"
    ),
    "nvmlDeviceGetHandleByUUID": lambda node, key, out: _give_handle(node, key, out, "nvmlDeviceGetHandleByUUID"),
    "nvmlDeviceGetHandleByPciBusId_v2": lambda node, key, out: _give_handle(
        node, key, out, "nvmlDeviceGetHandleByPciBusId_v2"
    ),
}

_DEVICE: dict[str, Callable[..., int | None]] = {
    **identity.DEVICE,
    **load.DEVICE,
    **fields.DEVICE,
    **links.DEVICE,
    **health.DEVICE,
    **processes.DEVICE,
    **mig.DEVICE,
    **gpm.DEVICE,
    **events.DEVICE,
}

_SLICE: dict[str, Callable[..., int | None]] = {**mig.SLICE, **processes.SLICE}
