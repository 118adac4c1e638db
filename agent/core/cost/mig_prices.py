"""A price row and the slots of a GPU in MIG mode in; which part of the GPU's money each of them is, out.

Without fractions in the row money goes by time, that is by compute slices. With them a device has its fraction of the
GPU's price, what no device has gets the rest, and the sum is the GPU's bill all the same.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import lcm

from agent.core.cost.price_rows import PriceRow
from agent.core.cost.views import SlotView


def price_weights(row: PriceRow | None, views: Sequence[SlotView], profiles: Mapping[str, str]) -> list[int] | None:
    """Weights of the money of each of `views`; None: as their time.

    `profiles`: uuid of a device -> profile. A device of which the row says nothing counts by its compute slices.
    Fractions that add up to more than the GPU are scaled down to it; shares of a device have equal parts of its own.
    """
    if row is None or not row.mig or not profiles:
        return None
    whole = sum(view.weight for view in views)
    of_device: dict[str, int] = {}
    for view in views:
        device = view.slot.partition("::")[0]
        of_device[device] = of_device.get(device, 0) + view.weight
    parts: dict[str, Fraction] = {}
    for device, weight in of_device.items():
        if device in profiles:
            told = row.mig_weight(profiles[device])
            parts[device] = Fraction(weight, whole) if told is None else told
    rest = max(Fraction(), 1 - sum(parts.values(), Fraction()))
    weights = []
    for view in views:
        device = view.slot.partition("::")[0]
        weights.append(parts.get(device, rest) * Fraction(view.weight, of_device[device] or 1))
    if not any(weights):
        return None
    scale = lcm(*(weight.denominator for weight in weights))
    return [int(weight * scale) for weight in weights]
