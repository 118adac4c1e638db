"""Power and energy, and how long the clocks were held down."""

from collections.abc import Mapping
from typing import Any

from agent.collect.gpu.meters import EnergyMeter, ThrottleMeter
from agent.collect.gpu.parts.part import Asker, FieldKey, Fields, Moment, Tier

_ENERGY_MILLIJOULES = FieldKey(83)


class Power:
    """Power drawn."""

    tier: Tier = "fast"
    fields: tuple[FieldKey, ...] = ()

    def read(self, asker: Asker, _fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """Watts."""
        milliwatts = asker.ask("nvmlDeviceGetPowerUsage")
        return {} if milliwatts is None else {"power_watts": milliwatts / 1000}


class Energy:
    """Joules, from the counter while it can be believed. After `Power`."""

    tier: Tier = "fast"
    fields: tuple[FieldKey, ...] = (_ENERGY_MILLIJOULES,)

    def __init__(self, max_gap_ns: int) -> None:
        self._meter = EnergyMeter(max_gap_ns)

    def read(self, asker: Asker, fields: Fields, known: Mapping[str, Any], now: Moment) -> dict[str, Any]:
        """Joules and where they come from."""
        millijoules = fields.get(_ENERGY_MILLIJOULES)
        if millijoules is None and "nvmlDeviceGetFieldValues" in asker.calls.missing:
            millijoules = asker.ask("nvmlDeviceGetTotalEnergyConsumption")
        counter = None if millijoules is None else millijoules / 1000
        joules, source = self._meter.read(now.boot_ns, known.get("power_watts"), counter)
        return {} if joules is None else {"energy_joules": joules, "energy_source": source}


class ThrottleTime:
    """Time for which each reason was seen active. After `Reasons`."""

    tier: Tier = "fast"
    fields: tuple[FieldKey, ...] = ()

    def __init__(self, max_gap_ns: int) -> None:
        self._meter = ThrottleMeter(max_gap_ns)

    def read(self, _asker: Asker, _fields: Fields, known: Mapping[str, Any], now: Moment) -> dict[str, Any]:
        """Seconds by reason."""
        reasons = known.get("throttle_reasons")
        self._meter.add(now.boot_ns, reasons)
        return {} if reasons is None else {"throttle_seconds": dict(self._meter.seconds)}
