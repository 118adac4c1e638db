from agent.core.attribution.podlogs import PodNames, pod_names
from agent.core.attribution.users import (
    NO_CONTAINER_NAME,
    NO_POD_NAME,
    NOT_VISIBLE,
    SeenProcess,
    processes_on_slots,
    slot_users,
)
from agent.core.workloads import Holding, SlotUser, Workload
from tests.support.gpu_slots import AT_NS, gpu, gpu_uuid, mig, mig_uuid, process, snapshot

UID = "0b0c8f5e-7a52-4a66-9a3f-5d1f0c3e8a11"
ID = "1" * 64
IN_POD = Workload(pod_uid=UID, container_id=ID)


def seen(place: Workload | None, started_at_ns: int = AT_NS - 10**9) -> SeenProcess:
    return SeenProcess(started_at_ns=started_at_ns, name="python3", place=place)


def names(links: list[str], *containers: str) -> PodNames:
    return pod_names({f"ml_llama-0_{UID}": {name: [] for name in containers}}, links)


def holding(container: str, slot: str) -> Holding:
    workload = Workload(namespace="ml", pod="llama-0", container=container, pod_uid=UID)
    return Holding(slot=slot, workload=workload, resource="nvidia.com/gpu", source="pod_resources")


def test_a_process_is_counted_on_each_of_its_gpus_and_once_on_each() -> None:
    node = snapshot(
        gpu(0, process(7), process(8)),
        gpu(1, process(7)),
        gpu(2, process(9), process(5), mig=(mig(10, 7, process(9)),)),
    )
    assert [(slot, one.pid) for slot, one in processes_on_slots(node)] == [
        (gpu_uuid(0), 7),
        (gpu_uuid(0), 8),
        (gpu_uuid(1), 7),
        (mig_uuid(10), 9),
        (gpu_uuid(2), 5),
    ]


def test_names_by_the_containers_log_link() -> None:
    found = names([f"llama-0_ml_server-{ID}.log"], "server", "proxy")
    users, unresolved = slot_users(snapshot(gpu(0, process(7))), {7: seen(IN_POD)}, found, ())
    assert users == (
        SlotUser(
            slot=gpu_uuid(0),
            pid=7,
            started_at_ns=AT_NS - 10**9,
            name="python3",
            workload=Workload(namespace="ml", pod="llama-0", container="server", pod_uid=UID, container_id=ID),
        ),
    )
    assert not unresolved


def test_a_container_whose_pod_is_not_in_the_path() -> None:
    found = names([f"llama-0_ml_server-{ID}.log"])
    users, _ = slot_users(snapshot(gpu(0, process(7))), {7: seen(Workload(container_id=ID))}, found, ())
    assert users[0].workload == Workload(
        namespace="ml", pod="llama-0", container="server", pod_uid=UID, container_id=ID
    )


def test_the_container_that_holds_the_slot_is_where_its_process_runs() -> None:
    found = names([], "server", "proxy")
    node = snapshot(gpu(0, process(7)), gpu(1, process(7)))
    users, unresolved = slot_users(node, {7: seen(IN_POD)}, found, (holding("server", gpu_uuid(0)),))
    assert [user.workload.container if user.workload else None for user in users] == ["server", ""]
    assert unresolved == {NO_CONTAINER_NAME: 1}


def test_the_only_container_that_logs() -> None:
    users, _ = slot_users(snapshot(gpu(0, process(7))), {7: seen(IN_POD)}, names([], "server"), ())
    assert users[0].workload is not None
    assert users[0].workload.container == "server"


def test_a_pod_known_from_kubelet_alone_and_one_known_from_nowhere() -> None:
    node = snapshot(gpu(0, process(7)))
    users, _ = slot_users(node, {7: seen(IN_POD)}, PodNames(), (holding("server", gpu_uuid(0)),))
    assert users[0].workload is not None
    assert users[0].workload.pod == "llama-0"
    users, unresolved = slot_users(node, {7: seen(IN_POD)}, PodNames(), ())
    assert users[0].workload == IN_POD
    assert unresolved == {NO_POD_NAME: 1}


def test_processes_outside_of_containers() -> None:
    node = snapshot(gpu(0, process(7), process(8), process(9)))
    places = {7: seen(Workload()), 8: seen(Workload(job="4711")), 9: seen(None)}
    users, unresolved = slot_users(node, places, PodNames(), ())
    assert [user.workload for user in users] == [Workload(), Workload(job="4711"), None]
    assert not unresolved


def test_a_pid_that_proc_does_not_show() -> None:
    users, unresolved = slot_users(snapshot(gpu(0, process(7))), {}, PodNames(), ())
    assert users == (SlotUser(slot=gpu_uuid(0), pid=7),)
    assert unresolved == {NOT_VISIBLE: 1}


def test_a_process_younger_than_the_list_that_named_its_pid_is_another_one() -> None:
    node = snapshot(gpu(0, process(7)))
    users, unresolved = slot_users(node, {7: seen(IN_POD, AT_NS + 5 * 10**9)}, names([], "server"), ())
    assert users == (SlotUser(slot=gpu_uuid(0), pid=7),)
    assert unresolved == {NOT_VISIBLE: 1}
