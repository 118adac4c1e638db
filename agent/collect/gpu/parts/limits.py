"""Power limit, memory temperature and the temperature at which the clocks are cut."""

from collections.abc import Mapping
from typing import Any

import pynvml

from agent.collect.gpu.parts.part import Asker, FieldKey, Fields, Moment, Tier

_MEMORY_TEMPERATURE = FieldKey(82)
_SLOWDOWN_MARGIN = FieldKey(194)  # T.limit at which the clocks are cut; the current margin minus it is what is left


class PowerLimit:
    """The limit in force."""

    tier: Tier = "slow"
    fields: tuple[FieldKey, ...] = ()

    def read(self, asker: Asker, _fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """Watts."""
        limit = asker.first_of(("nvmlDeviceGetEnforcedPowerLimit",), ("nvmlDeviceGetPowerManagementLimit",))
        return {} if limit is None else {"power_limit_watts": limit / 1000}


class MemoryTemperature:
    """Temperature of the memory."""

    tier: Tier = "slow"
    fields: tuple[FieldKey, ...] = (_MEMORY_TEMPERATURE,)

    def read(self, _asker: Asker, fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """°C."""
        celsius = fields.get(_MEMORY_TEMPERATURE)
        return {} if celsius is None else {"memory_temperature_celsius": celsius}


class Slowdown:
    """Core temperature at which the clocks are cut.

    Since Ada the driver states margins instead: core temperature + margin left - margin at slowdown. The margin belongs
    to whichever sensor is nearest its limit, so the lowest result seen is the one to warn by.
    """

    tier: Tier = "slow"
    fields: tuple[FieldKey, ...] = (_SLOWDOWN_MARGIN,)

    def __init__(self) -> None:
        self._lowest: float | None = None

    def read(self, asker: Asker, fields: Fields, known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """°C."""
        threshold = asker.ask("nvmlDeviceGetTemperatureThreshold", pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
        found = float(threshold) if threshold is not None else self._from_margins(asker, fields, known)
        return {} if found is None else {"temperature_slowdown_celsius": found}

    def _from_margins(self, asker: Asker, fields: Fields, known: Mapping[str, Any]) -> float | None:
        celsius, at_slowdown = known.get("temperature_celsius"), fields.get(_SLOWDOWN_MARGIN)
        if celsius is not None and at_slowdown is not None:
            margin = asker.ask("nvmlDeviceGetMarginTemperature")
            if margin is not None:
                found = float(celsius + margin - at_slowdown)
                self._lowest = found if self._lowest is None else min(found, self._lowest)
        return self._lowest
