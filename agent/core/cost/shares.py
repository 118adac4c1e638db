"""One cell of time of one slot in; how its engines and requests share it, out. Integers that sum to the cell."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from agent.core.cost.money import split
from agent.core.cost.views import Owner


class Use(NamedTuple):
    """A part of a slot's time: a state of an engine, or (with its id) of one request."""

    state: str
    engine: str
    request_id: str = ""
    group: str = ""


def share_active(active_ns: int, in_flight_ns: Sequence[int], work_ns: Sequence[int] | None = None) -> list[int]:
    """Active time over requests: first each one's own work, then the rest by in-flight time. Sums exactly.

    `work_ns` (prefill and decode work by a roofline of the model) is scaled down when it exceeds the active time. With
    no model shape it is None: the equal share of the running batch.
    """
    if work_ns is None or not any(work_ns):
        return split(active_ns, in_flight_ns)
    worked = min(sum(work_ns), active_ns)
    first, rest = split(worked, work_ns), split(active_ns - worked, in_flight_ns)
    return [a + b for a, b in zip(first, rest, strict=True)]


def share_cell(
    length_ns: int,
    owners: Sequence[Owner],
    intervals: Mapping[str, Sequence[tuple[str, int, int]]],
    bypass_ns: Mapping[str, int],
) -> list[tuple[Use, int]]:
    """Split a cell of `length_ns` of a slot with `owners` into uses, in a fixed order; their times sum to it.

    `intervals`: engine -> (request id, start, end) inside the cell, each request once. `bypass_ns`: engine -> X.
    """
    uses: list[Use] = []
    weights: list[int] = []
    for owner in owners:
        for request_id, start, end in sorted(intervals.get(owner.engine, ())):
            uses.append(Use("request", owner.engine, request_id, owner.group))
            weights.append(end - start)
    union = merged((start, end) for owner in owners for _, start, end in intervals.get(owner.engine, ()))
    extra = 0
    for owner in owners:
        if x := bypass_ns.get(owner.engine, 0):
            uses.append(Use("unattributed", owner.engine, "", owner.group))
            weights.append(x)
            extra += x
    active = union + (length_ns - union) * min(extra, length_ns) // length_ns
    shares = share_active(active, weights) if active else []
    parts = [(use, ns) for use, ns in zip(uses, shares, strict=bool(active)) if ns]
    if active < length_ns:
        rests = split(length_ns - active, [1] * len(owners))
        parts += [
            (Use("loaded_idle" if owner.ready else "warmup", owner.engine, "", owner.group), ns)
            for owner, ns in zip(owners, rests, strict=True)
            if ns
        ]
    return parts


def merged(intervals: Iterable[tuple[int, int]]) -> int:
    """Length of the union of half-open intervals."""
    total = 0
    reached = None
    for start, end in sorted(intervals):
        if reached is None or start > reached:
            total += end - start
            reached = end
        elif end > reached:
            total += end - reached
            reached = end
    return total
