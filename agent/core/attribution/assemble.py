"""Everything that was read in, one `Attribution` out. Pure."""

from collections import Counter
from collections.abc import Mapping

from msgspec import Struct

from agent.core.attribution.checkpoint import Checkpoint
from agent.core.attribution.holders import (
    CHECKPOINT_DIFFERS,
    Holders,
    Matcher,
    differences,
    from_checkpoint,
    from_kubelet,
    offered,
    uids_by_devices,
)
from agent.core.attribution.podlogs import PodNames
from agent.core.attribution.podresources import ContainerDevices, Devices
from agent.core.attribution.resolve import SlotIndex
from agent.core.attribution.users import SeenProcess, processes_on_slots, slot_users
from agent.core.gpu_readings import GpuSnapshot
from agent.core.workloads import Attribution, Feature


class Told(Struct, frozen=True, kw_only=True):
    """What kubelet said, and when; an old answer may stand in while it is away."""

    at_ns: int
    given: tuple[ContainerDevices, ...]
    allocatable: tuple[Devices, ...] | None


class Seen(Struct, frozen=True, kw_only=True):
    """What files and /proc showed. `host_pids`: whether pids there are those that the driver means."""

    at_ns: int
    checkpoint: Checkpoint | None
    names: PodNames
    processes: Mapping[int, SeenProcess]
    host_pids: bool


def attribute(
    snapshot: GpuSnapshot, told: Told | None, seen: Seen, matcher: Matcher, features: tuple[Feature, ...]
) -> Attribution:
    """Holders by kubelet's word, else by its checkpoint; users by what /proc shows of the driver's pids."""
    index = SlotIndex(snapshot)
    holders = _holders(told, seen, index, matcher)
    holdings = tuple(holders.holdings)
    unresolved = Counter(holders.unresolved)
    # A pid of another pid namespace names a process here that has nothing to do with the GPU.
    visible = seen.processes if seen.host_pids else {}
    users, unknown = slot_users(snapshot, visible, seen.names, holdings)
    unresolved += unknown
    allocatable, replicas = _offered(told, seen.checkpoint, index, matcher)
    return Attribution(
        read_at_ns=seen.at_ns,
        holdings=holdings,
        users=users,
        replicas=replicas,
        allocatable=allocatable,
        holders_read_at_ns=told.at_ns if told else (seen.at_ns if seen.checkpoint else None),
        holders_known=told is not None or seen.checkpoint is not None,
        users_known=seen.host_pids and (not users or any(user.started_at_ns is not None for user in users)),
        unresolved=dict(unresolved),
        features=features,
    )


def _holders(told: Told | None, seen: Seen, index: SlotIndex, matcher: Matcher) -> Holders:
    if told is not None:
        uids = uids_by_devices(told.given, seen.checkpoint)
        found = from_kubelet(told.given, index, seen.names, matcher, uids)
        if seen.checkpoint is not None and (
            differing := differences(found.holdings, seen.checkpoint, seen.names, matcher)
        ):
            found.unresolved[CHECKPOINT_DIFFERS] = differing
        return found
    if seen.checkpoint is not None:
        return from_checkpoint(seen.checkpoint, index, seen.names, matcher)
    return Holders()


def _offered(
    told: Told | None, checkpoint: Checkpoint | None, index: SlotIndex, matcher: Matcher
) -> tuple[tuple[str, ...] | None, dict[str, int]]:
    """What could be handed out: kubelet's word, else what its checkpoint has as registered."""
    devices = told.allocatable if told is not None else None
    if devices is None and checkpoint is not None:
        devices = checkpoint.registered
    slots, replicas = offered(devices or (), index, matcher)
    # Devices of DRA are in neither list: an empty one does not say that no slot could be handed out.
    return slots or None, replicas


def pids_of(snapshot: GpuSnapshot) -> frozenset[int]:
    """Every pid that the driver names."""
    return frozenset(process.pid for _, process in processes_on_slots(snapshot))
