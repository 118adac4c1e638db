from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.seen import (
    BASELINE_BYTES,
    NO_PLACE,
    NOBODY_SAYS,
    Place,
    belongs,
    mig_weights,
    seen_gpus,
    seen_workloads,
)
from agent.core.gpu_readings import GpuProcess, GpuSnapshot
from agent.core.workloads import Workload
from tests.support.slots import GIB, NOWHERE, cut, device, gpu, held, known, pod, process, snapshot, user

BUSY = {"utilization_ratio": 1.0, "power_watts": 242.0, "power_limit_watts": 350.0}


@pytest.mark.parametrize(
    ("fields", "evidence"),
    [
        ({"processes": (process(1),)}, "process"),
        ({"processes": (process(1, None),)}, "process"),  # how much it has is not told: it is there
        ({"processes": (process(1, 0), process(2, 0))}, "no_memory"),
        ({"processes": (process(1, 0), process(2))}, "process"),
        # The L40S of the captures after a load: full utilisation and power, nobody there.
        ({"processes": (), "memory_used_bytes": 0, **BUSY}, "none"),
        ({"processes": (), "memory_used_bytes": 20 * GIB}, "none"),
        ({"processes": None, "memory_used_bytes": 0, **BUSY}, "no_memory"),
        ({"processes": None, "memory_used_bytes": BASELINE_BYTES, **BUSY}, "no_memory"),
        ({"processes": None, "memory_used_bytes": BASELINE_BYTES + 1, "utilization_ratio": 0.0}, "memory"),
        ({"processes": None, **BUSY}, "power"),
        ({"processes": None, **BUSY, "utilization_doubtful": True}, "unseen"),
        ({"processes": None, **BUSY, "power_watts": 80.0}, "unseen"),
        ({"processes": None, **BUSY, "power_watts": None}, "unseen"),
        ({"processes": None, **BUSY, "power_limit_watts": None}, "unseen"),
        ({"processes": None, **BUSY, "utilization_ratio": 0.0}, "unseen"),  # clocks stay high after a load
        ({"processes": None, **BUSY, "utilization_ratio": None}, "unseen"),
        # Memory that GPU and CPU share is not the GPU's.
        ({"processes": None, "memory_used_bytes": 20 * GIB, "memory_source": "system"}, "unseen"),
        ({"processes": None}, "unseen"),
    ],
)
def test_what_says_that_somebody_is_on_a_gpu(fields: dict[str, Any], evidence: str) -> None:
    (seen,) = seen_gpus(snapshot(1, gpu(1, **fields))) or ()
    assert [slot.evidence for slot in seen.slots] == [evidence]


@pytest.mark.parametrize(
    ("state", "seen", "reason"),
    [
        ("lost", "broken", "lost"),
        ("hung", "broken", "hung"),
        ("reset_required", "broken", "reset_required"),
        ("error", "gap", "error"),
    ],
)
def test_a_gpu_that_does_not_answer(state: str, seen: str, reason: str) -> None:
    (found,) = seen_gpus(snapshot(1, gpu(1, state=state))) or ()
    assert (found.state, found.reason, found.slots) == (seen, reason, ())


@pytest.mark.parametrize(("driver", "seen"), [("hung", ()), ("no_driver", None), ("starting", None)])
def test_a_driver_that_does_not_answer(driver: Any, seen: object) -> None:
    assert seen_gpus(GpuSnapshot(read_at_ns=1, driver=driver, gpus=(gpu(1),))) == seen


def parts(**fields: Any) -> dict[str, Any]:
    return {"gpu_instance": 1, "gpu_instance_slices": None, "compute_slices": None, "profile": "", **fields}


@pytest.mark.parametrize(
    ("devices", "slices", "weights", "rest"),
    [
        ([], 7, [], 7),
        ([], None, [], 7),
        ([], 4, [], 4),
        ([device("a", 7)], 7, [7], 0),
        ([device("a", 3), device("b", 2), device("c", 1), device("d", 1)], 7, [3, 2, 1, 1], 0),  # the H100 captured
        ([device("a", 1), device("b", 1)], 7, [1, 1], 5),
        ([device("a", 2)], 4, [2], 2),
        # What is not told is read from the profile.
        ([device("a", **parts(profile="3g.40gb"))], 7, [3], 4),
        ([device("a", **parts(profile="1g.10gb+me"))], 7, [1], 6),
        ([device("a", **parts(profile="1c.3g.40gb")), device("b", **parts(profile="2c.3g.40gb"))], 7, [1, 2], 4),
        # Compute instances of one GPU instance: their own slices, and the rest is nobody's.
        ([device("a", gpu_instance=1, gpu_instance_slices=4, compute_slices=1)], 7, [1], 6),
        # Not told: equal parts of the GPU instance, in whole numbers.
        ([device(x, **parts(gpu_instance_slices=3)) for x in "ab"], 7, [3, 3], 8),
        ([device("a", **parts())], 7, [1], 6),
        # More than there is, and nonsense: what is told is divided, nothing is negative.
        ([device("a", 4), device("b", 4)], 7, [4, 4], 0),
        ([device("a", **parts(compute_slices=-3, gpu_instance_slices=-1))], 7, [1], 6),
        ([device("a", 1)], -1, [1], 6),
    ],
)
def test_mig_weights(devices: list[Any], slices: int | None, weights: list[int], rest: int) -> None:
    assert mig_weights(devices, slices) == (tuple(weights), rest)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.none() | st.integers(-1, 8), st.none() | st.integers(-1, 8)), max_size=8),
    st.none() | st.integers(-1, 8),
)
def test_weights_are_whole_and_never_negative(told: list[tuple[int, Any, Any]], slices: int | None) -> None:
    devices = [
        device(f"MIG-{i}", **parts(gpu_instance=gi, gpu_instance_slices=a, compute_slices=b))
        for i, (gi, a, b) in enumerate(told)
    ]
    weights, rest = mig_weights(devices, slices)
    assert all(weight > 0 for weight in weights)
    assert rest >= 0
    assert sum(weights) + rest > 0


def test_the_devices_of_a_gpu_in_mig_mode_are_its_slots() -> None:
    found = cut(1, device("MIG-a", 3, (7,)), device("MIG-b", 1), device("MIG-c", 1, None, memory_used_bytes=26 << 20))
    (seen,) = seen_gpus(snapshot(1, found)) or ()
    assert [(slot.id, slot.weight, slot.evidence) for slot in seen.slots] == [
        ("MIG-a", 3, "process"),
        ("MIG-b", 1, "none"),
        ("MIG-c", 1, "no_memory"),  # what the driver keeps there for itself
    ]
    assert seen.rest == 2


def test_nobody_on_the_gpu_is_nobody_on_its_devices() -> None:
    (seen,) = seen_gpus(snapshot(1, cut(1, device("MIG-a", 1, None), processes=()))) or ()
    assert [slot.evidence for slot in seen.slots] == ["none"]
    (seen,) = seen_gpus(snapshot(1, cut(1, device("MIG-a", 1, None), processes=(process(1),)))) or ()
    assert [slot.evidence for slot in seen.slots] == ["unseen"]  # it may be there or elsewhere


def test_a_device_that_is_told_twice_is_one() -> None:
    (seen,) = seen_gpus(snapshot(1, cut(1, device("MIG-a", 3), device("MIG-a", 3)))) or ()
    assert [(slot.id, slot.weight) for slot in seen.slots] == [("MIG-a", 3)]
    assert seen.rest == 4


def test_what_changes_from_second_to_second_does_not_count() -> None:
    def seen(at: int, used: int) -> object:
        listed = (GpuProcess(pid=7, kind="compute", memory_used_bytes=used, sm_utilization_ratio=at / 10),)
        return seen_gpus(snapshot(at, gpu(at, processes=listed, memory_used_bytes=used, power_watts=at * 1.0)))

    assert seen(1, GIB) == seen(2, 2 * GIB)


def test_who_holds_what_compares_equal_whenever_it_was_read() -> None:
    said = [
        held("GPU-0", pod("b"), "1"),
        held("GPU-0", pod("a"), "0"),
        user("GPU-0", 9, pod("a")),
        user("GPU-0", 7, None),
    ]
    one = seen_workloads(known(1, *said, replicas={"GPU-0": 4}, allocatable=("GPU-0",)))
    other = seen_workloads(known(2, *reversed(said), replicas={"GPU-0": 4}, allocatable=("GPU-0",)))
    assert one == other
    assert one.places["GPU-0"] == Place(4, ((0, pod("a")), (1, pod("b"))), ((7, None), (9, pod("a"))))
    assert one.offered == {"GPU-0"}


def test_without_holders_nothing_is_said() -> None:
    assert seen_workloads(known(1, user("GPU-0", 7, pod("a")), holders_known=False)) == NOBODY_SAYS
    assert seen_workloads(known(1)).places.get("GPU-0", NO_PLACE) == NO_PLACE


def test_a_server_of_mps_is_nobody() -> None:
    said = known(1, user("GPU-0", 7, None, name="nvidia-cuda-mps"), user("GPU-0", 8, None))
    assert seen_workloads(said).places["GPU-0"].servers == {7}


@pytest.mark.parametrize(
    ("who", "holder", "same"),
    [
        (None, pod("a"), None),
        (NOWHERE, pod("a"), False),
        (pod("a"), pod("a"), True),
        (pod("a"), pod("b"), False),
        (pod("a", "main"), pod("a", "helper"), False),
        (pod("a", ""), pod("a", "helper"), True),
        (pod("a", "helper"), pod("a", ""), True),
        (Workload(namespace="ml", pod="a"), Workload(pod_uid="uid-a"), None),
        (Workload(pod_uid="uid-a", container_id="c1"), pod("a"), True),
        (Workload(pod_uid="uid-a"), Workload(namespace="ml", pod="a"), None),  # nobody says which uid that pod has
        (Workload(namespace="ml", pod="a"), Workload(namespace="ml", pod="a", pod_uid="x"), True),
        (Workload(namespace="dev", pod="a"), Workload(namespace="ml", pod="a"), False),
        (Workload(container_id="c1"), pod("a"), False),  # a container of its own
        (Workload(job="42"), pod("a"), False),
        (Workload(job="42"), Workload(job="42"), True),
        (Workload(container_id="c1"), Workload(container_id="c1"), True),
    ],
)
def test_whose_process_it_is(who: Workload | None, holder: Workload, same: bool | None) -> None:
    assert belongs(who, holder) is same
