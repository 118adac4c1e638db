"""What /proc shows of the processes on GPUs and the names of pods in, users of slots out. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping

from msgspec import Struct
from msgspec.structs import replace

from agent.core.attribution.podlogs import PodNames
from agent.core.gpu_readings import GpuProcess, GpuSnapshot
from agent.core.workloads import Holding, SlotUser, Workload

NOT_VISIBLE = "process_not_visible"
NO_POD_NAME = "pod_name_unknown"
NO_CONTAINER_NAME = "container_name_unknown"


class SeenProcess(Struct, frozen=True, kw_only=True):
    """A process as /proc shows it. `place` holds ids only; None: its cgroup does not say where it belongs."""

    started_at_ns: int
    name: str
    place: Workload | None


REUSED_AFTER_NS = 1_000_000_000  # a start so much later than the list that named the pid is another process's


def processes_on_slots(snapshot: GpuSnapshot) -> Iterator[tuple[str, GpuProcess]]:
    """Every process on every slot, once: on a GPU in MIG mode those of its MIG devices stand before the GPU's own."""
    for gpu in snapshot.gpus:
        seen: set[int] = set()
        for mig in gpu.mig or ():
            for process in mig.processes or ():
                seen.add(process.pid)
                yield mig.uuid, process
        for process in gpu.processes or ():
            if process.pid not in seen:
                yield gpu.uuid, process


def slot_users(
    snapshot: GpuSnapshot, seen: Mapping[int, SeenProcess], names: PodNames, holdings: tuple[Holding, ...]
) -> tuple[tuple[SlotUser, ...], Counter[str]]:
    """Users of all slots, each with the workload it belongs to where that is known; and why others have none."""
    users, unresolved = [], Counter[str]()
    held: dict[tuple[str, str], set[Workload]] = {}
    for one in holdings:
        held.setdefault((one.slot, one.workload.pod_uid), set()).add(one.workload)
    by_uid = {one.workload.pod_uid: one.workload for one in holdings if one.workload.pod_uid}
    listed_at = _listed_at(snapshot)
    for slot, process in processes_on_slots(snapshot):
        known = seen.get(process.pid)
        if known is None or known.started_at_ns > listed_at[slot] + REUSED_AFTER_NS:
            unresolved[NOT_VISIBLE] += 1
            users.append(SlotUser(slot=slot, pid=process.pid))
            continue
        workload = None
        if known.place is not None:
            holders = held.get((slot, known.place.pod_uid), set())
            workload = _named(known.place, names, by_uid.get(known.place.pod_uid), holders, unresolved)
        users.append(
            SlotUser(
                slot=slot,
                pid=process.pid,
                started_at_ns=known.started_at_ns,
                name=known.name,
                workload=workload,
            )
        )
    return tuple(users), unresolved


def _listed_at(snapshot: GpuSnapshot) -> dict[str, int]:
    """Slot -> when its list of processes was read."""
    found = {}
    for gpu in snapshot.gpus:
        at = gpu.processes_read_at_ns or gpu.read_at_ns
        found[gpu.uuid] = at
        found.update((mig.uuid, at) for mig in gpu.mig or ())
    return found


def _named(
    place: Workload, names: PodNames, pod: Workload | None, holders: set[Workload], unresolved: Counter[str]
) -> Workload:
    """The ids of `place` with the names that belong to them. `holders`: containers of its pod that hold its slot."""
    by_id = names.by_container_id.get(place.container_id) if place.container_id else None
    if by_id is not None:
        uids = names.uids(by_id.namespace, by_id.pod)
        uid = place.pod_uid or (uids[0] if len(uids) == 1 else "")
        return replace(by_id, pod_uid=uid, job=place.job)
    if not place.pod_uid:
        return place
    pod = names.by_uid.get(place.pod_uid, pod)
    if pod is None:
        unresolved[NO_POD_NAME] += 1
        return place
    # A container that was not given the device has no way to it, so the one that was is where its process runs.
    candidates = {one.container for one in holders} or set(names.containers.get(place.pod_uid, ()))
    container = next(iter(candidates)) if len(candidates) == 1 else ""
    if not container:
        unresolved[NO_CONTAINER_NAME] += 1
    return replace(place, namespace=pod.namespace, pod=pod.pod, container=container)
