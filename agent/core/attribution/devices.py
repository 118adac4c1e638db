"""Device ids as device plugins hand them out in, what they name out: a GPU, a MIG device, one of its replicas. Pure."""

import re
from typing import Literal

from msgspec import Struct

DeviceKind = Literal["gpu", "mig", "mig_by_instance", "minor", "tegra"]

_UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_NUMBER = r"[0-9]{1,9}"
_REPLICA = rf"(?:::(?P<replica>{_NUMBER}))?"
_FORMS: tuple[tuple[DeviceKind, re.Pattern[str]], ...] = (
    ("mig_by_instance", re.compile(rf"MIG-(?P<uuid>GPU-{_UUID})/(?P<gi>{_NUMBER})/(?P<ci>{_NUMBER}){_REPLICA}")),
    ("mig", re.compile(rf"(?P<uuid>MIG-{_UUID}){_REPLICA}")),
    ("gpu", re.compile(rf"(?P<uuid>GPU-{_UUID}){_REPLICA}")),
    ("minor", re.compile(rf"nvidia(?P<minor>{_NUMBER})(?:/gi(?P<gi>{_NUMBER}))?(?:/vgpu(?P<replica>{_NUMBER}))?")),
    ("tegra", re.compile(rf"tegra{_REPLICA}")),
)


class DeviceId(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a device id names. `gpu` and `mig` by `uuid`; the others must be looked up among the GPUs that are there.

    mig_by_instance: `uuid` is the GPU's, with `gpu_instance` and `compute_instance` (drivers before 470).
    minor: GKE's plugin, by /dev/nvidia`minor`, with `gpu_instance` for a MIG device. tegra: the GPU of a Jetson.
    """

    kind: DeviceKind
    uuid: str = ""
    minor: int | None = None
    gpu_instance: int | None = None
    compute_instance: int | None = None
    replica: str | None = None  # time-slicing and MPS: which of the parts that the plugin offers


def parse_device_id(text: str) -> DeviceId | None:
    """The device that `text` names; None if no NVIDIA plugin is known to write ids so."""
    for kind, form in _FORMS:
        match = form.fullmatch(text)
        if match is None:
            continue
        found = match.groupdict()
        return DeviceId(
            kind=kind,
            uuid=found.get("uuid") or "",
            minor=_int(found.get("minor")),
            gpu_instance=_int(found.get("gi")),
            compute_instance=_int(found.get("ci")),
            replica=found.get("replica"),
        )
    return None


def _int(text: str | None) -> int | None:
    return None if text is None else int(text)
