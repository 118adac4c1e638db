"""Answers of kubelet's service `v1.PodResourcesLister` in, devices and claims of containers out. Pure.

Source of the field numbers: k8s.io/kubelet/pkg/apis/podresources/v1/api.proto.
"""

from msgspec import Struct

from agent.core.attribution.dra import name_in_cdi
from agent.core.attribution.wire import Message, read


class Devices(Struct, frozen=True):
    """Ids of devices of one resource."""

    resource: str
    ids: tuple[str, ...]


class ClaimedDevice(Struct, frozen=True, kw_only=True):
    """A device that a DRA claim brought."""

    claim: str
    claim_namespace: str
    driver: str
    pool: str
    device: str


class ContainerDevices(Struct, frozen=True, kw_only=True):
    """What one container of a pod has been given."""

    namespace: str
    pod: str
    container: str
    devices: tuple[Devices, ...] = ()
    claimed: tuple[ClaimedDevice, ...] = ()


def decode_list(answer: bytes) -> tuple[ContainerDevices, ...]:
    """The containers of a ListPodResourcesResponse that have devices. Raises ValueError for what is none."""
    found = []
    for pod in read(answer).messages(1):
        for container in pod.messages(3):
            devices = tuple(map(_devices, container.messages(2)))
            claimed = tuple(device for claim in container.messages(5) for device in _claimed(claim))
            if devices or claimed:
                found.append(
                    ContainerDevices(
                        namespace=pod.text(2),
                        pod=pod.text(1),
                        container=container.text(1),
                        devices=devices,
                        claimed=claimed,
                    )
                )
    return tuple(found)


def decode_allocatable(answer: bytes) -> tuple[Devices, ...]:
    """The devices of an AllocatableResourcesResponse. Raises ValueError for what is none."""
    return tuple(map(_devices, read(answer).messages(1)))


def _devices(message: Message) -> Devices:
    return Devices(message.text(1), tuple(message.texts(2)))


def _claimed(claim: Message) -> list[ClaimedDevice]:
    found = []
    for resource in claim.messages(4):
        driver, device = resource.text(2), resource.text(4)
        cdi_names = [name for one in resource.messages(1) if (name := name_in_cdi(one.text(1)))]
        if not driver and cdi_names:  # kubelets before 1.32 give CDI names only
            driver, device = "gpu.nvidia.com", cdi_names[0]
        found.append(
            ClaimedDevice(
                claim=claim.text(2), claim_namespace=claim.text(3), driver=driver, pool=resource.text(3), device=device
            )
        )
    return found
