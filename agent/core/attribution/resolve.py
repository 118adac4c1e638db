"""The GPUs that are there and a device id in, the uuid of the slot out, or why there is none. Pure."""

from msgspec import Struct

from agent.core.attribution.devices import DeviceId
from agent.core.attribution.dra import DraDevice, profile_in_names
from agent.core.gpu_readings import GpuReading, GpuSnapshot, MigReading

UNKNOWN_DEVICE = "unknown_device_id"
NOT_SEEN = "slot_not_seen"
NO_MINOR = "minor_number_unknown"
AMBIGUOUS = "mig_device_ambiguous"


class Slot(Struct, frozen=True):
    """The slot of a device id, or '' and why. `reason` may stand beside a uuid: NVML does not show that slot."""

    uuid: str
    reason: str = ""


class SlotIndex:
    """Looks slots up among the GPUs of one snapshot."""

    def __init__(self, snapshot: GpuSnapshot) -> None:
        self._gpus = {gpu.uuid: gpu for gpu in snapshot.gpus}
        self._by_minor = {
            gpu.details.minor_number: gpu
            for gpu in snapshot.gpus
            if gpu.details is not None and gpu.details.minor_number is not None
        }
        self._minors_complete = len(self._by_minor) == len(self._gpus)
        self._slots = set(self._gpus) | {mig.uuid for gpu in snapshot.gpus for mig in gpu.mig or ()}

    def of_device(self, device: DeviceId | None) -> Slot:
        """The slot that a device plugin's id names."""
        if device is None:
            return Slot("", UNKNOWN_DEVICE)
        if device.kind in ("gpu", "mig"):
            # Kubelet's word holds even while NVML cannot say that the slot is there: a lost GPU has holders.
            return Slot(device.uuid, "" if device.uuid in self._slots else NOT_SEEN)
        if device.kind == "tegra":
            return Slot(next(iter(self._gpus))) if len(self._gpus) == 1 else Slot("", NOT_SEEN)
        if device.kind == "mig_by_instance":
            gpu = self._gpus.get(device.uuid)
            return Slot("", NOT_SEEN) if gpu is None else _instance(gpu, device)
        return self._of_minor(device.minor, device)

    def _of_minor(self, minor: int | None, device: DeviceId) -> Slot:
        gpu = None if minor is None else self._by_minor.get(minor)
        if gpu is None:
            return Slot("", NOT_SEEN if self._minors_complete else NO_MINOR)
        return Slot(gpu.uuid) if device.gpu_instance is None else _instance(gpu, device)

    def of_dra(self, device: DraDevice | None) -> Slot:
        """The slot that a device name of the DRA driver names."""
        if device is None:
            return Slot("", UNKNOWN_DEVICE)
        gpu = self._by_minor.get(device.minor)
        if gpu is None:
            return Slot("", NOT_SEEN if self._minors_complete else NO_MINOR)
        if not device.profile:
            return Slot(gpu.uuid)
        return _only(
            [
                mig
                for mig in gpu.mig or ()
                if profile_in_names(mig.profile) == device.profile
                and mig.placement_start in (None, device.placement_start)
            ]
        )


def _instance(gpu: GpuReading, device: DeviceId) -> Slot:
    return _only(
        [
            mig
            for mig in gpu.mig or ()
            if mig.gpu_instance == device.gpu_instance and device.compute_instance in (None, mig.compute_instance)
        ]
    )


def _only(found: list[MigReading]) -> Slot:
    """The one that fits. Of several none: to name the wrong one would book somebody else's cost."""
    if len(found) == 1:
        return Slot(found[0].uuid)
    return Slot("", AMBIGUOUS if found else NOT_SEEN)
