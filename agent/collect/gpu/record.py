"""This node's GPUs in, a machine file for the simulator out: what `engineroom record` keeps of a real machine.

Facts only: no serial numbers, no uuids. Run it once at rest and once under load, and merge `load` by hand or with
`under_load`.
"""

from typing import Any

import pynvml

from agent.collect.gpu.calls import Calls, GpuUnavailable, Missed
from agent.core.ports import ConfigError

FORMAT = 1

_CLOCKS = {
    "graphics": pynvml.NVML_CLOCK_GRAPHICS,
    "sm": pynvml.NVML_CLOCK_SM,
    "memory": pynvml.NVML_CLOCK_MEM,
    "video": pynvml.NVML_CLOCK_VIDEO,
}
_FIELDS = (82, 83, 185, 186, 193, 194)
_FIELD_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
_WHOLE_WATTS = 1000


class _Probe:
    """Asks one GPU and remembers what it refused for good."""

    def __init__(self, calls: Calls, handle: Any, key: str) -> None:
        self._calls, self._handle, self._key = calls, handle, key

    def ask(self, function: str, *arguments: Any) -> Any:
        try:
            return self._calls.value(self._key, function, self._handle, *arguments)
        except (GpuUnavailable, Missed):
            return None

    def watts(self, function: str) -> float | None:
        milliwatts = self.ask(function)
        return None if milliwatts is None else milliwatts / _WHOLE_WATTS

    def clocks(self, function: str) -> dict[str, int]:
        found = {domain: self.ask(function, number) for domain, number in _CLOCKS.items()}
        return {domain: value for domain, value in found.items() if value is not None}

    def fields(self) -> dict[int, float]:
        answers = self.ask("nvmlDeviceGetFieldValues", list(_FIELDS)) or ()
        return {a.fieldId: getattr(a.value, _FIELD_MEMBERS[a.valueType]) for a in answers if a.nvmlReturn == 0}

    def unsupported(self) -> list[str]:
        return sorted(function for gpu, function in self._calls.unsupported if gpu == self._key)


def record_machine(name: str = "recorded") -> dict[str, Any]:
    """The node as it is now, in the format of the simulator's machine files (`assumed` is left out: it is not known).

    Raises `ConfigError` when there is no usable driver.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise ConfigError("GPUs", f"there is no usable NVIDIA driver on this machine: {error}") from error
    try:
        calls = Calls()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        gpus = [_gpu(_Probe(calls, handle, str(index))) for index, handle in enumerate(handles)]
        driver = pynvml.nvmlSystemGetDriverVersion()
        found = {
            "format": FORMAT,
            "name": name,
            "source": f"recorded with engineroom, driver {driver}",
            "driver_version": driver,
            "cuda_driver_version": pynvml.nvmlSystemGetCudaDriverVersion(),
            "nvml_version": pynvml.nvmlSystemGetNVMLVersion(),
            "missing": sorted(calls.missing),
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


def _gpu(probe: _Probe) -> dict[str, Any]:
    pci = probe.ask("nvmlDeviceGetPciInfo")
    memory = probe.ask("nvmlDeviceGetMemoryInfo_v2") or probe.ask("nvmlDeviceGetMemoryInfo")
    limits = probe.ask("nvmlDeviceGetPowerManagementLimitConstraints") or (None, None)
    fields = probe.fields()
    temperature = "nvmlDeviceGetTemperatureThreshold"
    found = {
        "count": 1,
        "model": probe.ask("nvmlDeviceGetName") or "unknown GPU",
        "pci_buses": [] if pci is None else [f"{pci.bus:02X}"],
        "pci_device_id": "0x0" if pci is None else f"0x{pci.pciDeviceId:08X}",
        "architecture": probe.ask("nvmlDeviceGetArchitecture"),
        "compute_capability": probe.ask("nvmlDeviceGetCudaComputeCapability"),
        "vbios_version": probe.ask("nvmlDeviceGetVbiosVersion"),
        "memory_total_bytes": 0 if memory is None else memory.total,
        "memory_reserved_bytes": getattr(memory, "reserved", 0),
        "memory_baseline_bytes": 0 if memory is None else memory.used,
        "power_limit_watts": probe.watts("nvmlDeviceGetEnforcedPowerLimit"),
        "power_limit_default_watts": probe.watts("nvmlDeviceGetPowerManagementDefaultLimit"),
        "power_limit_min_watts": None if limits[0] is None else limits[0] / _WHOLE_WATTS,
        "power_limit_max_watts": None if limits[1] is None else limits[1] / _WHOLE_WATTS,
        "idle": _state(probe, fields),
        "clocks_max_megahertz": probe.clocks("nvmlDeviceGetMaxClockInfo"),
        "slowdown_celsius": probe.ask(temperature, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
        "shutdown_celsius": probe.ask(temperature, pynvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN),
        "slowdown_margin_celsius": fields.get(194),
        "shutdown_margin_celsius": fields.get(193),
        "unsupported_fields": [number for number in _FIELDS if number not in fields],
    }
    probe.ask("nvmlDeviceGetFanSpeed")  # only for the list of what is not supported
    probe.ask("nvmlDeviceGetMigMode")
    return {**{key: value for key, value in found.items() if value is not None}, "unsupported": probe.unsupported()}


def _state(probe: _Probe, fields: dict[int, float]) -> dict[str, Any]:
    rates = probe.ask("nvmlDeviceGetUtilizationRates")
    sensor = pynvml.NVML_TEMPERATURE_GPU
    celsius = probe.ask("nvmlDeviceGetTemperatureV", sensor)
    found = {
        "utilization_percent": None if rates is None else rates.gpu,
        "memory_utilization_percent": None if rates is None else rates.memory,
        "power_watts": probe.watts("nvmlDeviceGetPowerUsage"),
        "temperature_celsius": probe.ask("nvmlDeviceGetTemperature", sensor) if celsius is None else celsius,
        "memory_temperature_celsius": fields.get(82),
        "temperature_margin_celsius": probe.ask("nvmlDeviceGetMarginTemperature"),
        "clocks_megahertz": probe.clocks("nvmlDeviceGetClockInfo"),
        "throttle_mask": probe.ask("nvmlDeviceGetCurrentClocksEventReasons") or 0,
    }
    return {key: value for key, value in found.items() if value is not None}
