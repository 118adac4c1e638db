"""Readings, statuses and attributions in; the parts of them that decide about money, small enough to compare, out.

A slot is what is handed out: a GPU, or a MIG device with its compute slices out of those of its GPU as weight.
"""

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import lcm
from typing import Literal, NamedTuple

from agent.core.cost.reports import SlotReason, SlotState
from agent.core.gpu_readings import GpuProcess, GpuReading, GpuSnapshot, MigReading
from agent.core.readings import EngineState, EngineStatus
from agent.core.workloads import Attribution, Workload

MIG_SLICES = 7  # of a GPU that does not say how many compute slices it has
# What a driver keeps on a GPU or a MIG device with nobody on it: at most 59 MiB in the captures. A CUDA context takes
# more than 100 MiB.
BASELINE_BYTES = 64 << 20
# Part of the power limit. No idle GPU of the captures draws more than 0.16 of it, but for some seconds after a load.
BUSY_POWER_RATIO = 0.4
MPS_SERVER = "nvidia-cuda-mps"  # its name as the kernel cuts it; it holds a context for nobody in particular

# process, memory, power: somebody is on the slot, and what says so. none: nobody. no_memory: nobody has a context,
# though processes may be listed. unseen: nothing that could tell was reported.
Evidence = Literal["process", "memory", "power", "none", "no_memory", "unseen"]
IN_USE: tuple[Evidence, ...] = ("process", "memory", "power")
WHY_BROKEN: dict[str, SlotReason] = {"lost": "lost", "hung": "hung", "reset_required": "reset_required"}


Weights = tuple[tuple[int, ...], int]  # of the devices, and of the rest


class SlotSeen(NamedTuple):
    """A GPU or a MIG device. `weight`: its part of its GPU, of all slots' weights and the rest."""

    id: str
    weight: int
    pids: frozenset[int] | None
    evidence: Evidence
    profile: str = ""  # of a MIG device


class GpuSeen(NamedTuple):
    """The part of a `GpuReading` that decides about money. `state` is broken or gap, None when the GPU answers."""

    uuid: str
    number: int  # NVML's index
    state: SlotState | None
    reason: SlotReason
    slots: tuple[SlotSeen, ...]
    rest: int = 0  # weight of what no MIG device has


class EngineSeen(NamedTuple):
    """The part of an `EngineStatus` that decides about money."""

    state: EngineState
    pids: frozenset[int]
    gpus: frozenset[str]
    is_worker: bool = False  # nobody here is told its requests: another node knows them, or it is out of reach
    group: str = ""
    workload: Workload | None = None


class Place(NamedTuple):
    """What is known of who holds a slot and who uses it. `holders`: (number of the replica, workload), in order."""

    replicas: int = 1
    holders: tuple[tuple[int | None, Workload], ...] = ()
    users: tuple[tuple[int, Workload | None], ...] = ()  # (pid, workload)
    servers: frozenset[int] = frozenset()  # pids that serve others and use nothing themselves


class Held(NamedTuple):
    """Who holds what, of what is `offered`. `known` False: nobody says, so "not held" must not be concluded.

    `users_known` False: the pids of slots are not those of processes that we see.
    """

    known: bool
    places: dict[str, Place]
    offered: frozenset[str] | None
    users_known: bool = True


NO_PLACE = Place()
NOBODY_SAYS = Held(False, {}, None)


def seen_engine(status: EngineStatus) -> EngineSeen:
    """What counts of an engine's status."""
    pids, gpus = frozenset(status.pids), frozenset(status.gpus)
    untold = status.part == "worker" or not status.url
    return EngineSeen(status.state, pids, gpus, untold, status.group, status.workload)


def seen_gpus(snapshot: GpuSnapshot) -> tuple[GpuSeen, ...] | None:
    """What counts of a snapshot; None when the GPUs could not be watched."""
    if snapshot.driver == "ok":
        return tuple(map(_seen_gpu, snapshot.gpus))
    if snapshot.driver == "hung":
        return ()  # watched, and no GPU answers: broken, every one of them
    return None


def _seen_gpu(gpu: GpuReading) -> GpuSeen:
    if gpu.state != "ok":
        broken = WHY_BROKEN.get(gpu.state)
        return GpuSeen(gpu.uuid, gpu.index, "broken" if broken else "gap", broken or "error", ())
    if gpu.mig is None:
        used = None if gpu.memory_source == "system" else gpu.memory_used_bytes
        evidence = _evidence(gpu.processes, used, _draws_power(gpu))
        return GpuSeen(gpu.uuid, gpu.index, None, "", (SlotSeen(gpu.uuid, 1, _pids(gpu.processes), evidence),))
    nobody = gpu.processes == ()  # on the whole GPU: then neither on a device whose own list cannot be read
    devices = list({device.uuid: device for device in gpu.mig}.values())
    weights, rest = mig_weights(devices, gpu.mig_slices)
    slots = []
    for device, weight in zip(devices, weights, strict=True):
        processes = () if nobody and device.processes is None else device.processes
        evidence = _evidence(processes, device.memory_used_bytes, draws_power=False)
        slots.append(SlotSeen(device.uuid, weight, _pids(processes), evidence, device.profile))
    return GpuSeen(gpu.uuid, gpu.index, None, "", tuple(slots), rest)


def mig_weights(devices: Sequence[MigReading], mig_slices: int | None) -> Weights:
    """Weights of MIG devices and of what none of them has: compute slices, or a multiple so that they are whole.

    A device has its own compute slices; where they are not told, an equal part of those of its GPU instance.
    """
    told = [(one.gpu_instance, one.compute_slices, one.gpu_instance_slices, one.profile) for one in devices]
    return _weights(tuple(told), mig_slices)


@lru_cache(maxsize=256)  # a layout lasts for hours and is asked for every second
def _weights(told: tuple[tuple[int, int | None, int | None, str], ...], mig_slices: int | None) -> Weights:
    siblings = Counter(gpu_instance for gpu_instance, *_ in told)
    exact = [_slices(own, instance, profile, siblings[gi]) for gi, own, instance, profile in told]
    slices = mig_slices if mig_slices and mig_slices > 0 else MIG_SLICES
    rest = max(Fraction(), slices - sum(exact, Fraction()))
    scale = lcm(*(part.denominator for part in exact), rest.denominator)
    return tuple(int(part * scale) for part in exact), int(rest * scale)


_PROFILE = re.compile(r"(?:(\d+)c\.)?(\d+)g\.")


def _slices(own: int | None, instance: int | None, profile: str, siblings: int) -> Fraction:
    found = _PROFILE.match(profile)
    own_told, instance_told = (int(part or 0) for part in found.groups()) if found else (0, 0)
    own = max(own or own_told, 0)
    return Fraction(own) if own else Fraction(max(instance or instance_told, 1), siblings)


def _pids(processes: Sequence[GpuProcess] | None) -> frozenset[int] | None:
    return None if processes is None else frozenset(process.pid for process in processes)


def _evidence(processes: Sequence[GpuProcess] | None, memory_used: int | None, draws_power: bool) -> Evidence:
    """Utilisation alone is none: it trails behind, and without persistence it is what looking at the GPU makes."""
    if processes is not None:
        if not processes:
            return "none"
        return "no_memory" if all(process.memory_used_bytes == 0 for process in processes) else "process"
    if memory_used is not None:
        return "memory" if memory_used > BASELINE_BYTES else "no_memory"
    return "power" if draws_power else "unseen"


def _draws_power(gpu: GpuReading) -> bool:
    if not gpu.utilization_ratio or gpu.utilization_doubtful or not gpu.power_watts or not gpu.power_limit_watts:
        return False
    return gpu.power_watts >= BUSY_POWER_RATIO * gpu.power_limit_watts


def seen_workloads(attribution: Attribution) -> Held:
    """What counts of an attribution: the same one again compares equal, whenever it was read."""
    if not attribution.holders_known:
        return NOBODY_SAYS
    holders: dict[str, list[tuple[int | None, Workload]]] = {}
    users: dict[str, list[tuple[int, Workload | None]]] = {}
    servers: dict[str, set[int]] = {}
    for holding in attribution.holdings:
        number = holding.replica
        held = (int(number) if number is not None and number.isdecimal() else None, holding.workload)
        holders.setdefault(holding.slot, []).append(held)
    for user in attribution.users:
        users.setdefault(user.slot, []).append((user.pid, user.workload))
        if user.name.startswith(MPS_SERVER):
            servers.setdefault(user.slot, set()).add(user.pid)
    places = {
        slot: Place(
            attribution.replicas.get(slot, 1),
            tuple(sorted(holders.get(slot, ()), key=_order)),
            tuple(sorted(users.get(slot, ()), key=lambda user: user[0])),
            frozenset(servers.get(slot, ())),
        )
        for slot in {*holders, *users, *attribution.replicas}
    }
    offered = attribution.allocatable
    return Held(True, places, None if offered is None else frozenset(offered), attribution.users_known)


def _order(holder: tuple[int | None, Workload]) -> tuple[int, str, str, str, str]:
    number, workload = holder
    name = (workload.namespace, workload.pod, workload.container, workload.pod_uid or workload.job)
    return (-1 if number is None else number, *name)


def belongs(user: Workload | None, holder: Workload) -> bool | None:
    """Whether a process of workload `user` is the holder's; None when that cannot be told."""
    if user is None:
        return None
    if user.pod_uid and holder.pod_uid:
        same = user.pod_uid == holder.pod_uid
    elif user.pod and holder.pod:
        same = (user.namespace, user.pod) == (holder.namespace, holder.pod)
    elif user.pod_uid or user.pod:
        return None
    else:  # in no pod: a container or a job of its own, or neither
        own = user.container_id or user.job
        return bool(own) and own in (holder.container_id, holder.job)
    return same and (user.container == holder.container or not user.container or not holder.container)
