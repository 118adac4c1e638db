"""How long the clocks were held down, and by what."""

from collections.abc import Mapping
from typing import Any

from agent.collect.gpu import sane
from agent.collect.gpu.meters import NS, ThrottleMeter
from agent.collect.gpu.parts.part import Asker, FieldKey, Fields, Moment, Tier

# nvml.h: nanoseconds since the driver was loaded. 74 to 79 are the older "performance policies"; 269 to 271 came with
# driver 580 (for a short time, in 575, they had numbers that now mean something else: those are not asked for).
_COUNTERS = {
    "power": FieldKey(74),
    "thermal": FieldKey(75),
    "sync_boost": FieldKey(76),
    "board_limit": FieldKey(77),
    "low_util": FieldKey(78),
    "reliability": FieldKey(79),
    "sw_thermal": FieldKey(269),
    "hw_thermal": FieldKey(270),
    "power_brake": FieldKey(271),
}

# Counter -> word of `throttle_reasons` that it is the time of. `thermal` is software and hardware together and
# `low_util` is no throttling, so both are in `violation_ns` only.
REASON_OF = {
    "power": "sw_power_cap",
    "sync_boost": "sync_boost",
    "board_limit": "board_limit",
    "reliability": "reliability",
    "sw_thermal": "sw_thermal",
    "hw_thermal": "hw_thermal",
    "power_brake": "power_brake",
}


class Violations:
    """The driver's own counters."""

    tier: Tier = "slow"
    fields: tuple[FieldKey, ...] = tuple(_COUNTERS.values())

    def read(self, _asker: Asker, fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """Nanoseconds by kind."""
        counters = {kind: sane.count(fields.get(key)) for kind, key in _COUNTERS.items()}
        found = {kind: value for kind, value in counters.items() if value is not None}
        return {"violation_ns": found} if found else {}


class ThrottleTime:
    """Time by reason: the driver's counter, else for how long it was seen active. After `Reasons`, `Violations`."""

    tier: Tier = "fast"
    fields: tuple[FieldKey, ...] = ()

    def __init__(self, max_gap_ns: int) -> None:
        self._meter = ThrottleMeter(max_gap_ns)

    def read(self, _asker: Asker, _fields: Fields, known: Mapping[str, Any], now: Moment) -> dict[str, Any]:
        """Seconds by reason."""
        reasons, counters = known.get("throttle_reasons"), known.get("violation_ns") or {}
        counted = {word: counters[kind] / NS for kind, word in REASON_OF.items() if kind in counters}
        self._meter.add(now.boot_ns, reasons, counted)
        return {} if reasons is None and not counted else {"throttle_seconds": dict(self._meter.seconds)}
