"""A `NodeSim` in the place of libnvidia-ml.so.1: genuine pynvml marshals structs to and from these functions.

pynvml looks functions up by name in `pynvml.nvmlLib` and takes a missing attribute for a missing symbol. Arguments
arrive as ctypes objects; `byref(x)` carries its target in ``_obj``.
"""

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import pynvml

from agent.demo.gpus.answers import fields, identity, load, mig, processes
from agent.demo.gpus.answers.outs import (
    DRIVER_NOT_LOADED,
    GPU_IS_LOST,
    INVALID_ARGUMENT,
    NOT_FOUND,
    NOT_SUPPORTED,
    SUCCESS,
    UNINITIALIZED,
    Refused,
    put,
    text,
)
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
        if name == "nvmlInitWithFlags":
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

    def _device(self, name: str, about: Callable[..., int | None], arguments: tuple[Any, ...]) -> int:
        if self._node.control.driver == "unloaded" or not self._initialised:
            return UNINITIALIZED
        try:
            gpu = _from_handle(self._node, arguments[0])
            if code := self._faults(name, gpu):
                return code
            if name in gpu.facts.unsupported:
                return NOT_SUPPORTED
            return about(gpu, *arguments[1:]) or SUCCESS
        except Refused as refusal:
            return refusal.code

    def _faults(self, name: str, gpu: SimulatedGpu | None) -> int:
        control = self._node.control
        if gpu is not None and gpu.index in control.hang:
            threading.Event().wait()  # for ever, as a wedged driver does
        if code := self._forced(name, gpu):
            return code
        return GPU_IS_LOST if gpu is not None and gpu.index in control.lost else SUCCESS

    def _forced(self, name: str, gpu: SimulatedGpu | None) -> int:
        codes = self._node.control.returns.get(name) or self._node.control.returns.get("*", {})
        return codes.get(str(gpu.index) if gpu is not None else "*", codes.get("*", SUCCESS))


def _handle_target(node: NodeSim, name: str, arguments: tuple[Any, ...]) -> SimulatedGpu | None:
    """The GPU that a handle is asked for."""
    if name == "nvmlDeviceGetHandleByIndex_v2":
        index: int = arguments[0].value
        if index >= len(node.gpus):
            raise Refused(INVALID_ARGUMENT)
        return node.gpus[index]
    wanted = {"nvmlDeviceGetHandleByUUID": "uuid", "nvmlDeviceGetHandleByPciBusId_v2": "pci_bus_id"}.get(name)
    if wanted is None:
        return None
    text: str = arguments[0].value.decode()
    for gpu in node.gpus:
        known: str = getattr(gpu, wanted)
        if known == text:
            return gpu
    raise Refused(NOT_FOUND)


def _from_handle(node: NodeSim, handle: Any) -> SimulatedGpu:
    number = ctypes.cast(handle, ctypes.c_void_p).value or 0
    if not 0 < number <= len(node.gpus):
        raise Refused(INVALID_ARGUMENT)
    return node.gpus[number - 1]


def _give_handle(node: NodeSim, key: Any, out: Any, by: str) -> None:
    gpu = _handle_target(node, by, (key,))
    if gpu is None:
        raise Refused(NOT_FOUND)
    # A handle is an opaque pointer; ours is the index + 1, so that none is NULL.
    ctypes.cast(ctypes.pointer(out._obj), ctypes.POINTER(ctypes.c_void_p))[0] = gpu.index + 1


def _error_string(_node: NodeSim, code: Any) -> bytes:
    return f"simulated error {code}".encode()


_SYSTEM: dict[str, Callable[..., Any]] = {
    "nvmlInitWithFlags": lambda _node, _flags: None,
    "nvmlShutdown": lambda _node: None,
    "nvmlErrorString": _error_string,
    "nvmlSystemGetDriverVersion": lambda node, out, _size: text(out, node.machine.driver_version),
    "nvmlSystemGetNVMLVersion": lambda node, out, _size: text(out, node.machine.nvml_version),
    "nvmlSystemGetCudaDriverVersion": lambda node, out: put(out, node.machine.cuda_driver_version),
    "nvmlSystemGetCudaDriverVersion_v2": lambda node, out: put(out, node.machine.cuda_driver_version),
    "nvmlDeviceGetCount_v2": lambda node, out: put(out, len(node.gpus)),
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
    **processes.DEVICE,
    **mig.DEVICE,
}
