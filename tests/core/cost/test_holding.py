from typing import Any

import pytest
from msgspec.structs import replace

from agent.core.cost.holding import engines_by_holder, is_hidden
from agent.core.cost.judging import judge
from agent.core.cost.seen import NO_PLACE, EngineSeen, seen_gpus, seen_workloads
from agent.core.workloads import Workload
from tests.support.slots import GIB, cut, device, gpu, held, known, pod, process, snapshot, user

A, B = pod("a"), pod("b")
BESIDE_A = replace(A, container="side")
IDS_OF_A = Workload(pod_uid="uid-a", container_id="c1")  # as a cgroup tells it
NOT_NAMED = Workload(namespace="ml", pod="a")


def engine(workload: Workload | None, **fields: Any) -> EngineSeen:
    values: dict[str, Any] = {"state": "ready", "pids": frozenset({70}), "gpus": frozenset()}
    return EngineSeen(**{**values, **fields}, workload=workload)


@pytest.mark.parametrize(
    ("reading", "said", "hidden"),
    [
        (gpu(1, processes=None, memory_used_bytes=GIB), [], True),
        (gpu(1, processes=None), [], True),
        (gpu(1, processes=None, memory_used_bytes=0), [], False),  # nobody has a context there
        (gpu(1), [], False),
        (gpu(1, processes=(process(7),)), [user("GPU-0", 7, None)], True),
        (gpu(1, processes=(process(7),)), [user("GPU-0", 7, A)], False),
        (gpu(1, processes=(process(7), process(8))), [user("GPU-0", 7, None), user("GPU-0", 8, A)], False),
        (gpu(1, processes=(process(7),)), [], False),  # it came a moment ago: nobody has looked yet
    ],
)
def test_whether_processes_are_hidden(reading: Any, said: list[Any], hidden: bool) -> None:
    (seen,) = seen_gpus(snapshot(1, reading)) or ()
    who = seen_workloads(known(1, *said))
    assert is_hidden(seen.slots[0], who.places.get("GPU-0", NO_PLACE), who) is hidden


def test_pids_of_another_namespace_are_hidden() -> None:
    (seen,) = seen_gpus(snapshot(1, gpu(1, processes=(process(7),)))) or ()
    who = seen_workloads(replace(known(1, user("GPU-0", 7, A)), users_known=False))
    assert is_hidden(seen.slots[0], who.places["GPU-0"], who)


@pytest.mark.parametrize(
    ("engines", "found"),
    [
        ({"x": engine(A)}, {A: "x"}),
        ({"x": engine(IDS_OF_A)}, {A: "x"}),
        ({"x": engine(None)}, {}),
        ({"x": engine(Workload())}, {}),
        ({"x": engine(A), "y": engine(B)}, {A: "x", B: "y"}),
        ({"x": engine(A), "y": engine(A)}, {}),  # which of them it is nobody says
        ({"x": engine(A), "y": engine(A, state="down")}, {}),
        ({"x": engine(A), "y": engine(A, pids=frozenset())}, {A: "x"}),  # which x started
        ({"y": engine(A, pids=frozenset())}, {A: "y"}),  # its processes are not shown
        ({"x": engine(A, gpus=frozenset({"0"}))}, {}),  # the configuration says which GPUs are its
    ],
)
def test_the_only_engine_of_a_holder(engines: dict[str, EngineSeen], found: dict[Workload, str]) -> None:
    who = seen_workloads(known(1, held("GPU-0", A), held("GPU-1", A), held("GPU-2", B)))
    assert engines_by_holder(engines, who) == found


def test_an_engine_of_which_only_the_pod_is_known_and_two_containers_that_hold_slots() -> None:
    two = seen_workloads(known(1, held("GPU-0", A), held("GPU-1", BESIDE_A)))
    assert engines_by_holder({"x": engine(NOT_NAMED)}, two) == {}
    assert engines_by_holder({"x": engine(A)}, two) == {A: "x"}
    one = seen_workloads(known(1, held("GPU-0", A)))
    assert engines_by_holder({"x": engine(NOT_NAMED)}, one) == {A: "x"}


def judged(reading: Any, *said: Any, **more: Any) -> dict[str, tuple[str, str]]:
    (seen,) = seen_gpus(snapshot(1, reading)) or ()
    engines = more.pop("engines", {"x": engine(A)})
    found = judge(seen, engines, seen_workloads(known(1, *said, **more)), frozenset({"g"}))
    return {one.slot: (one.state or "+".join(owner.engine for owner in one.owners), one.reason) for one in found}


def test_mig_devices_whose_processes_are_not_shown() -> None:
    """As on a GPU in MIG mode without the right to see its processes."""
    reading = cut(
        1,
        device("MIG-a", 3, None, memory_used_bytes=9 * GIB),
        device("MIG-b", 2, None, memory_used_bytes=9 * GIB),
        device("MIG-c", 2, None, memory_used_bytes=0),
    )
    holders = [held("MIG-a", A), held("MIG-b", B), held("MIG-c", A)]
    assert judged(reading, *holders) == {
        "MIG-a": ("x", "holding"),
        "MIG-b": ("other_workload", "memory"),
        "MIG-c": ("allocated_idle", "held_empty"),  # it was given it, and has no context there
    }


def test_what_is_seen_says_more_than_what_was_given() -> None:
    two = gpu(1, processes=(process(7),))
    assert judged(two, held("GPU-0", A), user("GPU-0", 7, None)) == {"GPU-0": ("x", "holding")}
    assert judged(two, held("GPU-0", A), user("GPU-0", 7, B)) == {"GPU-0": ("other_workload", "not_allocated")}
    own = {"x": engine(A), "y": engine(B, pids=frozenset({7}))}
    assert judged(two, held("GPU-0", A), user("GPU-0", 7, None), engines=own) == {"GPU-0": ("y", "process")}
    assert judged(gpu(1), held("GPU-0", A)) == {"GPU-0": ("allocated_idle", "held_no_process")}


def test_one_that_is_down_has_its_slot_while_that_is_in_use() -> None:
    down = {"x": engine(A, state="down")}
    used, unseen = gpu(1, processes=None, memory_used_bytes=GIB), gpu(1, processes=None)
    assert judged(used, held("GPU-0", A), engines=down) == {"GPU-0": ("x", "holding")}
    assert judged(unseen, held("GPU-0", A), engines=down) == {"GPU-0": ("other_workload", "not_seen")}


def test_shares_and_containers_that_hold_one_together() -> None:
    hidden = gpu(1, processes=None, memory_used_bytes=GIB)
    a, b, side = held("GPU-0", A, "0"), held("GPU-0", B, "1"), held("GPU-0", BESIDE_A)
    assert judged(hidden, a, b, replicas={"GPU-0": 3}) == {
        "GPU-0::0": ("x", "holding"),
        "GPU-0::1": ("other_workload", "split_equal"),
        "GPU-0::2": ("unallocated", "free"),
    }
    both = {"x": engine(A), "y": engine(BESIDE_A)}
    assert judged(hidden, held("GPU-0", A), side, engines=both) == {"GPU-0": ("x+y", "holding")}


@pytest.mark.parametrize(("group", "reason"), [("g", "group_worker"), ("h", "group_idle")])
def test_a_worker_whose_processes_are_hidden(group: str, reason: str) -> None:
    workers = {"w": engine(A, is_worker=True, group=group)}
    hidden = gpu(1, processes=None, memory_used_bytes=GIB)
    assert judged(hidden, held("GPU-0", A), engines=workers) == {"GPU-0": ("w", reason)}
    shared = judged(hidden, held("GPU-0", A, "0"), engines=workers, replicas={"GPU-0": 2})
    assert shared["GPU-0::0"] == ("w", reason)
