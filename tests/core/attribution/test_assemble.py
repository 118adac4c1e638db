from typing import Any

from agent.core.attribution.assemble import Seen, Told, attribute, pids_of
from agent.core.attribution.checkpoint import Checkpoint, PodDevices
from agent.core.attribution.holders import CHECKPOINT_DIFFERS, Matcher
from agent.core.attribution.podlogs import PodNames, pod_names
from agent.core.attribution.podresources import ContainerDevices, Devices
from agent.core.attribution.users import NOT_VISIBLE, SeenProcess
from agent.core.workloads import Feature, Workload
from tests.support.gpu_slots import AT_NS, gpu, gpu_uuid, process, snapshot

UID = "0b0c8f5e-7a52-4a66-9a3f-5d1f0c3e8a11"
NODE = snapshot(gpu(0, process(7)), gpu(1))
SHARED = Devices("nvidia.com/gpu", tuple(f"{gpu_uuid(0)}::{n}" for n in range(4)))
GIVEN = ContainerDevices(
    namespace="ml", pod="a", container="c", devices=(Devices("nvidia.com/gpu", (f"{gpu_uuid(0)}::2",)),)
)
FILE = Checkpoint(
    given=(PodDevices(pod_uid=UID, container="c", devices=GIVEN.devices[0]),),
    registered=(SHARED, Devices("nvidia.com/gpu", (gpu_uuid(1),))),
)
PROCESS = SeenProcess(started_at_ns=AT_NS - 5, name="python3", place=Workload(pod_uid=UID))
FEATURES = (Feature(name="host_pid", enabled=True),)


def seen(**more: Any) -> Seen:
    fields: dict[str, Any] = {
        "at_ns": AT_NS + 9,
        "checkpoint": None,
        "names": PodNames(),
        "processes": {7: PROCESS},
        "host_pids": True,
    }
    return Seen(**(fields | more))


def told(allocatable: tuple[Devices, ...] | None = (SHARED,)) -> Told:
    return Told(at_ns=AT_NS, given=(GIVEN,), allocatable=allocatable)


def test_all_sources_together() -> None:
    found = attribute(NODE, told(), seen(checkpoint=FILE), Matcher(), FEATURES)
    assert (found.holders_known, found.users_known) == (True, True)
    assert (found.read_at_ns, found.holders_read_at_ns) == (AT_NS + 9, AT_NS)
    (holding,) = found.holdings
    assert holding.workload == Workload(namespace="ml", pod="a", container="c", pod_uid=UID), "the uid is the file's"
    assert (holding.source, holding.replica) == ("pod_resources", "2")
    assert found.replicas == {gpu_uuid(0): 4}
    assert found.allocatable == (gpu_uuid(0),)
    assert found.users[0].workload == Workload(namespace="ml", pod="a", container="c", pod_uid=UID)
    assert found.features == FEATURES
    assert found.unresolved == {}


def test_what_a_kubelet_does_not_tell_is_read_from_its_file() -> None:
    found = attribute(NODE, told(None), seen(checkpoint=FILE), Matcher(), ())
    assert found.allocatable == (gpu_uuid(0), gpu_uuid(1))
    assert found.replicas == {gpu_uuid(0): 4}
    assert attribute(NODE, told(None), seen(), Matcher(), ()).allocatable is None
    assert attribute(NODE, told(()), seen(), Matcher(), ()).allocatable is None, "GPUs may be handed out by DRA"


def test_the_file_alone() -> None:
    found = attribute(NODE, None, seen(checkpoint=FILE), Matcher(), ())
    assert found.holders_known
    assert found.holders_read_at_ns == AT_NS + 9
    assert [(one.source, one.workload.pod_uid) for one in found.holdings] == [("checkpoint", UID)]


def test_nobody_tells() -> None:
    found = attribute(NODE, None, seen(), Matcher(), ())
    assert not found.holders_known
    assert found.holders_read_at_ns is None
    assert found.holdings == ()
    assert found.allocatable is None


def test_a_file_that_contradicts_is_counted() -> None:
    names = pod_names({f"ml_a_{UID}": {}}, [])
    file = Checkpoint(given=(*FILE.given, *FILE.given), registered=())
    found = attribute(NODE, told(), seen(checkpoint=file, names=names), Matcher(), ())
    assert found.unresolved[CHECKPOINT_DIFFERS] == 1


def test_pids_of_another_namespace_are_never_looked_up() -> None:
    found = attribute(NODE, told(), seen(host_pids=False), Matcher(), ())
    assert not found.users_known
    assert [(user.pid, user.workload, user.started_at_ns) for user in found.users] == [(7, None, None)]


def test_users_are_unknown_when_no_pid_is_visible_and_known_when_there_is_none() -> None:
    hidden = attribute(NODE, None, seen(processes={}), Matcher(), ())
    assert not hidden.users_known
    assert hidden.unresolved == {NOT_VISIBLE: 1}
    assert attribute(snapshot(gpu(0)), None, seen(processes={}), Matcher(), ()).users_known


def test_pids() -> None:
    assert pids_of(NODE) == {7}
