"""Who pays for what nobody used: lines of what was booked, a policy and owners in; lines in which it is paid out.

Every amount moves by largest remainder, so the sum over all lines is the same under every policy: GPU time, money,
energy. What is spread goes down a tree of payers, one dimension of `ORDER` at a time, each level in proportion to GPU
time. So a share depends on the levels above it only: a report by tenant and model is, to the last unit, the sum of
one by tenant, model and GPU. A line has to tell its place down to the deepest dimension that is asked for, no deeper
(`dimensions_needed`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from agent.core.cost.money import split
from agent.core.cost.reports import SHARED_STATES, Dimension, IdlePolicy

ORDER: tuple[Dimension, ...] = (
    "tenant",
    "model",
    "state",
    "outcome",
    "engine",
    "group",
    "namespace",
    "pod",
    "gpu_model",
    "gpu",
    "slot",
    "reason",
)
"""Levels of the tree of payers. `waste` and `node` follow from `outcome` and from nothing."""

ACTIVE = ("request", "unattributed")
"""States of those who used a GPU: `model` and `node` share what is idle among them."""

Amounts = tuple[int, ...]
"""Of a line: GPU time first, requests second; then whatever else is to be summed."""


@dataclass(frozen=True, slots=True)
class Line:
    """What was booked under one set of names. `names` holds the dimensions that the question needs."""

    names: Mapping[str, str]
    amounts: Amounts


@dataclass(frozen=True, slots=True)
class Owner:
    """A tenant for whom slots are reserved: those for which everything that is given here matches; None: whatever.

    `gpus`: ids of GPUs or slots, or shell globs of them; () for all.
    """

    tenant: str
    gpus: tuple[str, ...] = ()
    engine: str | None = None
    model: str | None = None
    namespace: str | None = None

    def holds(self, names: Mapping[str, str]) -> bool:
        """Whether a line with these names is about a slot that is reserved for this tenant."""
        for value, dimension in ((self.engine, "engine"), (self.model, "model"), (self.namespace, "namespace")):
            if value is not None and names[dimension] != value:
                return False
        if not self.gpus:
            return True
        return any(fnmatchcase(names[which], glob) for glob in self.gpus for which in ("gpu", "slot"))


def dimensions_needed(asked: Iterable[Dimension], policy: IdlePolicy) -> tuple[Dimension, ...]:
    """What lines have to tell so that `allocate` gives the same answer as it would from the finest lines."""
    wanted: set[Dimension] = {dimension for dimension in asked if dimension != "node"}
    if "waste" in wanted:
        wanted = wanted - {"waste"} | {"outcome"}
    if policy == "none":
        return tuple(dimension for dimension in ORDER if dimension in wanted)
    if policy == "owner":
        wanted |= {"tenant", "state", "engine", "model", "namespace", "gpu", "slot"}
        return tuple(dimension for dimension in ORDER if dimension in wanted)
    if policy == "model" and wanted <= {"model"}:
        return ("model", "state")  # what a model's idle time costs stays with the model, whoever pays
    deepest = max((ORDER.index(dimension) for dimension in wanted), default=0)
    return ORDER[: max(deepest, ORDER.index("state")) + 1]


def allocate(lines: Sequence[Line], policy: IdlePolicy, owners: Sequence[Owner] = ()) -> list[Line]:
    """The lines of one step after those who have to have paid for `SHARED_STATES`; what nobody pays for stays."""
    if policy == "none":
        return list(lines)
    if policy == "owner":
        return [_owned(line, owners) for line in lines]
    kept: list[Line] = []
    pools: dict[str, list[Line]] = {}
    payers: dict[str, list[Line]] = {}
    for line in lines:
        key = line.names["model"] if policy == "model" else ""
        if line.names["state"] in SHARED_STATES:
            pools.setdefault(key, []).append(line)
        elif line.names["state"] == "request" or (policy != "even" and line.names["state"] in ACTIVE):
            payers.setdefault(key, []).append(line)
        else:
            kept.append(line)
    for key, idle in pools.items():
        group = payers.get(key, [])
        if (policy == "model" and not key) or not _can_pay(group, policy):
            kept += idle
        else:
            parts = _spread(_sum(idle), group, 0, even=policy == "even")
            payers[key] = [Line(line.names, _added(line.amounts, part)) for line, part in parts]
    for group in payers.values():
        kept += group
    return kept


def _can_pay(group: Sequence[Line], policy: IdlePolicy) -> bool:
    if policy == "even":
        return any(_weights(_children(group, "tenant"), even=True))
    return sum(line.amounts[0] for line in group) > 0


def _owned(line: Line, owners: Sequence[Owner]) -> Line:
    if line.names["state"] not in SHARED_STATES:
        return line
    owner = next((owner for owner in owners if owner.holds(line.names)), None)
    return line if owner is None else Line({**line.names, "tenant": owner.tenant}, line.amounts)


def _spread(amounts: Amounts, lines: list[Line], level: int, *, even: bool = False) -> list[tuple[Line, Amounts]]:
    """Each line with its part of `amounts`, level by level from `ORDER[level]` on."""
    if len(lines) == 1:
        return [(lines[0], amounts)]
    while level < len(ORDER) and ORDER[level] not in lines[0].names:
        level += 1
    if level == len(ORDER):  # several lines of the same names
        parts = _divided(amounts, _weights([[line] for line in lines], even=False))
        return list(zip(lines, parts, strict=True))
    children = _children(lines, ORDER[level])
    weights = _weights(children, even)
    shares = _divided(amounts, weights)
    found: list[tuple[Line, Amounts]] = []
    for child, weight, share in zip(children, weights, shares, strict=True):
        found += _spread(share, child, level + 1) if weight else [(line, (0,) * len(amounts)) for line in child]
    return found


def _children(lines: Iterable[Line], dimension: str) -> list[list[Line]]:
    """Lines by their value of one dimension, in the order of the values: equal questions get equal answers."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line.names[dimension], []).append(line)
    return [found[value] for value in sorted(found)]


def _weights(children: Sequence[Sequence[Line]], even: bool) -> list[int]:
    """GPU time of each group of lines. `even`: 1 for whoever sent a request."""
    times = [sum(line.amounts[0] for line in child) for child in children]
    counts = [sum(line.amounts[1] for line in child) for child in children]
    if even:
        return [int(time > 0 or count > 0) for time, count in zip(times, counts, strict=True)]
    weights = [max(0, time) for time in times]
    if any(weights):
        return weights
    return [max(0, count) for count in counts]


def _divided(amounts: Amounts, weights: Sequence[int]) -> list[Amounts]:
    """Each amount in proportion to the weights; what is below zero (a correction) is divided like its opposite."""
    nothing = [0] * len(weights)
    columns = [
        nothing if not amount else split(amount, weights) if amount > 0 else [-part for part in split(-amount, weights)]
        for amount in amounts
    ]
    return list(zip(*columns, strict=True))


def _sum(lines: Iterable[Line]) -> Amounts:
    return tuple(sum(column) for column in zip(*(line.amounts for line in lines), strict=True))


def _added(one: Amounts, other: Amounts) -> Amounts:
    return tuple(a + b for a, b in zip(one, other, strict=True))
