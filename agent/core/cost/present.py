"""The tariff and an instant in; each slot's state right now, its reason, its holder, and its stranded memory out."""

from collections.abc import Iterator, Sequence
from typing import Literal

from msgspec import Struct

from agent.core.cost.judging import unwatched
from agent.core.cost.money import split
from agent.core.cost.reports import SlotReason, SlotState
from agent.core.cost.tariff import Tariff
from agent.core.cost.views import Owner, SlotView
from agent.core.gpu_readings import GpuReading, MigReading
from agent.core.workloads import Workload

SlotKind = Literal["gpu", "mig", "share", "rest"]
# held_free: nobody else can have it, and who has the slot leaves it free. mig_unpartitioned: no MIG device has it.
StrandedCause = Literal["", "held_free", "mig_unpartitioned"]
NOBODYS: tuple[SlotState, ...] = ("unallocated", "broken", "gap")
LEAST_REST_BYTES = 1 << 30  # less than the smallest MIG device has: what the GPU instances need for themselves


class PresentSlot(Struct, frozen=True, kw_only=True):
    """One slot now. Its part of the GPU, in time, money and (of a share) memory, is `weight` / `weights`.

    Of compute instances that share one GPU instance, and of shares, memory is divided by weight, so that sums hold.
    A rest of weight 0 is memory that no MIG device has although all compute slices are given out (7 x 1g).
    """

    gpu: str  # uuid of the physical GPU
    index: int | None  # NVML's; None: the GPU is not listed now
    slot: str
    kind: SlotKind
    profile: str  # of a MIG device, else ''
    weight: int
    weights: int
    state: SlotState
    reason: SlotReason
    engines: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()  # of those of the engines that run over several nodes
    holders: tuple[Workload, ...] = ()
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    stranded_bytes: int | None = None  # None: nothing is stranded here, or it is not known how much
    stranded_cause: StrandedCause = ""
    simulated: bool = False


def present(tariff: Tariff, now_ns: int) -> tuple[PresentSlot, ...]:
    """All slots of all GPUs that have an account, in order of NVML's index; GPUs that are not listed come last."""
    period, _ = tariff.timeline.period_at(now_ns)
    snapshot = tariff.timeline.snapshot
    readings = {gpu.uuid: gpu for gpu in snapshot.gpus} if snapshot and snapshot.driver == "ok" else {}
    order = {uuid: place for place, uuid in enumerate(readings)}
    found: list[PresentSlot] = []
    for uuid in sorted(tariff.accounts, key=lambda uuid: (order.get(uuid, len(order)), uuid)):
        views = unwatched(uuid) if period is None else period.of(uuid)
        found += _of_gpu(tariff, uuid, views, readings.get(uuid))
    return tuple(found)


def _of_gpu(tariff: Tariff, uuid: str, views: tuple[SlotView, ...], gpu: GpuReading | None) -> Iterator[PresentSlot]:
    weights = sum(view.weight for view in views)
    if gpu is not None and gpu.mig and views[-1].slot != uuid:
        views = (*views, SlotView(uuid, 0, "unallocated", "mig_unpartitioned"))  # time is all given out, memory not
    profiles = {device.uuid: device.profile for device in gpu.mig or ()} if gpu else {}
    for view, (total, free) in zip(views, _memory(gpu, views), strict=True):
        if not view.weight and (free or 0) < LEAST_REST_BYTES:
            continue
        kind = _kind(view, uuid)
        state = view.state or _engine_state(tariff, view.owners)
        stranded = free if kind == "rest" or state not in NOBODYS else None
        yield PresentSlot(
            gpu=uuid,
            index=gpu.index if gpu else None,
            slot=view.slot,
            kind=kind,
            profile=profiles.get(view.slot.partition("::")[0], ""),
            weight=view.weight,
            weights=weights,
            state=state,
            reason=view.reason,
            engines=tuple([owner.engine for owner in view.owners]),
            groups=tuple(sorted({owner.group for owner in view.owners if owner.group})),
            holders=view.holders,
            memory_total_bytes=total,
            memory_free_bytes=free,
            stranded_bytes=stranded,
            stranded_cause="" if stranded is None else "mig_unpartitioned" if kind == "rest" else "held_free",
            simulated=gpu is not None and gpu.simulated,
        )


def _kind(view: SlotView, gpu: str) -> SlotKind:
    if view.reason == "mig_unpartitioned":
        return "rest"
    if "::" in view.slot:
        return "share"
    return "gpu" if view.slot == gpu else "mig"


def _engine_state(tariff: Tariff, owners: Sequence[Owner]) -> SlotState:
    """What is booked while it stays as it is; the bill itself is closed seconds later, when more is known."""
    counts = [tariff.running_of(owner.engine) for owner in owners]
    if any(proxied for proxied, _ in counts):
        return "request"
    if any(running for _, running in counts) or any(owner.works for owner in owners):
        return "unattributed"
    return "loaded_idle" if any(owner.ready for owner in owners) else "warmup"


Memory = tuple[int | None, int | None]  # total, free


def _memory(gpu: GpuReading | None, views: Sequence[SlotView]) -> list[Memory]:
    """Memory of each slot; on a GPU in MIG mode, that of the rest is what no GPU instance has."""
    unknown: Memory = (None, None)
    if gpu is None or gpu.state != "ok" or gpu.memory_source == "system":
        return [unknown] * len(views)
    whole = gpu.memory_total_bytes, gpu.memory_free_bytes
    if gpu.mig is None:
        return _divided(whole, [view.weight for view in views])
    parts: dict[str, list[SlotView]] = {}
    for view in views:
        parts.setdefault(view.slot.partition("::")[0], []).append(view)
    instances = _instances(gpu.mig)
    found: dict[str, Memory] = {
        gpu.uuid: (
            _less(whole[0], [devices[0].memory_total_bytes for devices in instances]),
            _less(whole[1], [devices[0].memory_free_bytes for devices in instances]),
        )
    }
    for devices in instances:
        inside = [view for device in devices for view in parts.get(device.uuid, ())]
        memory = devices[0].memory_total_bytes, devices[0].memory_free_bytes
        divided = _divided(memory, [view.weight for view in inside]) if inside else []
        found |= {view.slot: part for view, part in zip(inside, divided, strict=True)}
    return [found.get(view.slot, unknown) for view in views]


def _instances(mig: Sequence[MigReading]) -> list[list[MigReading]]:
    """MIG devices by their GPU instance: its memory is told with each of them."""
    found: dict[int, list[MigReading]] = {}
    for device in mig:
        found.setdefault(device.gpu_instance, []).append(device)
    return list(found.values())


def _divided(memory: Memory, weights: Sequence[int]) -> list[Memory]:
    totals, frees = ([None] * len(weights) if size is None else split(max(size, 0), weights) for size in memory)
    return list(zip(totals, frees, strict=True))


def _less(whole: int | None, parts: Sequence[int | None]) -> int | None:
    known = [part for part in parts if part is not None]
    if whole is None or len(known) < len(parts):
        return None
    return max(0, whole - sum(known))
