"""A GPU's power, its holders and its users in, each workload's part of the power out. Pure.

The idle part goes by what was given away, the active part by who worked; the parts add up to the device's power, and
what nobody holds stands under an empty workload. Never is a device's whole power repeated for each pod on it.
"""

from collections.abc import Mapping
from typing import NamedTuple

from agent.core.attribution.shares import NOBODY, Share, Use, Who, normalised, sm_weights
from agent.core.gpu_readings import GpuReading, MigReading


class PowerPart(NamedTuple):
    """`mig`: uuid of the MIG device, '' for the GPU itself. `split` names the rule:

    whole (one workload has it all) · sm (idle part by allocation, active part by SM time) · sm_without_idle (idle power
    not known: all by SM time) · equal (active part in equal parts among users: SM time not known) · allocation (no
    user). In MIG mode before it, joined by ``+``: mig_activity or mig_slices, by which the GPU's power went to its
    devices.
    """

    mig: str
    who: Who
    watts: float
    split: str


class Slot(NamedTuple):
    """What is known of one slot."""

    shares: list[Share]
    used: dict[Who, Use]


def split_power(
    gpu: GpuReading, slots: Mapping[str, Slot], idle_watts: float | None, *, holders_known: bool
) -> list[PowerPart]:
    """Parts of the GPU's power that add up to it; none if it was not reported."""
    if gpu.power_watts is None or gpu.state != "ok":
        return []
    empty = Slot([], {})
    power = gpu.power_watts
    idle = None if idle_watts is None else min(idle_watts, power)
    if not gpu.mig:
        return _in_slot("", "", slots.get(gpu.uuid, empty), power, idle, holders_known=holders_known)
    sizes = _sizes(gpu.mig)
    whole = max(float(gpu.mig_slices or 0), sum(sizes.values()))
    active, rule = _mig_activity(gpu.mig, sizes, slots)
    floor = idle or 0.0
    parts: list[PowerPart] = []
    for mig in gpu.mig:
        slot_idle = floor * sizes[mig.uuid] / whole
        slot_power = slot_idle + (power - floor) * active[mig.uuid]
        known_idle = None if idle is None else slot_idle
        slot = slots.get(mig.uuid, empty)
        parts += _in_slot(mig.uuid, rule, slot, slot_power, known_idle, holders_known=holders_known)
    free = power - sum(part.watts for part in parts)
    if whole > sum(sizes.values()):
        parts.append(PowerPart("", NOBODY, free, rule))
    return parts


def _sizes(devices: tuple[MigReading, ...]) -> dict[str, float]:
    """Compute slices of each MIG device; one each where they are not reported."""
    known = all(mig.compute_slices or mig.gpu_instance_slices for mig in devices)
    return {mig.uuid: float(mig.compute_slices or mig.gpu_instance_slices or 1) if known else 1.0 for mig in devices}


def _mig_activity(
    devices: tuple[MigReading, ...], sizes: dict[str, float], slots: Mapping[str, Slot]
) -> tuple[dict[str, float], str]:
    """The parts (sum 1) of the active power by device: by activity times size, else by size of the devices in use."""
    ratios = {mig.uuid: mig.activity.sm_ratio if mig.activity else None for mig in devices}
    if all(ratio is not None for ratio in ratios.values()):
        weights = {uuid: (ratio or 0.0) * sizes[uuid] for uuid, ratio in ratios.items()}
        if (total := sum(weights.values())) > 0:
            return {uuid: weight / total for uuid, weight in weights.items()}, "mig_activity"
    used = {uuid for uuid in sizes if uuid in slots and slots[uuid].used} or set(sizes)
    total = sum(sizes[uuid] for uuid in used)
    return {uuid: sizes[uuid] / total if uuid in used else 0.0 for uuid in sizes}, "mig_slices"


def _in_slot(
    mig: str, rule: str, slot: Slot, power: float, idle: float | None, *, holders_known: bool
) -> list[PowerPart]:
    floor = idle or 0.0
    by_allocation = _allocation(slot, holders_known=holders_known)
    by_work = sm_weights(slot.used)
    if by_work is not None:
        split = "sm" if idle is not None else "sm_without_idle"
    elif slot.used:
        by_work, split = dict.fromkeys(slot.used, 1 / len(slot.used)), "equal"
    else:
        by_work, split = by_allocation, "allocation"
    watts = {
        one: floor * by_allocation.get(one, 0.0) + (power - floor) * by_work.get(one, 0.0)
        for one in by_allocation | by_work
    }
    watts = {one: part for one, part in watts.items() if part > 0} or {NOBODY: power}
    if len(watts) == 1:
        split = "whole"
    full = "+".join(filter(None, (rule, "" if rule and split == "whole" else split)))
    return [PowerPart(mig, one, part, full) for one, part in watts.items()]


def _allocation(slot: Slot, *, holders_known: bool) -> dict[Who, float]:
    """The parts (sum 1) of a slot by who was given it; where nobody says so, equal parts for those who use it."""
    if not holders_known:
        return dict.fromkeys(slot.used, 1 / len(slot.used)) if slot.used else {NOBODY: 1.0}
    if any(share.ratio is None for share in slot.shares):  # N is not known: its holders alone, in equal parts
        return normalised((share.who, 1 / len(slot.shares)) for share in slot.shares)
    return normalised((share.who, share.ratio or 0.0) for share in slot.shares)
