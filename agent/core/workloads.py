"""Who holds each GPU and who uses it: what kubelet, cgroups and processes told, as frozen values.

A *slot* is what is handed out: a GPU or a MIG device, by its uuid. *Holding* is being given a slot, by the scheduler;
*using* is having a process on it. Both are kept, because either happens without the other.
"""

from typing import Literal

from msgspec import Struct

# How a slot is divided: held by one alone; in equal parts by its replicas (time-slicing, MPS); or nobody has said.
SplitRule = Literal["whole", "equal"]
HoldingSource = Literal["pod_resources", "checkpoint"]


class Workload(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A container of a pod, a container without a pod, or a job of a batch system; '' where it is not known."""

    namespace: str = ""
    pod: str = ""
    container: str = ""
    pod_uid: str = ""
    container_id: str = ""
    job: str = ""  # Slurm's job id, or the name of a systemd unit


class Claim(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The DRA claim through which a slot is held."""

    name: str
    namespace: str
    driver: str = ""
    pool: str = ""
    device: str = ""


class Holding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A workload has been given a slot, or one of the `replicas` of a slot."""

    slot: str  # uuid of a GPU or of a MIG device
    workload: Workload
    resource: str  # nvidia.com/gpu, nvidia.com/mig-1g.10gb, ...; '' with DRA
    source: HoldingSource
    replica: str | None = None  # its number, where the slot is shared
    claim: Claim | None = None


class SlotUser(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A process on a slot. A pid may be on several; `started_at_ns` tells it from a later one of the same pid."""

    slot: str
    pid: int
    started_at_ns: int | None = None  # None: /proc does not show this process to us
    name: str = ""
    workload: Workload | None = None  # None: not known; an empty one: it runs in no container and no job


class Feature(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that needs a right, a mount or a version. `reason`: what is unknown without it, and what opens it."""

    name: str
    enabled: bool
    reason: str = ""
    expected: bool = True  # False: on a machine like this one it is no loss to be without


class Attribution(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Holders and users of all slots at one instant."""

    read_at_ns: int
    holdings: tuple[Holding, ...] = ()
    users: tuple[SlotUser, ...] = ()
    replicas: dict[str, int] = {}  # slot -> into how many the device plugin shares it; only shared ones
    allocatable: tuple[str, ...] | None = None  # slots that kubelet could hand out; None: no kubelet here says so
    holders_read_at_ns: int | None = None  # older than `read_at_ns` while kubelet is away
    holders_known: bool = False  # False: nobody says who holds what, so "not held" must not be concluded
    users_known: bool = False  # False: pids could not be told apart
    unresolved: dict[str, int] = {}  # why a holder or a process has no name -> how many
    features: tuple[Feature, ...] = ()
