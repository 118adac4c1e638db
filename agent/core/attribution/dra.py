"""Device names of NVIDIA's DRA driver in, what they name out. Pure.

The driver's names are `gpu-<minor>`, `gpu-<minor>-mig-<profile>-<profile id>-<first memory slice>` and, for
pass-through, `gpu-vfio-<n>`. Dots of the profile are left out, as a device name may not hold them.
"""

import re

from msgspec import Struct

_DEVICE = re.compile(
    r"gpu-(?P<minor>[0-9]{1,9})(?:-mig-(?P<profile>[a-z0-9][a-z0-9-]*?)-(?P<id>[0-9]{1,9})-(?P<start>[0-9]{1,9}))?"
)
_VFIO = re.compile(r"gpu-vfio-[0-9]{1,9}")
_IN_CDI = re.compile(rf"k8s\.gpu\.nvidia\.com/[a-z]+=(?:.*-)?(?P<name>{_VFIO.pattern}|gpu-[0-9]+(?:-mig-[a-z0-9-]+)?)")


class DraDevice(Struct, frozen=True, kw_only=True):
    """A GPU by its minor number, or a MIG device on it by profile (as in the name) and first memory slice."""

    minor: int
    profile: str = ""
    placement_start: int | None = None


def parse_dra_device(name: str) -> DraDevice | None:
    """The device that `name` names; None for pass-through and for what the driver is not known to write."""
    match = _DEVICE.fullmatch(name)
    if match is None:
        return None
    start = match["start"]
    return DraDevice(
        minor=int(match["minor"]), profile=match["profile"] or "", placement_start=int(start) if start else None
    )


def is_passed_through(name: str) -> bool:
    """Whether the GPU was given to a virtual machine; NVML does not see it then."""
    return _VFIO.fullmatch(name) is not None


def name_in_cdi(cdi_name: str) -> str:
    """The device's name out of a CDI name, for kubelets that report nothing else (before 1.32); '' if it has none."""
    match = _IN_CDI.fullmatch(cdi_name)
    return match["name"] if match else ""


def profile_in_names(profile: str) -> str:
    """A MIG profile (`1g.10gb+me`) as it is written within a device's name (`1g10gb-me`)."""
    return re.sub(r"[^a-z0-9-]", "-", profile.lower().replace(".", "")).strip("-")
