"""What is said of the slots of a GPU: in which state each is and why, or which engines own it."""

from collections.abc import Sequence
from typing import NamedTuple

from agent.core.cost.reports import SlotReason, SlotState
from agent.core.workloads import Workload


class Owner(NamedTuple):
    """An engine that has a slot; `ready` when it can serve (then idle time is loaded_idle, else warmup).

    `group`: the same on every node of an engine that runs over several. `works`: whether that group shows work on this
    node; None for a server, of which its requests tell.
    """

    engine: str
    ready: bool
    group: str = ""
    works: bool | None = None


class SlotView(NamedTuple):
    """Either engines own the slot (`owners` in name order), or it is in `state` as a whole.

    `weight`: its part of the GPU, of the weights of all slots of that GPU at that instant.
    """

    slot: str
    weight: int
    state: SlotState | None
    reason: SlotReason = ""
    owners: tuple[Owner, ...] = ()
    holders: tuple[Workload, ...] = ()


class Claim(NamedTuple):
    """An engine that a slot may belong to: by the configuration, its process, or what its container was given."""

    owner: Owner
    configured: bool
    pids: frozenset[int]  # of the engine, on this slot


def why_owned(owners: Sequence[Owner], reason: SlotReason) -> SlotReason:
    """`reason`, unless all the slot does is to work for engines on other nodes."""
    if any(owner.works is None for owner in owners):
        return reason
    return "group_worker" if any(owner.works for owner in owners) else "group_idle"
