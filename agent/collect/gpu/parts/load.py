"""Utilisation, memory, temperature, power and clocks: what is cheap and changes every second."""

from collections.abc import Mapping
from typing import Any

import pynvml

from agent.collect.gpu.codes import throttle_words
from agent.collect.gpu.parts.part import Asker, FieldKey, Fields, Moment, Tier

_CLOCKS = {
    "graphics": pynvml.NVML_CLOCK_GRAPHICS,
    "sm": pynvml.NVML_CLOCK_SM,
    "memory": pynvml.NVML_CLOCK_MEM,
    "video": pynvml.NVML_CLOCK_VIDEO,
}


class Utilization:
    """How busy it was in the driver's last window."""

    tier: Tier = "fast"
    fields: tuple[FieldKey, ...] = ()

    def read(self, asker: Asker, _fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """Two ratios."""
        rates = asker.ask("nvmlDeviceGetUtilizationRates")
        if rates is None:
            return {}
        return {"utilization_ratio": rates.gpu / 100, "memory_utilization_ratio": rates.memory / 100}


class Memory:
    """Device memory."""

    tier: Tier = "fast"
    fields: tuple[FieldKey, ...] = ()

    def read(self, asker: Asker, _fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """Bytes used, free, reserved by the driver, in all."""
        # Version 1 counts what the driver reserves as used; it is only for drivers before 510.
        memory = asker.first_of(("nvmlDeviceGetMemoryInfo_v2",), ("nvmlDeviceGetMemoryInfo",))
        if memory is None:
            return {}
        return {
            "memory_used_bytes": memory.used,
            "memory_free_bytes": memory.free,
            "memory_total_bytes": memory.total,
            "memory_reserved_bytes": getattr(memory, "reserved", None),
        }


class Temperature:
    """Core temperature."""

    tier: Tier = "fast"
    fields: tuple[FieldKey, ...] = ()

    def read(self, asker: Asker, _fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """°C."""
        sensor = pynvml.NVML_TEMPERATURE_GPU
        celsius = asker.first_of(("nvmlDeviceGetTemperatureV", sensor), ("nvmlDeviceGetTemperature", sensor))
        return {} if celsius is None else {"temperature_celsius": float(celsius)}


class Clocks:
    """Clocks of all domains."""

    tier: Tier = "fast"
    fields: tuple[FieldKey, ...] = ()

    def read(self, asker: Asker, _fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """Hz by domain."""
        hertz = {}
        for domain, number in _CLOCKS.items():
            megahertz = asker.ask("nvmlDeviceGetClockInfo", number)
            if megahertz is not None:
                hertz[domain] = megahertz * 1e6
        return {"clocks_hertz": hertz} if hertz else {}


class Reasons:
    """Why the clocks are lower than they could be, at this instant."""

    tier: Tier = "fast"
    fields: tuple[FieldKey, ...] = ()

    def read(self, asker: Asker, _fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """The mask, and its bits as words."""
        mask = asker.first_of(
            ("nvmlDeviceGetCurrentClocksEventReasons",), ("nvmlDeviceGetCurrentClocksThrottleReasons",)
        )
        return {} if mask is None else {"throttle_mask": mask, "throttle_reasons": throttle_words(mask)}
