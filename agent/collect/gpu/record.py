"""This node's GPUs in, a machine file for the simulator out: what `engineroom record gpu` keeps of a real machine.

Facts, and how each NVML call answered; who the machine is is left out: no serial numbers, no uuids, and PCI buses are
numbered anew. Run it once at rest and once under load, and merge the two with `under_load`.
"""

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pynvml

from agent.collect.gpu.calls import Calls, GpuUnavailable, Missed
from agent.collect.gpu.partition import partition
from agent.collect.gpu.probe import fields, probe
from agent.collect.gpu.raw import Choices
from agent.core.ports import ConfigError

FORMAT = 1
NOT_SUPPORTED = 3
Tell = Callable[[int, int, str], None]  # GPU, number of GPUs, function

_CLOCKS = {
    "graphics": pynvml.NVML_CLOCK_GRAPHICS,
    "sm": pynvml.NVML_CLOCK_SM,
    "memory": pynvml.NVML_CLOCK_MEM,
    "video": pynvml.NVML_CLOCK_VIDEO,
}
_BRANDS = {1: "Quadro", 2: "Tesla", 5: "GeForce", 6: "Titan", 12: "Quadro RTX", 13: "NVIDIA RTX", 14: "NVIDIA"}
_FIELDS = (82, 83, 185, 186, 193, 194)
_FIELD_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
_AVERAGE_POWER, _THROTTLE_TIME = 185, 74
_WHOLE_WATTS = 1000
_NVLINKS = 18


class Probe:
    """Asks one GPU and remembers what it refused for good."""

    def __init__(self, calls: Calls, handle: Any, key: str) -> None:
        self._calls, self.handle, self._key = calls, handle, key

    def ask(self, function: str, *arguments: Any) -> Any:
        """The answer, or None."""
        try:
            return self._calls.value(self._key, function, self.handle, *arguments)
        except (GpuUnavailable, Missed):
            return None

    def watts(self, function: str) -> float | None:
        """A power."""
        milliwatts = self.ask(function)
        return None if milliwatts is None else milliwatts / _WHOLE_WATTS

    def clocks(self, function: str) -> dict[str, int]:
        """MHz by domain."""
        found = {domain: self.ask(function, number) for domain, number in _CLOCKS.items()}
        return {domain: value for domain, value in found.items() if value is not None}

    def fields(self) -> dict[int, float]:
        """Those of `_FIELDS` that it has."""
        answers = self.ask("nvmlDeviceGetFieldValues", list(_FIELDS)) or ()
        return {a.fieldId: getattr(a.value, _FIELD_MEMBERS[a.valueType]) for a in answers if a.nvmlReturn == 0}


def record_machine(name: str = "recorded", tell: Tell = lambda _gpu, _of, _function: None) -> dict[str, Any]:
    """The node as it is now, in the format of the simulator's machine files (`assumed` is left out: it is not known).

    Raises `ConfigError` when there is no usable driver.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise ConfigError("GPUs", f"there is no usable NVIDIA driver on this machine: {error}") from error
    try:
        count = pynvml.nvmlDeviceGetCount()
        gpus = [_gpu(index, count, partial(tell, index, count)) for index in range(count)]
        driver = pynvml.nvmlSystemGetDriverVersion()
        found = {
            "format": FORMAT,
            "name": name,
            "source": f"recorded with engineroom, driver {driver}",
            "driver_version": driver,
            "cuda_driver_version": pynvml.nvmlSystemGetCudaDriverVersion(),
            "nvml_version": pynvml.nvmlSystemGetNVMLVersion(),
            "missing": _missing(),
            "gpus": gpus,
        }
    finally:
        pynvml.nvmlShutdown()
    return found


def under_load(at_rest: dict[str, Any], busy: dict[str, Any]) -> dict[str, Any]:
    """The first recording with the states of the second as its `load`. Raises ValueError if the machines differ."""
    if [gpu["model"] for gpu in at_rest["gpus"]] != [gpu["model"] for gpu in busy["gpus"]]:
        raise ValueError("the two recordings are not of the same machine: their GPU models differ")
    pairs = zip(at_rest["gpus"], busy["gpus"], strict=True)
    return {**at_rest, "gpus": [{**gpu, "load": other["idle"]} for gpu, other in pairs]}


def _missing() -> list[str]:
    """Functions that pynvml knows and this driver does not export."""
    bound = set(re.findall(r'_nvmlGetFunctionPointer\("(nvml\w+)"\)', inspect.getsource(pynvml)))
    return sorted(name for name in bound if getattr(pynvml.nvmlLib, name, None) is None)


def _gpu(index: int, count: int, tell: Callable[[str], None]) -> dict[str, Any]:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    gpu = Probe(Calls(), handle, str(index))
    number = pynvml.cast(handle, pynvml.c_void_p).value or 0
    mig = partition(gpu.ask)
    instances = [device["gpu_instance"] for device in (mig or {}).get("layout", ())]
    calls = probe(pynvml.nvmlLib, number, Choices(count, {}, _pids(gpu)), tell, *instances[:1])
    codes, _ = fields(pynvml.nvmlLib, number)
    found = {
        **_identity(gpu, index),
        **_limits(gpu),
        "idle": _state(gpu, gpu.fields()),
        "board": _board(gpu, codes),
        "mig": mig,
        "persistence_mode": None if gpu.ask("nvmlDeviceGetPersistenceMode") != 0 else False,
        "unsupported_fields": sorted(field for field, code in codes.items() if code),
        "unsupported": sorted(name for name, call in calls.items() if call.get("code") == NOT_SUPPORTED),
        "calls": calls,
    }
    return {key: value for key, value in found.items() if value is not None}


def _pids(gpu: Probe) -> list[int]:
    return [entry.pid for entry in gpu.ask("nvmlDeviceGetComputeRunningProcesses_v3") or ()][:1]


def _identity(gpu: Probe, index: int) -> dict[str, Any]:
    pci = gpu.ask("nvmlDeviceGetPciInfo")
    memory = gpu.ask("nvmlDeviceGetMemoryInfo_v2") or gpu.ask("nvmlDeviceGetMemoryInfo")
    return {
        "count": 1,
        "model": gpu.ask("nvmlDeviceGetName") or "unknown GPU",
        "brand": _BRANDS.get(gpu.ask("nvmlDeviceGetBrand"), ""),
        "pci_buses": [f"{index + 1:02X}"],
        "pci_device_id": "0x0" if pci is None else f"0x{pci.pciDeviceId:08X}",
        "architecture": gpu.ask("nvmlDeviceGetArchitecture"),
        "compute_capability": gpu.ask("nvmlDeviceGetCudaComputeCapability"),
        "vbios_version": gpu.ask("nvmlDeviceGetVbiosVersion"),
        "memory_total_bytes": 0 if memory is None else memory.total,
        "memory_reserved_bytes": getattr(memory, "reserved", 0),
        "memory_baseline_bytes": 0 if memory is None else memory.used,
        "clocks_max_megahertz": gpu.clocks("nvmlDeviceGetMaxClockInfo"),
    }


def _limits(gpu: Probe) -> dict[str, Any]:
    limits = gpu.ask("nvmlDeviceGetPowerManagementLimitConstraints") or (None, None)
    values = gpu.fields()
    threshold = "nvmlDeviceGetTemperatureThreshold"
    return {
        "power_limit_watts": gpu.watts("nvmlDeviceGetEnforcedPowerLimit"),
        "power_limit_default_watts": gpu.watts("nvmlDeviceGetPowerManagementDefaultLimit"),
        "power_limit_min_watts": None if limits[0] is None else limits[0] / _WHOLE_WATTS,
        "power_limit_max_watts": None if limits[1] is None else limits[1] / _WHOLE_WATTS,
        "slowdown_celsius": gpu.ask(threshold, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
        "shutdown_celsius": gpu.ask(threshold, pynvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN),
        "slowdown_margin_celsius": values.get(194),
        "shutdown_margin_celsius": values.get(193),
    }


def _board(gpu: Probe, codes: dict[int, int]) -> dict[str, Any]:
    bar1 = gpu.ask("nvmlDeviceGetBAR1MemoryInfo")
    ecc = gpu.ask("nvmlDeviceGetEccMode")
    banks = gpu.ask("nvmlDeviceGetRowRemapperHistogram")
    links = [gpu.ask("nvmlDeviceGetNvLinkState", link) for link in range(_NVLINKS)]
    found = {
        "pcie_generation": gpu.ask("nvmlDeviceGetMaxPcieLinkGeneration"),
        "pcie_width": gpu.ask("nvmlDeviceGetMaxPcieLinkWidth"),
        "nvlinks": sum(link is not None for link in links),
        "bar1_total_bytes": None if bar1 is None else bar1.bar1Total,
        "bar1_used_bytes": None if bar1 is None else bar1.bar1Used,
        "ecc": None if ecc is None else bool(ecc[0]),
        "row_remap_banks": None if banks is None else banks.max + banks.high + banks.partial + banks.low + banks.none,
        "retires_pages": gpu.ask("nvmlDeviceGetRetiredPagesPendingStatus") is not None,
        "cores": gpu.ask("nvmlDeviceGetNumGpuCores"),
        "throttle_counters": codes.get(_THROTTLE_TIME) == 0,
        "average_power": codes.get(_AVERAGE_POWER) == 0,
    }
    return {key: value for key, value in found.items() if value is not None}


def _state(gpu: Probe, values: dict[int, float]) -> dict[str, Any]:
    rates = gpu.ask("nvmlDeviceGetUtilizationRates")
    sensor = pynvml.NVML_TEMPERATURE_GPU
    celsius = gpu.ask("nvmlDeviceGetTemperatureV", sensor)
    encoder, decoder = (gpu.ask(f"nvmlDeviceGet{task}coderUtilization") for task in ("En", "De"))
    found = {
        "utilization_percent": None if rates is None else rates.gpu,
        "memory_utilization_percent": None if rates is None else rates.memory,
        "power_watts": gpu.watts("nvmlDeviceGetPowerUsage"),
        "temperature_celsius": gpu.ask("nvmlDeviceGetTemperature", sensor) if celsius is None else celsius,
        "memory_temperature_celsius": values.get(82),
        "temperature_margin_celsius": gpu.ask("nvmlDeviceGetMarginTemperature"),
        "clocks_megahertz": gpu.clocks("nvmlDeviceGetClockInfo"),
        "throttle_mask": gpu.ask("nvmlDeviceGetCurrentClocksEventReasons") or 0,
        "encoder_percent": encoder[0] if encoder else None,
        "decoder_percent": decoder[0] if decoder else None,
        "fan_percent": gpu.ask("nvmlDeviceGetFanSpeed"),
        "performance_state": gpu.ask("nvmlDeviceGetPerformanceState"),
        "pcie_generation": gpu.ask("nvmlDeviceGetCurrPcieLinkGeneration"),
    }
    return {key: value for key, value in found.items() if value is not None}
