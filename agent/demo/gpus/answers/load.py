"""Load, memory, temperature, power and clocks of a simulated GPU."""

from collections.abc import Callable
from typing import Any

import pynvml

from agent.demo.gpus.answers import load_fields
from agent.demo.gpus.answers.outs import ARGUMENT_VERSION_MISMATCH, NOT_SUPPORTED, fill, milli, put
from agent.demo.gpus.machine import Recorded
from agent.demo.gpus.model import SimulatedGpu

_CLOCK_NAMES = {0: "graphics", 1: "sm", 2: "memory", 3: "video"}


def _memory(gpu: SimulatedGpu, out: Any) -> int:
    # The first version of the struct has no room for what the driver reserves and counts it as used.
    facts = gpu.facts
    if gpu.wishes.memory_shared:
        return NOT_SUPPORTED
    used = gpu.memory_used_bytes + facts.memory_reserved_bytes
    return fill(out, total=facts.memory_total_bytes, used=used, free=facts.memory_total_bytes - used)


def _memory_v2(gpu: SimulatedGpu, out: Any) -> int:
    if out._obj.version != pynvml.nvmlMemory_v2:
        return ARGUMENT_VERSION_MISMATCH
    if gpu.wishes.memory_shared:
        return NOT_SUPPORTED
    facts, used = gpu.facts, gpu.memory_used_bytes
    free = facts.memory_total_bytes - facts.memory_reserved_bytes - used
    return fill(out, total=facts.memory_total_bytes, reserved=facts.memory_reserved_bytes, used=used, free=free)


def _utilization(gpu: SimulatedGpu, out: Any) -> int:
    return fill(out, gpu=gpu.utilization_percent, memory=gpu.memory_utilization_percent)


def _temperature_v(gpu: SimulatedGpu, out: Any) -> int:
    return fill(out, temperature=round(gpu.core_celsius))


def _threshold(gpu: SimulatedGpu, which: Any, out: Any) -> int:
    known = {0: gpu.facts.shutdown_celsius, 1: gpu.facts.slowdown_celsius}
    return put(out, known.get(which.value))


def _margin(gpu: SimulatedGpu, out: Any) -> int:
    margin = gpu.margin_celsius
    return NOT_SUPPORTED if margin is None else fill(out, marginTemperature=round(margin))


def _clock(gpu: SimulatedGpu, domain: Any, out: Any) -> int:
    return put(out, gpu.clocks_megahertz.get(_CLOCK_NAMES.get(domain.value, "")))


def _max_clock(gpu: SimulatedGpu, domain: Any, out: Any) -> int:
    return put(out, gpu.facts.clocks_max_megahertz.get(_CLOCK_NAMES.get(domain.value, "")))


def _limits(gpu: SimulatedGpu, lowest: Any, highest: Any) -> int:
    return put(lowest, milli(gpu.facts.power_limit_min_watts)) or put(highest, milli(gpu.facts.power_limit_max_watts))


_WINDOW_MICROSECONDS = 167_000  # over which the driver averages; one that was seen


def _at(gpu: SimulatedGpu) -> Recorded:
    return gpu.recorded or gpu.facts.idle


def _engine(outs: tuple[Any, ...], percent: int) -> int:
    return put(outs[0], percent) or put(outs[1], _WINDOW_MICROSECONDS)


def _state(gpu: SimulatedGpu) -> int:
    recorded = _at(gpu).performance_state
    return (0 if gpu.load else 8) if recorded is None else recorded


DEVICE: dict[str, Callable[..., int | None]] = {
    "nvmlDeviceGetUtilizationRates": _utilization,
    "nvmlDeviceGetEncoderUtilization": lambda gpu, *outs: _engine(
        outs, gpu.wishes.encoder_percent or _at(gpu).encoder_percent
    ),
    "nvmlDeviceGetDecoderUtilization": lambda gpu, *outs: _engine(
        outs, gpu.wishes.decoder_percent or _at(gpu).decoder_percent
    ),
    "nvmlDeviceGetJpgUtilization": lambda gpu, *outs: _engine(outs, gpu.wishes.jpeg_percent),
    "nvmlDeviceGetOfaUtilization": lambda gpu, *outs: _engine(outs, gpu.wishes.ofa_percent),
    "nvmlDeviceGetMemoryInfo": _memory,
    "nvmlDeviceGetMemoryInfo_v2": _memory_v2,
    "nvmlDeviceGetTemperature": lambda gpu, _sensor, out: put(out, gpu.core_celsius),
    "nvmlDeviceGetTemperatureV": _temperature_v,
    "nvmlDeviceGetTemperatureThreshold": _threshold,
    "nvmlDeviceGetMarginTemperature": _margin,
    "nvmlDeviceGetPowerUsage": lambda gpu, out: put(out, load_fields.power(gpu, 0)),
    "nvmlDeviceGetEnforcedPowerLimit": lambda gpu, out: put(out, milli(gpu.facts.power_limit_watts)),
    "nvmlDeviceGetPowerManagementLimit": lambda gpu, out: put(out, milli(gpu.facts.power_limit_watts)),
    "nvmlDeviceGetPowerManagementDefaultLimit": lambda gpu, out: put(out, milli(gpu.facts.power_limit_default_watts)),
    "nvmlDeviceGetPowerManagementLimitConstraints": _limits,
    "nvmlDeviceGetTotalEnergyConsumption": lambda gpu, out: put(out, load_fields.energy(gpu, 0)),
    "nvmlDeviceGetClockInfo": _clock,
    "nvmlDeviceGetMaxClockInfo": _max_clock,
    "nvmlDeviceGetCurrentClocksEventReasons": lambda gpu, out: put(out, gpu.throttle_mask),
    "nvmlDeviceGetCurrentClocksThrottleReasons": lambda gpu, out: put(out, gpu.throttle_mask),
    "nvmlDeviceGetPerformanceState": lambda gpu, out: put(out, _state(gpu)),
    "nvmlDeviceGetFanSpeed": lambda gpu, out: put(out, _at(gpu).fan_percent),
}
