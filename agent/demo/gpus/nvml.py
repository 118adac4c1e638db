"""A `NodeSim` in the place of libnvidia-ml.so.1: genuine pynvml marshals structs to and from these functions.

pynvml looks functions up by name in `pynvml.nvmlLib` and takes a missing attribute for a missing symbol. Arguments
arrive as ctypes objects; `byref(x)` carries its target in ``_obj``.
"""

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import pynvml

from agent.demo.gpus.model import NodeSim, SimulatedGpu

_SUCCESS = 0
_UNINITIALIZED = 1
_INVALID_ARGUMENT = 2
_NOT_SUPPORTED = 3
_NOT_FOUND = 6
_INSUFFICIENT_SIZE = 7
_DRIVER_NOT_LOADED = 9
_GPU_IS_LOST = 15

_CLOCK_NAMES = {0: "graphics", 1: "sm", 2: "memory", 3: "video"}
_TYPE_UNSIGNED_INT, _TYPE_UNSIGNED_LONG_LONG, _TYPE_SIGNED_INT = 1, 3, 5

Answer = Callable[..., int]


class _Refused(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.code = code


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
            return self._forced(name, None) or (_DRIVER_NOT_LOADED if unloaded else _SUCCESS)
        if name == "nvmlErrorString":
            return answer(self._node, *arguments)  # type: ignore[return-value] # the one function that returns text
        if unloaded or not self._initialised:
            return _UNINITIALIZED
        if name == "nvmlShutdown":
            self._initialised = False
            return _SUCCESS
        try:
            gpu = _handle_target(self._node, name, arguments)
            forced = self._faults(name, gpu)
            return forced or answer(self._node, *arguments) or _SUCCESS
        except _Refused as refusal:
            return refusal.code

    def _device(self, name: str, about: Callable[..., int | None], arguments: tuple[Any, ...]) -> int:
        if self._node.control.driver == "unloaded" or not self._initialised:
            return _UNINITIALIZED
        try:
            gpu = _from_handle(self._node, arguments[0])
            if code := self._faults(name, gpu):
                return code
            if name in gpu.facts.unsupported:
                return _NOT_SUPPORTED
            return about(gpu, *arguments[1:]) or _SUCCESS
        except _Refused as refusal:
            return refusal.code

    def _faults(self, name: str, gpu: SimulatedGpu | None) -> int:
        control = self._node.control
        if gpu is not None and gpu.index in control.hang:
            threading.Event().wait()  # for ever, as a wedged driver does
        if code := self._forced(name, gpu):
            return code
        return _GPU_IS_LOST if gpu is not None and gpu.index in control.lost else _SUCCESS

    def _forced(self, name: str, gpu: SimulatedGpu | None) -> int:
        codes = self._node.control.returns.get(name) or self._node.control.returns.get("*", {})
        return codes.get(str(gpu.index) if gpu is not None else "*", codes.get("*", _SUCCESS))


def _handle_target(node: NodeSim, name: str, arguments: tuple[Any, ...]) -> SimulatedGpu | None:
    """The GPU that a handle is asked for."""
    if name == "nvmlDeviceGetHandleByIndex_v2":
        index: int = arguments[0].value
        if index >= len(node.gpus):
            raise _Refused(_INVALID_ARGUMENT)
        return node.gpus[index]
    wanted = {"nvmlDeviceGetHandleByUUID": "uuid", "nvmlDeviceGetHandleByPciBusId_v2": "pci_bus_id"}.get(name)
    if wanted is None:
        return None
    text: str = arguments[0].value.decode()
    for gpu in node.gpus:
        known: str = getattr(gpu, wanted)
        if known == text:
            return gpu
    raise _Refused(_NOT_FOUND)


def _from_handle(node: NodeSim, handle: Any) -> SimulatedGpu:
    number = ctypes.cast(handle, ctypes.c_void_p).value or 0
    if not 0 < number <= len(node.gpus):
        raise _Refused(_INVALID_ARGUMENT)
    return node.gpus[number - 1]


def _give_handle(node: NodeSim, key: Any, out: Any, by: str) -> None:
    gpu = _handle_target(node, by, (key,))
    if gpu is None:
        raise _Refused(_NOT_FOUND)
    # A handle is an opaque pointer; ours is the index + 1, so that none is NULL.
    ctypes.cast(ctypes.pointer(out._obj), ctypes.POINTER(ctypes.c_void_p))[0] = gpu.index + 1


def _set(out: Any, value: float | None) -> int:
    if value is None:
        return _NOT_SUPPORTED
    out._obj.value = round(value)
    return _SUCCESS


def _text(buffer: Any, value: str | None) -> int:
    if value is None:
        return _NOT_SUPPORTED
    if len(buffer) <= len(value):
        return _INSUFFICIENT_SIZE
    buffer.value = value.encode()
    return _SUCCESS


def _fill(out: Any, **values: float) -> int:
    for name, value in values.items():
        setattr(out._obj, name, value)
    return _SUCCESS


def _memory(gpu: SimulatedGpu, out: Any) -> int:
    # The first version of the struct has no room for what the driver reserves and counts it as used.
    facts = gpu.facts
    used = gpu.memory_used_bytes + facts.memory_reserved_bytes
    return _fill(out, total=facts.memory_total_bytes, used=used, free=facts.memory_total_bytes - used)


def _memory_v2(gpu: SimulatedGpu, out: Any) -> int:
    if out._obj.version != pynvml.nvmlMemory_v2:
        return pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH  # type: ignore[no-any-return] # untyped library
    facts, used = gpu.facts, gpu.memory_used_bytes
    free = facts.memory_total_bytes - facts.memory_reserved_bytes - used
    return _fill(out, total=facts.memory_total_bytes, reserved=facts.memory_reserved_bytes, used=used, free=free)


def _utilization(gpu: SimulatedGpu, out: Any) -> int:
    return _fill(out, gpu=gpu.utilization_percent, memory=gpu.memory_utilization_percent)


def _pci(gpu: SimulatedGpu, out: Any) -> int:
    device = int(gpu.facts.pci_device_id, 16)
    return _fill(
        out,
        busId=gpu.pci_bus_id.encode(),  # type: ignore[arg-type] # char arrays take bytes
        busIdLegacy=gpu.pci_bus_id[4:].encode(),  # type: ignore[arg-type]
        domain=0,
        bus=int(gpu.pci_bus_id[9:11], 16),
        device=0,
        pciDeviceId=device,
    )


def _temperature_v(gpu: SimulatedGpu, out: Any) -> int:
    return _fill(out, temperature=round(gpu.core_celsius))


def _threshold(gpu: SimulatedGpu, which: Any, out: Any) -> int:
    known = {0: gpu.facts.shutdown_celsius, 1: gpu.facts.slowdown_celsius}
    return _set(out, known.get(which.value))


def _margin(gpu: SimulatedGpu, out: Any) -> int:
    margin = gpu.margin_celsius
    return _NOT_SUPPORTED if margin is None else _fill(out, marginTemperature=round(margin))


def _clock(gpu: SimulatedGpu, domain: Any, out: Any) -> int:
    return _set(out, gpu.clocks_megahertz.get(_CLOCK_NAMES.get(domain.value, "")))


def _max_clock(gpu: SimulatedGpu, domain: Any, out: Any) -> int:
    return _set(out, gpu.facts.clocks_max_megahertz.get(_CLOCK_NAMES.get(domain.value, "")))


def _milli(value: float | None) -> float | None:
    return None if value is None else value * 1000


def _limits(gpu: SimulatedGpu, lowest: Any, highest: Any) -> int:
    return _set(lowest, _milli(gpu.facts.power_limit_min_watts)) or _set(
        highest, _milli(gpu.facts.power_limit_max_watts)
    )


def _fields(gpu: SimulatedGpu, count: Any, out: Any) -> int:
    values = {
        82: (_TYPE_UNSIGNED_INT, gpu.memory_celsius),
        83: (_TYPE_UNSIGNED_LONG_LONG, gpu.energy_joules * 1000),
        185: (_TYPE_UNSIGNED_INT, gpu.power_watts * 1000),
        186: (_TYPE_UNSIGNED_INT, gpu.power_watts * 1000),
        193: (_TYPE_SIGNED_INT, gpu.facts.shutdown_margin_celsius),
        194: (_TYPE_SIGNED_INT, gpu.facts.slowdown_margin_celsius),
    }
    members = {_TYPE_UNSIGNED_INT: "uiVal", _TYPE_UNSIGNED_LONG_LONG: "ullVal", _TYPE_SIGNED_INT: "siVal"}
    for item in out._obj[: count.value]:
        kind, value = values.get(item.fieldId, (0, None))
        if value is None or item.fieldId in gpu.facts.unsupported_fields:
            item.nvmlReturn = _NOT_SUPPORTED
            continue
        item.nvmlReturn, item.valueType = _SUCCESS, kind
        setattr(item.value, members[kind], round(value))
    return _SUCCESS


def _processes(gpu: SimulatedGpu, count: Any, out: Any) -> int:
    room, count._obj.value = count._obj.value, len(gpu.processes)
    if room < len(gpu.processes):
        return _INSUFFICIENT_SIZE
    for slot, process in enumerate(gpu.processes):
        entry = out[slot]
        entry.pid, entry.usedGpuMemory = process.pid, process.memory_bytes
        entry.gpuInstanceId = entry.computeInstanceId = 0xFFFFFFFF
    return _SUCCESS


def _no_processes(_gpu: SimulatedGpu, count: Any, _out: Any) -> int:
    count._obj.value = 0
    return _SUCCESS


def _capability(gpu: SimulatedGpu, major: Any, minor: Any) -> int:
    known = gpu.facts.compute_capability
    return _NOT_SUPPORTED if known is None else _set(major, known[0]) or _set(minor, known[1])


def _zeros(*outs: Any) -> int:
    for out in outs:
        out._obj.value = 0
    return _SUCCESS


def _error_string(_node: NodeSim, code: Any) -> bytes:
    return f"simulated error {code}".encode()


_SYSTEM: dict[str, Callable[..., Any]] = {
    "nvmlInitWithFlags": lambda _node, _flags: None,
    "nvmlShutdown": lambda _node: None,
    "nvmlErrorString": _error_string,
    "nvmlSystemGetDriverVersion": lambda node, out, _size: _text(out, node.machine.driver_version),
    "nvmlSystemGetNVMLVersion": lambda node, out, _size: _text(out, node.machine.nvml_version),
    "nvmlSystemGetCudaDriverVersion": lambda node, out: _set(out, node.machine.cuda_driver_version),
    "nvmlSystemGetCudaDriverVersion_v2": lambda node, out: _set(out, node.machine.cuda_driver_version),
    "nvmlDeviceGetCount_v2": lambda node, out: _set(out, len(node.gpus)),
    "nvmlDeviceGetHandleByIndex_v2": lambda node, key, out: _give_handle(
        node, key, out, "nvmlDeviceGetHandleByIndex_v2"
    ),
    "nvmlDeviceGetHandleByUUID": lambda node, key, out: _give_handle(node, key, out, "nvmlDeviceGetHandleByUUID"),
    "nvmlDeviceGetHandleByPciBusId_v2": lambda node, key, out: _give_handle(
        node, key, out, "nvmlDeviceGetHandleByPciBusId_v2"
    ),
}

_DEVICE: dict[str, Callable[..., int | None]] = {
    "nvmlDeviceGetUUID": lambda gpu, out, _size: _text(out, gpu.uuid),
    "nvmlDeviceGetName": lambda gpu, out, _size: _text(out, gpu.facts.model),
    "nvmlDeviceGetVbiosVersion": lambda gpu, out, _size: _text(out, gpu.facts.vbios_version),
    "nvmlDeviceGetSerial": lambda gpu, out, _size: _text(out, f"{5130000000000 + gpu.index}"),
    "nvmlDeviceGetIndex": lambda gpu, out: _set(out, gpu.index),
    "nvmlDeviceGetMinorNumber": lambda gpu, out: _set(out, gpu.index),
    "nvmlDeviceGetArchitecture": lambda gpu, out: _set(out, gpu.facts.architecture),
    "nvmlDeviceGetCudaComputeCapability": _capability,
    "nvmlDeviceGetPciInfo_v3": _pci,
    "nvmlDeviceGetUtilizationRates": _utilization,
    "nvmlDeviceGetEncoderUtilization": lambda _gpu, *outs: _zeros(*outs),
    "nvmlDeviceGetDecoderUtilization": lambda _gpu, *outs: _zeros(*outs),
    "nvmlDeviceGetMemoryInfo": _memory,
    "nvmlDeviceGetMemoryInfo_v2": _memory_v2,
    "nvmlDeviceGetTemperature": lambda gpu, _sensor, out: _set(out, gpu.core_celsius),
    "nvmlDeviceGetTemperatureV": _temperature_v,
    "nvmlDeviceGetTemperatureThreshold": _threshold,
    "nvmlDeviceGetMarginTemperature": _margin,
    "nvmlDeviceGetPowerUsage": lambda gpu, out: _set(out, gpu.power_watts * 1000),
    "nvmlDeviceGetEnforcedPowerLimit": lambda gpu, out: _set(out, _milli(gpu.facts.power_limit_watts)),
    "nvmlDeviceGetPowerManagementLimit": lambda gpu, out: _set(out, _milli(gpu.facts.power_limit_watts)),
    "nvmlDeviceGetPowerManagementDefaultLimit": lambda gpu, out: _set(out, _milli(gpu.facts.power_limit_default_watts)),
    "nvmlDeviceGetPowerManagementLimitConstraints": _limits,
    "nvmlDeviceGetTotalEnergyConsumption": lambda gpu, out: _set(out, gpu.energy_joules * 1000),
    "nvmlDeviceGetClockInfo": _clock,
    "nvmlDeviceGetMaxClockInfo": _max_clock,
    "nvmlDeviceGetCurrentClocksEventReasons": lambda gpu, out: _set(out, gpu.throttle_mask),
    "nvmlDeviceGetCurrentClocksThrottleReasons": lambda gpu, out: _set(out, gpu.throttle_mask),
    "nvmlDeviceGetFieldValues": _fields,
    "nvmlDeviceGetPersistenceMode": lambda _gpu, out: _set(out, 1),
    "nvmlDeviceGetPerformanceState": lambda gpu, out: _set(out, 0 if gpu.load else 8),
    "nvmlDeviceGetFanSpeed": lambda _gpu, out: _set(out, 0),
    "nvmlDeviceGetMigMode": lambda _gpu, *outs: _zeros(*outs),
    "nvmlDeviceGetComputeRunningProcesses_v3": _processes,
    "nvmlDeviceGetGraphicsRunningProcesses_v3": _no_processes,
    "nvmlDeviceGetMPSComputeRunningProcesses_v3": _no_processes,
}
