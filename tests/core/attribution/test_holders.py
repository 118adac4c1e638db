from collections.abc import Sequence

import pytest

from agent.core.attribution.checkpoint import Checkpoint, PodDevices
from agent.core.attribution.holders import (
    FINISHED,
    NO_POD_NAME,
    PASSED_THROUGH,
    Matcher,
    differences,
    from_checkpoint,
    from_kubelet,
    offered,
    uids_by_devices,
)
from agent.core.attribution.podlogs import PodNames, pod_names
from agent.core.attribution.podresources import ClaimedDevice, ContainerDevices, Devices
from agent.core.attribution.resolve import NOT_SEEN, UNKNOWN_DEVICE, SlotIndex
from agent.core.workloads import Claim, Holding, Workload
from tests.support.gpu_slots import gpu, gpu_uuid, mig, mig_uuid, snapshot

UIDS = [f"0b0c8f5e-7a52-4a66-9a3f-5d1f0c3e8a{n:02}" for n in range(5)]
INDEX = SlotIndex(snapshot(gpu(0), gpu(1), gpu(2, mig=(mig(10, 7), mig(11, 9)))))
NO_FOLDERS = PodNames()


def folders(*pods: tuple[str, str]) -> PodNames:
    return pod_names({f"ml_{name}_{uid}": {} for name, uid in pods}, [])


def given(pod: str, *devices: Devices, claimed: Sequence[ClaimedDevice] = ()) -> ContainerDevices:
    return ContainerDevices(namespace="ml", pod=pod, container="c", devices=devices, claimed=tuple(claimed))


def written(uid: str, *ids: str, resource: str = "nvidia.com/gpu") -> PodDevices:
    return PodDevices(pod_uid=uid, container="c", devices=Devices(resource, ids))


def dra(device: str, driver: str = "gpu.nvidia.com") -> ClaimedDevice:
    return ClaimedDevice(claim="cl", claim_namespace="ml", driver=driver, pool="node", device=device)


def test_whole_gpus_slices_and_replicas() -> None:
    listed = [
        given("a", Devices("nvidia.com/gpu", (gpu_uuid(0),))),
        given("b", Devices("nvidia.com/gpu.shared", (f"{gpu_uuid(1)}::0", f"{gpu_uuid(1)}::3"))),
        given("c", Devices("nvidia.com/mig-1g.10gb", (mig_uuid(10),)), Devices("example.com/nic", ("n0",))),
    ]
    found = from_kubelet(listed, INDEX, folders(*zip("abc", UIDS, strict=False)), Matcher(), {})
    assert [(one.slot, one.workload.pod, one.resource, one.replica) for one in found.holdings] == [
        (gpu_uuid(0), "a", "nvidia.com/gpu", None),
        (gpu_uuid(1), "b", "nvidia.com/gpu.shared", "0"),
        (gpu_uuid(1), "b", "nvidia.com/gpu.shared", "3"),
        (mig_uuid(10), "c", "nvidia.com/mig-1g.10gb", None),
    ]
    assert not found.unresolved


def test_a_claim_of_dra() -> None:
    claimed = [dra("gpu-1"), dra("gpu-vfio-0"), dra("channel-0", "compute-domain.nvidia.com"), dra("odd")]
    found = from_kubelet([given("a", claimed=claimed)], INDEX, NO_FOLDERS, Matcher(), {"ml/a": UIDS[0]})
    assert found.holdings == [
        Holding(
            slot=gpu_uuid(1),
            workload=Workload(namespace="ml", pod="a", container="c", pod_uid=UIDS[0]),
            resource="",
            source="pod_resources",
            claim=Claim(name="cl", namespace="ml", driver="gpu.nvidia.com", pool="node", device="gpu-1"),
        )
    ]
    assert found.unresolved == {PASSED_THROUGH: 1, UNKNOWN_DEVICE: 1}


def test_pods_that_have_ended_hold_nothing() -> None:
    listed = [given(name, Devices("nvidia.com/gpu", (gpu_uuid(0),))) for name in ("live", "gone")]
    found = from_kubelet(listed, INDEX, folders(("live", UIDS[0])), Matcher(), {})
    assert [one.workload.pod for one in found.holdings] == ["live"]
    assert found.unresolved == {FINISHED: 1}
    unseen = from_kubelet(listed, INDEX, NO_FOLDERS, Matcher(), {})
    assert len(unseen.holdings) == 2, "without the folders nothing can be told"


def test_a_pod_made_anew_has_no_uid_unless_the_checkpoint_tells() -> None:
    listed = [given("a", Devices("nvidia.com/gpu", (gpu_uuid(0),)))]
    both = folders(("a", UIDS[0]), ("a", UIDS[1]))
    assert from_kubelet(listed, INDEX, both, Matcher(), {}).holdings[0].workload.pod_uid == ""
    file = Checkpoint(given=(written(UIDS[1], gpu_uuid(0)),), registered=())
    uids = uids_by_devices(listed, file)
    assert from_kubelet(listed, INDEX, both, Matcher(), uids).holdings[0].workload.pod_uid == UIDS[1]


def test_the_checkpoint_has_all_devices_of_a_resource_together() -> None:
    """Kubelet's answer has an entry for each device, since each lies at a node of memory of its own."""
    listed = [given("a", *(Devices("nvidia.com/gpu", (gpu_uuid(n),)) for n in range(2)))]
    file = Checkpoint(given=(written(UIDS[1], gpu_uuid(1), gpu_uuid(0)),), registered=())
    assert uids_by_devices(listed, file) == {"ml/a": UIDS[1]}


def test_the_checkpoint_names_nobody_where_two_pods_fit() -> None:
    listed = [given("a", Devices("nvidia.com/gpu", (gpu_uuid(0),)))]
    file = Checkpoint(given=(written(UIDS[0], gpu_uuid(0)), written(UIDS[1], gpu_uuid(0))), registered=())
    assert uids_by_devices(listed, file) == {}
    assert uids_by_devices(listed, None) == {}


def test_what_does_not_resolve_is_counted_by_reason() -> None:
    listed = [given("a", Devices("nvidia.com/gpu", ("65", gpu_uuid(9), "nvidia7")))]
    found = from_kubelet(listed, INDEX, NO_FOLDERS, Matcher(), {})
    assert [one.slot for one in found.holdings] == [gpu_uuid(9)], "a GPU that NVML has lost still has its holder"
    assert found.unresolved == {UNKNOWN_DEVICE: 1, NOT_SEEN: 2}


@pytest.mark.parametrize(("resources", "count"), [(r"^nvidia\.com/", 0), (r"^(nvidia|volcano)\.", 1)])
def test_names_of_resources_are_a_setting(resources: str, count: int) -> None:
    listed = [given("a", Devices("volcano.sh/vgpu", (gpu_uuid(0),)))]
    assert len(from_kubelet(listed, INDEX, NO_FOLDERS, Matcher(resources), {}).holdings) == count


def test_holders_by_the_checkpoint() -> None:
    file = Checkpoint(
        given=(
            written(UIDS[0], gpu_uuid(0)),
            written(UIDS[1], gpu_uuid(1)),
            written(UIDS[2], "n0", resource="example.com/nic"),
        ),
        registered=(),
    )
    found = from_checkpoint(file, INDEX, folders(("a", UIDS[0])), Matcher())
    assert [(one.slot, one.workload, one.source) for one in found.holdings] == [
        (gpu_uuid(0), Workload(namespace="ml", pod="a", container="c", pod_uid=UIDS[0]), "checkpoint")
    ]
    assert found.unresolved == {FINISHED: 1}
    nameless = from_checkpoint(file, INDEX, NO_FOLDERS, Matcher())
    assert [one.workload.pod_uid for one in nameless.holdings] == UIDS[:2]
    assert nameless.unresolved == {NO_POD_NAME: 2}


def test_what_could_be_handed_out_and_in_how_many_parts() -> None:
    devices = [
        Devices("nvidia.com/gpu", (gpu_uuid(0), f"{gpu_uuid(1)}::0", f"{gpu_uuid(1)}::1")),
        Devices("nvidia.com/gpu.shared", tuple(f"{gpu_uuid(1)}::{n}" for n in range(4))),
        Devices("nvidia.com/mig-1g.10gb", (mig_uuid(10), "what")),
        Devices("example.com/nic", ("n0",)),
    ]
    slots, replicas = offered(devices, INDEX, Matcher())
    assert slots == (gpu_uuid(0), gpu_uuid(1), mig_uuid(10))
    assert replicas == {gpu_uuid(1): 4}


def test_where_file_and_answer_differ() -> None:
    names = folders(("a", UIDS[0]), ("b", UIDS[1]))
    listed = [given("a", Devices("nvidia.com/gpu", (gpu_uuid(0),)))]
    holdings = from_kubelet(listed, INDEX, names, Matcher(), {}).holdings
    same = Checkpoint(given=(written(UIDS[0], gpu_uuid(0)), written(UIDS[4], gpu_uuid(1))), registered=())
    assert differences(holdings, same, names, Matcher()) == 0, "the file keeps entries of pods that have ended"
    more = Checkpoint(given=(*same.given, written(UIDS[1], gpu_uuid(1))), registered=())
    assert differences(holdings, more, names, Matcher()) == 1
