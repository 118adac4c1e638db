"""What kubelet or its checkpoint says of given devices in, holdings of slots out. Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from agent.core.attribution.checkpoint import Checkpoint
from agent.core.attribution.devices import parse_device_id
from agent.core.attribution.dra import is_passed_through, parse_dra_device
from agent.core.attribution.podlogs import PodNames
from agent.core.attribution.podresources import ClaimedDevice, ContainerDevices, Devices
from agent.core.attribution.resolve import SlotIndex
from agent.core.workloads import Claim, Holding, HoldingSource, Workload

FINISHED = "finished_pod"
PASSED_THROUGH = "passed_through"
NO_POD_NAME = "pod_name_unknown"
CHECKPOINT_DIFFERS = "checkpoint_differs"


class Matcher:
    """Which resources and DRA drivers are about GPUs: the regular expressions of the configuration."""

    def __init__(self, resources: str = r"^nvidia\.com/", drivers: str = r"^gpu\.nvidia\.com$") -> None:
        self._resources = re.compile(resources)
        self._drivers = re.compile(drivers)

    def resource(self, name: str) -> bool:
        return self._resources.search(name) is not None

    def driver(self, name: str) -> bool:
        return self._drivers.search(name) is not None


@dataclass(slots=True)
class Holders:
    """Who holds what, and what could not be told."""

    holdings: list[Holding] = field(default_factory=list)
    unresolved: Counter[str] = field(default_factory=Counter)


def from_kubelet(
    containers: Iterable[ContainerDevices], index: SlotIndex, names: PodNames, matcher: Matcher, uids: Mapping[str, str]
) -> Holders:
    """Holdings by kubelet's own answer. `uids`: from `uids_by_devices`, for pods without a log folder."""
    found = Holders()
    for given in containers:
        devices = [one for one in given.devices if matcher.resource(one.resource)]
        claimed = [one for one in given.claimed if matcher.driver(one.driver)]
        if not devices and not claimed:
            continue
        if names.by_uid and not names.has_pod(given.namespace, given.pod):
            found.unresolved[FINISHED] += 1  # older kubelets go on listing pods that have ended
            continue
        known = names.uids(given.namespace, given.pod)
        workload = Workload(
            namespace=given.namespace,
            pod=given.pod,
            container=given.container,
            pod_uid=known[0] if len(known) == 1 else uids.get(_pod_key(given), ""),
        )
        for one in devices:
            _add_devices(found, one, workload, "pod_resources", index)
        for device in claimed:
            _add_claimed(found, device, workload, index)
    return found


def from_checkpoint(checkpoint: Checkpoint, index: SlotIndex, names: PodNames, matcher: Matcher) -> Holders:
    """Holdings by kubelet's file; pods have names only where their log folders can be seen."""
    found = Holders()
    for given in checkpoint.given:
        if not matcher.resource(given.devices.resource):
            continue
        pod = names.by_uid.get(given.pod_uid)
        if pod is None and names.by_uid:
            found.unresolved[FINISHED] += 1
            continue
        if pod is None:
            found.unresolved[NO_POD_NAME] += 1
        workload = replace(pod or Workload(pod_uid=given.pod_uid), container=given.container)
        _add_devices(found, given.devices, workload, "checkpoint", index)
    return found


def _add_devices(found: Holders, devices: Devices, workload: Workload, source: HoldingSource, index: SlotIndex) -> None:
    for text in devices.ids:
        device = parse_device_id(text)
        slot = index.of_device(device)
        if slot.reason:
            found.unresolved[slot.reason] += 1
        if slot.uuid and device is not None:
            found.holdings.append(
                Holding(
                    slot=slot.uuid,
                    workload=workload,
                    resource=devices.resource,
                    source=source,
                    replica=device.replica,
                )
            )


def _add_claimed(found: Holders, claimed: ClaimedDevice, workload: Workload, index: SlotIndex) -> None:
    if is_passed_through(claimed.device):
        found.unresolved[PASSED_THROUGH] += 1
        return
    slot = index.of_dra(parse_dra_device(claimed.device))
    if slot.reason:
        found.unresolved[slot.reason] += 1
    if slot.uuid:
        claim = Claim(
            name=claimed.claim,
            namespace=claimed.claim_namespace,
            driver=claimed.driver,
            pool=claimed.pool,
            device=claimed.device,
        )
        found.holdings.append(
            Holding(slot=slot.uuid, workload=workload, resource="", source="pod_resources", claim=claim)
        )


def offered(devices: Iterable[Devices], index: SlotIndex, matcher: Matcher) -> tuple[tuple[str, ...], dict[str, int]]:
    """The slots that could be handed out, and into how many replicas each shared one is divided.

    Of a slot that two resources offer (a renamed one beside the old one) the larger division counts.
    """
    slots: dict[str, None] = {}
    replicas: dict[tuple[str, str], set[str]] = {}
    for one in devices:
        if not matcher.resource(one.resource):
            continue
        for text in one.ids:
            device = parse_device_id(text)
            slot = index.of_device(device)
            if slot.uuid and device is not None:
                slots[slot.uuid] = None
                if device.replica is not None:
                    replicas.setdefault((slot.uuid, one.resource), set()).add(device.replica)
    counts: dict[str, int] = {}
    for (uuid, _), names in replicas.items():
        counts[uuid] = max(counts.get(uuid, 0), len(names))
    return tuple(slots), counts


def _pod_key(given: ContainerDevices) -> str:
    return f"{given.namespace}/{given.pod}"


def uids_by_devices(containers: Iterable[ContainerDevices], checkpoint: Checkpoint | None) -> dict[str, str]:
    """`namespace/pod` -> uid, where kubelet's answer and its file name the same container and the very same devices."""
    if checkpoint is None:
        return {}
    by_devices: dict[tuple[str, str, frozenset[str]], set[str]] = {}
    for entry in checkpoint.given:
        key = (entry.container, entry.devices.resource, frozenset(entry.devices.ids))
        by_devices.setdefault(key, set()).add(entry.pod_uid)
    found: dict[str, str] = {}
    for given in containers:
        together: dict[str, set[str]] = {}
        for devices in given.devices:
            together.setdefault(devices.resource, set()).update(devices.ids)
        for resource, ids in together.items():
            uids = by_devices.get((given.container, resource, frozenset(ids)), set())
            if len(uids) == 1:
                found[_pod_key(given)] = next(iter(uids))
    return found


def differences(holdings: Iterable[Holding], checkpoint: Checkpoint, names: PodNames, matcher: Matcher) -> int:
    """In how many device ids kubelet's file contradicts its answer; entries of pods that have ended do not count."""
    said: Counter[tuple[str, str]] = Counter()
    for holding in holdings:
        if holding.workload.pod_uid and holding.claim is None:
            said[holding.workload.pod_uid, holding.resource] += 1
    written: Counter[tuple[str, str]] = Counter()
    for entry in checkpoint.given:
        if matcher.resource(entry.devices.resource) and entry.pod_uid in names.by_uid:
            ids = [one for one in entry.devices.ids if parse_device_id(one) is not None]
            written[entry.pod_uid, entry.devices.resource] += len(ids)
    return sum(abs(said[key] - written[key]) for key in said.keys() | written.keys() if key[0] in names.by_uid)
