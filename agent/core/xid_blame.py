"""Who was hit by an error of a GPU: the error, the GPU and who was on it in, workloads out. Pure."""

from collections.abc import Iterable

from agent.core.gpu_readings import GpuReading, XidEvent
from agent.core.workloads import Attribution, Workload
from agent.core.xids import CONTAINED, fact

MOST_VICTIMS = 8


def slots_hit(event: XidEvent, gpu: GpuReading | None) -> tuple[str, ...]:
    """Uuids of what was hit: the MIG devices of the GPU instance that is named, else the GPU and all of its slices."""
    slices = (gpu.mig or ()) if gpu is not None else ()
    if event.gpu_instance is not None:
        named = [
            mig.uuid
            for mig in slices
            if mig.gpu_instance == event.gpu_instance and event.compute_instance in (None, mig.compute_instance)
        ]
        if named:
            return tuple(named)
    return (event.uuid, *(mig.uuid for mig in slices))


def victims(event: XidEvent, gpu: GpuReading | None, seen: Attribution | None) -> tuple[Workload, ...]:
    """Workloads that the error hit, the one of the process that is named first; at most `MOST_VICTIMS`.

    An application's error hits only that process. Errors of the device hit everybody who holds or uses it.
    """
    if seen is None:
        return ()
    slots = set(slots_hit(event, gpu))
    named = [user.workload for user in seen.users if event.pid is not None and user.pid == event.pid]
    culprits = list(_distinct(named))
    if culprits and (event.xid in CONTAINED or fact(event.xid).kind == "application"):
        return tuple(culprits[:MOST_VICTIMS])
    users = (user.workload for user in seen.users if user.slot in slots)
    holders = (holding.workload for holding in seen.holdings if holding.slot in slots)
    return tuple(_distinct([*culprits, *users, *holders]))[:MOST_VICTIMS]


def _distinct(found: Iterable[Workload | None]) -> Iterable[Workload]:
    """Each workload once, by its place; those without a name are left out."""
    places = set()
    for workload in found:
        if workload is None:
            continue
        place = (workload.namespace, workload.pod, workload.container, workload.job) + (
            () if workload.pod or workload.job else (workload.container_id,)
        )
        if any(place) and place not in places:
            places.add(place)
            yield workload
