"""Power limit, fan, memory temperature and the temperature at which the clocks are cut."""

from collections.abc import Mapping
from typing import Any

import pynvml

from agent.collect.gpu import sane
from agent.collect.gpu.parts.load import core_celsius, ratio
from agent.collect.gpu.parts.part import Asker, FieldKey, Fields, Moment, Tier

_LIMIT = FieldKey(190)
_LIMIT_OF_MODULE = FieldKey(190, 1)
_MEMORY_TEMPERATURE = FieldKey(82)
SHUTDOWN_MARGIN = FieldKey(193)
SLOWDOWN_MARGIN = FieldKey(194)  # T.limit at which the clocks are cut; the current margin minus it is what is left


class PowerLimit:
    """The limit in force. After `Power`."""

    tier: Tier = "slow"

    def __init__(self) -> None:
        self.fields: tuple[FieldKey, ...] = (_LIMIT,)

    def read(self, asker: Asker, fields: Fields, known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """Watts, of what the power is of."""
        module = known.get("power_scope") == "module"
        key = _LIMIT_OF_MODULE if module else _LIMIT
        limit = fields.get(key)
        self.fields = (key,)
        if limit is None and not module:
            limit = asker.first_of(("nvmlDeviceGetEnforcedPowerLimit",), ("nvmlDeviceGetPowerManagementLimit",))
        watts = sane.limit_watts(limit)
        return {} if watts is None else {"power_limit_watts": watts}


class Fan:
    """The speed that the first fan is told to have."""

    tier: Tier = "slow"
    fields: tuple[FieldKey, ...] = ()

    def read(self, asker: Asker, _fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """Ratio of its full speed."""
        percent = asker.ask("nvmlDeviceGetFanSpeed")
        speed = None if percent is None else ratio(asker, "nvmlDeviceGetFanSpeed", percent)
        return {} if speed is None else {"fan_speed_ratio": speed}


class MemoryTemperature:
    """Temperature of the memory."""

    tier: Tier = "slow"
    fields: tuple[FieldKey, ...] = (_MEMORY_TEMPERATURE,)

    def read(self, _asker: Asker, fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """°C."""
        celsius = sane.sensor_celsius(fields.get(_MEMORY_TEMPERATURE))
        return {} if celsius is None else {"memory_temperature_celsius": celsius}


class Slowdown:
    """Core temperature at which the clocks are cut.

    Since Ada the driver states margins instead: core temperature + margin left - margin at slowdown. The margin belongs
    to whichever sensor is nearest its limit, so the lowest result seen is the one to warn by.
    """

    tier: Tier = "rare"
    fields: tuple[FieldKey, ...] = (SLOWDOWN_MARGIN,)

    def __init__(self) -> None:
        self._lowest: float | None = None

    def read(self, asker: Asker, fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """°C."""
        threshold = asker.ask("nvmlDeviceGetTemperatureThreshold", pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
        found = sane.sensor_celsius(threshold)
        if found is None:
            found = self._from_margins(asker, fields)
        return {} if found is None else {"temperature_slowdown_celsius": found}

    def _from_margins(self, asker: Asker, fields: Fields) -> float | None:
        at_slowdown = sane.celsius(fields.get(SLOWDOWN_MARGIN))
        margin = None if at_slowdown is None else sane.celsius(asker.ask("nvmlDeviceGetMarginTemperature"))
        # Asked for together with the margin: the one in the reading may be some seconds older.
        celsius = None if margin is None else core_celsius(asker)
        if celsius is not None and margin is not None and at_slowdown is not None:
            found = celsius + margin - at_slowdown
            self._lowest = found if self._lowest is None else min(found, self._lowest)
        return self._lowest
