"""Power and energy, of the GPU or of the module of which it is a part."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from agent.collect.gpu import sane
from agent.collect.gpu.meters import EnergyMeter
from agent.collect.gpu.parts.part import FIELD_VALUES, Asker, FieldKey, Fields, Moment, Tier

_MODULE = 1  # nvml.h, NVML_POWER_SCOPE_MODULE: GPU, CPU and memory together (Grace Hopper)
_AVERAGE, _INSTANT = 185, 186
_ENERGY = FieldKey(83)
_ENERGY_OF_MODULE = FieldKey(191, _MODULE)
# Over one second, as nvidia-smi and DCGM show it; newer than Volta, not on A100 and A30. Then that of the instant.
_OF_GPU = (FieldKey(_AVERAGE), FieldKey(_INSTANT))
_OF_MODULE = (FieldKey(_AVERAGE, _MODULE), FieldKey(_INSTANT, _MODULE))
AVERAGE_MOST_MICROSECONDS = 1000  # one driver took 3.3 ms for the average and 3 us for the instant
STRIKES = 3  # in a row; one long answer may have been bad luck


class _Found(NamedTuple):
    milliwatts: float
    scope: str
    key: FieldKey | None  # None: from the call


class Power:
    """Power drawn: all sources are asked once, then the best that has answered, until it no longer does."""

    tier: Tier = "fast"

    def __init__(self) -> None:
        self.fields: tuple[FieldKey, ...] = (*_OF_GPU, *_OF_MODULE)
        self._strikes = 0

    def read(self, asker: Asker, fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """Watts, and of what."""
        found = self._find(asker, fields)
        if found is None:
            self.fields = (*_OF_GPU, *_OF_MODULE)
            return {}
        self.fields = self._next(asker, found.key)
        watts = sane.watts(found.milliwatts)
        if watts is None:
            asker.odd("power: not a power")
            return {}
        return {"power_watts": watts, "power_scope": found.scope}

    def _find(self, asker: Asker, fields: Fields) -> _Found | None:
        for key in self._ordered(_OF_GPU):
            if key in fields:
                return _Found(fields[key], "gpu", key)
        milliwatts = asker.ask("nvmlDeviceGetPowerUsage")
        if milliwatts is not None:
            return _Found(milliwatts, "gpu", None)
        for key in self._ordered(_OF_MODULE):
            if key in fields:
                return _Found(fields[key], "module", key)
        return None

    def _ordered(self, keys: tuple[FieldKey, FieldKey]) -> tuple[FieldKey, ...]:
        return keys[::-1] if self._strikes >= STRIKES else keys

    def _next(self, asker: Asker, key: FieldKey | None) -> tuple[FieldKey, ...]:
        """What to ask for the next time: the same, unless it is the average and this driver takes long for it."""
        if key is None:
            return ()
        instant = FieldKey(_INSTANT, key.scope)
        if key.number == _AVERAGE and instant not in asker.refused:
            slow = asker.microseconds.get(key, 0) > AVERAGE_MOST_MICROSECONDS
            self._strikes = self._strikes + 1 if slow else 0
            if self._strikes >= STRIKES:
                return (instant,)
        return (key,)


class Energy:
    """Joules, from the counter while it can be believed. After `Power`."""

    tier: Tier = "fast"

    def __init__(self, max_gap_ns: int) -> None:
        self.fields: tuple[FieldKey, ...] = (_ENERGY, _ENERGY_OF_MODULE)
        self._meter = EnergyMeter(max_gap_ns)

    def read(self, asker: Asker, fields: Fields, known: Mapping[str, Any], now: Moment) -> dict[str, Any]:
        """Joules and where they come from. Takes a power of 0 back that the counter contradicts."""
        key = _ENERGY_OF_MODULE if known.get("power_scope") == "module" else _ENERGY
        millijoules = fields.get(key)
        if "power_scope" in known:
            self.fields = (key,)
        if millijoules is None and asker.calls.knows_not(asker.gpu, FIELD_VALUES):
            millijoules = asker.ask("nvmlDeviceGetTotalEnergyConsumption")
        millijoules = sane.count(millijoules)
        joules = None if millijoules is None else millijoules / 1000
        watts = known.get("power_watts")
        found: dict[str, Any] = {}
        if watts == 0 and self._meter.grows(joules):
            asker.odd("power: 0 although the energy counter grows")
            found, watts = {"power_watts": None}, None
        total, source = self._meter.read(now.boot_ns, watts, joules)
        return found if total is None else {**found, "energy_joules": total, "energy_source": source}
