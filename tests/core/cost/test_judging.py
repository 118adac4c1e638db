from typing import Any

import pytest

from agent.core.cost.judging import MOST_SHARES, judge
from agent.core.cost.seen import NOBODY_SAYS, EngineSeen, Held, seen_gpus, seen_workloads
from agent.core.cost.views import Owner, SlotView
from agent.core.gpu_readings import GpuReading
from tests.support.slots import GIB, NOWHERE, cut, device, gpu, held, known, pod, process, snapshot, user

A, B = pod("a"), pod("b")
G = "GPU-0"
READY = Owner("vllm", ready=True)


def engine(*gpus: str, pids: tuple[int, ...] = (), state: Any = "ready") -> EngineSeen:
    return EngineSeen(state, frozenset(pids), frozenset(gpus))


def views(reading: GpuReading, who: Held = NOBODY_SAYS, **engines: EngineSeen) -> tuple[SlotView, ...]:
    (seen,) = seen_gpus(snapshot(1, reading)) or ()
    return judge(seen, engines, who)


def states(reading: GpuReading, who: Held = NOBODY_SAYS, **engines: EngineSeen) -> dict[str, tuple[Any, ...]]:
    """Slot -> (weight, state or engines, reason)."""
    return {
        view.slot: (view.weight, view.state or ",".join(owner.engine for owner in view.owners), view.reason)
        for view in views(reading, who, **engines)
    }


def on(*pids: int, memory: int | None = GIB) -> dict[str, Any]:
    return {"processes": tuple(process(pid, memory) for pid in pids)}


UNKNOWN = {"processes": None}
EMPTY_LIST_UNKNOWN = {"processes": None, "memory_used_bytes": 4 << 20}
FULL_LIST_UNKNOWN = {"processes": None, "memory_used_bytes": GIB}


@pytest.mark.parametrize(
    ("fields", "said", "state", "reason"),
    [
        # Nobody says who holds what: never allocated_idle.
        (on(), None, "unallocated", "no_process"),
        (on(7), None, "other_workload", "process"),
        (on(7, memory=0), None, "other_workload", "process"),
        (UNKNOWN, None, "unallocated", "not_seen"),
        (EMPTY_LIST_UNKNOWN, None, "unallocated", "no_process"),
        (FULL_LIST_UNKNOWN, None, "other_workload", "memory"),
        # Held by nobody.
        (on(), [], "unallocated", "free"),
        (on(7), [], "other_workload", "not_allocated"),
        (on(7, memory=0), [], "other_workload", "not_allocated"),
        (FULL_LIST_UNKNOWN, [], "other_workload", "not_allocated"),
        (EMPTY_LIST_UNKNOWN, [], "unallocated", "free"),
        (UNKNOWN, [], "unallocated", "not_seen"),
        # Held.
        (on(), [held(G, A)], "allocated_idle", "held_no_process"),
        (on(7), [held(G, A)], "other_workload", "process"),
        (on(7), [held(G, A), user(G, 7, A)], "other_workload", "process"),
        (on(7), [held(G, A), user(G, 7, None)], "other_workload", "process"),
        (on(7, memory=None), [held(G, A), user(G, 7, A)], "other_workload", "process"),
        (on(7, memory=0), [held(G, A), user(G, 7, A)], "allocated_idle", "held_empty"),
        (EMPTY_LIST_UNKNOWN, [held(G, A)], "allocated_idle", "held_empty"),
        (FULL_LIST_UNKNOWN, [held(G, A)], "other_workload", "memory"),
        (UNKNOWN, [held(G, A)], "other_workload", "not_seen"),
        # Held by one, used by another.
        (on(7), [held(G, A), user(G, 7, B)], "other_workload", "not_allocated"),
        (on(7), [held(G, A), user(G, 7, NOWHERE)], "other_workload", "not_allocated"),
        (on(7, 8), [held(G, A), user(G, 7, NOWHERE), user(G, 8, A)], "other_workload", "process"),
        (on(7, 8), [held(G, A), user(G, 7, NOWHERE)], "other_workload", "process"),  # 8 may be the holder's
        # A claim that two pods share.
        (on(7), [held(G, A), held(G, B), user(G, 7, B)], "other_workload", "process"),
        (on(), [held(G, A), held(G, B)], "allocated_idle", "held_no_process"),
        # The server of MPS alone is nobody.
        (on(7), [held(G, A), user(G, 7, NOWHERE, "nvidia-cuda-mps")], "allocated_idle", "held_no_process"),
        (on(7), [user(G, 7, NOWHERE, "nvidia-cuda-mps")], "unallocated", "free"),
        # What is said of another slot says nothing here.
        (on(), [held("GPU-9", A)], "unallocated", "free"),
    ],
)
def test_a_gpu_without_an_engine(fields: dict[str, Any], said: list[Any] | None, state: str, reason: str) -> None:
    who = NOBODY_SAYS if said is None else seen_workloads(known(1, *said))
    assert states(gpu(1, **fields), who) == {G: (1, state, reason)}


@pytest.mark.parametrize(("allocatable", "reason"), [((G,), "not_allocated"), (("GPU-1",), "process")])
def test_a_gpu_that_is_not_handed_out_needs_no_holder(allocatable: tuple[str, ...], reason: str) -> None:
    who = seen_workloads(known(1, allocatable=allocatable))
    assert states(gpu(1, **on(7)), who) == {G: (1, "other_workload", reason)}


@pytest.mark.parametrize("who", [NOBODY_SAYS, seen_workloads(known(1, held(G, A)))])
@pytest.mark.parametrize(
    ("owner", "reason"),
    [(engine(G), "configured"), (engine("0"), "configured"), (engine(pids=(7,)), "process")],
)
def test_an_engine_owns_a_gpu_whoever_holds_it(who: Held, owner: EngineSeen, reason: str) -> None:
    (view,) = views(gpu(1, **on(7)), who, vllm=owner)
    assert (view.state, view.owners, view.reason) == (None, (READY,), reason)
    assert view.holders == ((A,) if who.known else ())


@pytest.mark.parametrize(
    ("fields", "found"),
    [(on(7), "vllm"), (on(), "allocated_idle"), (UNKNOWN, "other_workload"), (FULL_LIST_UNKNOWN, "vllm")],
)
def test_an_engine_that_is_down_owns_a_held_gpu_only_while_it_is_in_use(fields: dict[str, Any], found: str) -> None:
    who = seen_workloads(known(1, held(G, A)))
    assert states(gpu(1, **fields), who, vllm=engine(G, state="down"))[G][1] == found


MIG = cut(1, device("MIG-a", 3, (7,)), device("MIG-b", 2, (8,)), device("MIG-c", 1))
REST = {G: (1, "unallocated", "mig_unpartitioned")}


def test_mig_devices_are_judged_one_by_one() -> None:
    who = seen_workloads(known(1, held("MIG-a", A), held("MIG-c", B), user("MIG-a", 7, A)))
    assert states(MIG, who, vllm=engine(pids=(7,))) == REST | {
        "MIG-a": (3, "vllm", "process"),
        "MIG-b": (2, "other_workload", "not_allocated"),
        "MIG-c": (1, "allocated_idle", "held_no_process"),
    }
    assert states(MIG) == REST | {
        "MIG-a": (3, "other_workload", "process"),
        "MIG-b": (2, "other_workload", "process"),
        "MIG-c": (1, "unallocated", "no_process"),
    }


@pytest.mark.parametrize(
    ("owner", "owned"),
    [
        (engine("MIG-c"), {"MIG-c"}),
        (engine("MIG-c", "0"), {"MIG-c"}),
        (engine("MIG-a", "MIG-b"), {"MIG-a", "MIG-b"}),
        (engine("MIG-b", pids=(7,)), {"MIG-b"}),  # the configuration says which it is
        (engine(G, pids=(7,)), {"MIG-a"}),  # the GPU is configured, the device is found
        (engine("0", pids=(8,)), {"MIG-b"}),
        (engine(G), set()),  # which one it is cannot be told
        (engine("GPU-1", pids=(7,)), set()),
        (engine(pids=(7, 8)), {"MIG-a", "MIG-b"}),
    ],
)
def test_an_engine_on_mig_devices(owner: EngineSeen, owned: set[str]) -> None:
    assert {view.slot for view in views(MIG, vllm=owner) if view.owners} == owned


def test_the_only_device_of_a_configured_gpu_is_the_engines() -> None:
    assert states(cut(1, device("MIG-a", 7)), vllm=engine("0")) == {"MIG-a": (7, "vllm", "configured")}


def test_a_gpu_without_mig_devices_is_unpartitioned() -> None:
    who = seen_workloads(known(1, held(G, A)))
    assert states(cut(1), who, vllm=engine(G)) == {G: (7, "unallocated", "mig_unpartitioned")}


def test_a_broken_gpu_has_no_parts() -> None:
    assert states(cut(1, device("MIG-a"), state="lost")) == {G: (1, "broken", "lost")}


def test_a_mig_device_can_be_shared() -> None:
    reading = cut(1, device("MIG-a", 3), device("MIG-b", 1))
    who = seen_workloads(known(1, held("MIG-a", A, "1"), replicas={"MIG-a": 2}))
    assert states(reading, who) == {
        "MIG-a::0": (3, "unallocated", "free"),
        "MIG-a::1": (3, "allocated_idle", "held_no_process"),
        "MIG-b": (2, "unallocated", "free"),
        G: (6, "unallocated", "mig_unpartitioned"),
    }


@pytest.mark.parametrize("replicas", [-1, 0, 1, MOST_SHARES + 1])
def test_what_is_not_shared_is_one(replicas: int) -> None:
    who = seen_workloads(known(1, held(G, A), replicas={G: replicas}))
    assert states(gpu(1), who) == {G: (1, "allocated_idle", "held_no_process")}


def test_when_nobody_says_who_holds_what_shares_are_not_told_apart() -> None:
    who = seen_workloads(known(1, replicas={G: 4}, holders_known=False))
    assert states(gpu(1, **on(7)), who) == {G: (1, "other_workload", "process")}
