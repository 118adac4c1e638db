"""What is said of the slots of a GPU: in which state each is and why, or which engines own it."""

from typing import NamedTuple

from agent.core.cost.reports import SlotReason, SlotState
from agent.core.workloads import Workload


class Owner(NamedTuple):
    """An engine that has a slot; `ready` when it can serve (then idle time is loaded_idle, else warmup)."""

    engine: str
    ready: bool


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
    """An engine that a slot may belong to: by the configuration, or because its process is there."""

    owner: Owner
    configured: bool
    pids: frozenset[int]  # of the engine, on this slot
