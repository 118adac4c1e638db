"""GPU snapshots and whose the slots are in; the groups of engines that show work on this node out.

A worker of an engine that runs over several nodes knows nothing of requests: its GPUs tell whether the engine works. A
stage of a pipeline, or a rank that waits for the others, is at rest for less than `KEPT_NS` while its group works.
"""

from collections.abc import Collection, Iterable, Mapping

from agent.core.cost.seen import EngineSeen
from agent.core.cost.views import SlotView
from agent.core.gpu_readings import GpuProcess, GpuReading, GpuSnapshot

KEPT_NS = 10 * 1_000_000_000


class GroupWork:
    """When each group was last seen at work here."""

    def __init__(self) -> None:
        self._last_ns: dict[str, int] = {}

    def see(
        self,
        at_ns: int,
        snapshot: GpuSnapshot,
        views: Mapping[str, Iterable[SlotView]],
        engines: Mapping[str, EngineSeen],
    ) -> frozenset[str]:
        """The groups of workers of which any slot shows work in `snapshot`, or did in the last `KEPT_NS`.

        `views`: uuid of a GPU -> its slots. A worker without a group is a group of its own, under its name.
        """
        groups = {engine.group or name for name, engine in engines.items() if engine.is_worker}
        for gpu in snapshot.gpus:
            for view in views.get(gpu.uuid, ()):
                here = groups.intersection(owner.group or owner.engine for owner in view.owners)
                if here:
                    pids = frozenset[int]().union(*(engines[o.engine].pids for o in view.owners if o.engine in engines))
                    if shows_work(gpu, view.slot, pids):
                        self._last_ns.update(dict.fromkeys(here, at_ns))
        self._last_ns = {group: last for group, last in self._last_ns.items() if group in groups}
        return frozenset(group for group, last in self._last_ns.items() if at_ns - last < KEPT_NS)


def shows_work(gpu: GpuReading, slot: str, pids: Collection[int] = ()) -> bool:
    """Whether a slot of `gpu` did anything since the snapshot before. What is not reported may be work.

    Where others than the owners' `pids` are on it too, the driver's samples of processes decide, if there are any.
    """
    uuid = slot.partition("::")[0]
    device = next((one for one in gpu.mig or () if one.uuid == uuid), None)
    processes: tuple[GpuProcess, ...] | None = gpu.processes
    ratio = None if gpu.utilization_doubtful else gpu.utilization_ratio
    if device is not None:  # NVML tells no utilisation in MIG mode
        processes = device.processes
        ratio = device.activity.sm_ratio if device.activity else None
    listed = processes or ()
    sampled = any(one.sm_utilization_ratio is not None for one in listed)
    if sampled and pids and any(one.pid not in pids for one in listed):
        return any(one.sm_utilization_ratio for one in listed if one.pid in pids)
    return ratio is None or ratio > 0
