"""The device manager's file of kubelet in, devices by pod uid and container out. Pure.

`kubelet_internal_checkpoint` is private to kubelet: it serves as a cross-check and where kubelet itself does not
answer. Its checksum is a hash over Go's memory layout and is not checked; a torn file is no JSON, which is noticed.
"""

from typing import Any

import msgspec
from msgspec import Struct

from agent.core.attribution.podresources import Devices


class PodDevices(Struct, frozen=True, kw_only=True):
    """Devices of one resource that a container of a pod was given."""

    pod_uid: str
    container: str
    devices: Devices


class Checkpoint(Struct, frozen=True, kw_only=True):
    """What kubelet had given away and what it could give, when it wrote the file."""

    given: tuple[PodDevices, ...]
    registered: tuple[Devices, ...]


def parse_checkpoint(raw: bytes) -> Checkpoint:
    """The entries of the file. Raises ValueError where it is not what kubelet writes; odd entries are left out."""
    try:
        file = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    data = file.get("Data") if isinstance(file, dict) else None
    if not isinstance(data, dict):
        raise ValueError("no object Data in it")
    entries, registered = data.get("PodDeviceEntries"), data.get("RegisteredDevices")
    return Checkpoint(
        given=tuple(found for entry in _list(entries) if (found := _entry(entry)) is not None),
        registered=tuple(
            Devices(str(resource), _strings(ids))
            for resource, ids in (registered.items() if isinstance(registered, dict) else ())
        ),
    )


def _entry(entry: Any) -> PodDevices | None:
    if not isinstance(entry, dict):
        return None
    uid, container, resource = (entry.get(key) for key in ("PodUID", "ContainerName", "ResourceName"))
    if not (isinstance(uid, str) and isinstance(container, str) and isinstance(resource, str) and uid):
        return None
    ids = entry.get("DeviceIDs")
    # By NUMA node since kubelet 1.20, a plain list before.
    lists = ids.values() if isinstance(ids, dict) else [ids]
    return PodDevices(
        pod_uid=uid,
        container=container,
        devices=Devices(resource, tuple(one for part in lists for one in _strings(part))),
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(one for one in _list(value) if isinstance(one, str))
