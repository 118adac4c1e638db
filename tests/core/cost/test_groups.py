from typing import Any

import pytest

from agent.core.cost.groups import KEPT_NS, GroupWork, shows_work
from agent.core.cost.seen import EngineSeen
from agent.core.cost.views import Owner, SlotView
from agent.core.gpu_readings import GpuActivity, GpuProcess
from tests.support.money import NS
from tests.support.slots import cut, device, gpu, snapshot

G = "GPU-0"
WORKER = EngineSeen("ready", frozenset({7}), frozenset(), is_worker=True, group="g")
SERVER = EngineSeen("ready", frozenset({6}), frozenset(), group="g")


def sampled(pid: int, sm: float | None) -> GpuProcess:
    return GpuProcess(pid=pid, kind="compute", sm_utilization_ratio=sm)


@pytest.mark.parametrize(
    ("fields", "works"),
    [
        ({"utilization_ratio": 0.0}, False),
        ({"utilization_ratio": 0.01}, True),
        ({"utilization_ratio": None}, True),  # what is not reported may be work
        ({"utilization_ratio": 0.0, "utilization_doubtful": True}, True),
        # Alone on it: the ratio of the GPU says more than samples, which may miss short work.
        ({"utilization_ratio": 0.5, "processes": (sampled(7, None),)}, True),
        # Beside others: the samples, where there are any.
        ({"utilization_ratio": 0.5, "processes": (sampled(7, 0.0), sampled(9, 0.5))}, False),
        ({"utilization_ratio": 0.5, "processes": (sampled(7, None), sampled(9, 0.5))}, False),
        ({"utilization_ratio": 0.5, "processes": (sampled(7, 0.1), sampled(9, 0.5))}, True),
        ({"utilization_ratio": 0.5, "processes": (sampled(7, None), sampled(9, None))}, True),
    ],
)
def test_what_shows_that_a_gpu_works(fields: dict[str, Any], works: bool) -> None:
    assert shows_work(gpu(1, **fields), G, {7}) is works
    assert shows_work(gpu(1, **fields), f"{G}::1", {7}) is works


@pytest.mark.parametrize(
    ("fields", "works"),
    [
        ({}, True),  # NVML tells no utilisation of MIG devices: only profiling does
        ({"activity": GpuActivity()}, True),
        ({"activity": GpuActivity(sm_ratio=0.0)}, False),
        ({"activity": GpuActivity(sm_ratio=0.3)}, True),
        ({"activity": GpuActivity(sm_ratio=0.3), "processes": (sampled(7, 0.0), sampled(9, 0.3))}, False),
    ],
)
def test_what_shows_that_a_mig_device_works(fields: dict[str, Any], works: bool) -> None:
    reading = cut(1, device("MIG-a", 3, **fields), device("MIG-b", 3), utilization_ratio=0.0)
    assert shows_work(reading, "MIG-a", {7}) is works


def see(
    work: GroupWork, second: float, *ratios: float | None, engines: dict[str, EngineSeen] | None = None
) -> frozenset[str]:
    """GPU-0 is the first engine's, GPU-1 the second one's, ..."""
    engines = {"w": WORKER} if engines is None else engines
    gpus = [gpu(1, f"GPU-{n}", n, utilization_ratio=ratio) for n, ratio in enumerate(ratios)]
    owners = [Owner(name, ready=True, group=engine.group, works=None) for name, engine in engines.items()]
    views = {f"GPU-{n}": [SlotView(f"GPU-{n}", 1, None, "process", (owner,))] for n, owner in enumerate(owners)}
    return work.see(int(second * NS), snapshot(1, *gpus), views, engines)


def test_a_group_works_for_ten_seconds_after_its_last_sign() -> None:
    work, kept = GroupWork(), KEPT_NS / NS
    assert kept == 10
    assert see(work, 0, 0.0) == frozenset()
    assert see(work, 1, 0.7) == {"g"}
    assert see(work, 2, 0.0) == {"g"}
    assert see(work, 1 + kept - 0.1, 0.0) == {"g"}
    assert see(work, 1 + kept, 0.0) == frozenset()
    assert see(work, 13, None) == {"g"}


def test_any_slot_of_the_group_on_this_node_counts() -> None:
    second = WORKER._replace(pids=frozenset({8}))
    assert see(GroupWork(), 1, 0.0, 0.2, engines={"w": WORKER, "v": second}) == {"g"}
    assert see(GroupWork(), 1, 0.0, 0.2, engines={"w": WORKER, "s": SERVER}) == {"g"}
    other = second._replace(group="h")
    assert see(GroupWork(), 1, 0.0, 0.2, engines={"w": WORKER, "v": other}) == {"h"}


def test_workers_without_a_group_stand_for_themselves_and_servers_are_told_by_requests() -> None:
    nameless = WORKER._replace(group="")
    assert see(GroupWork(), 1, 0.2, engines={"w": nameless}) == {"w"}
    assert see(GroupWork(), 1, 0.2, engines={"s": SERVER}) == frozenset()


def test_a_group_that_went_is_forgotten() -> None:
    work = GroupWork()
    assert see(work, 1, 0.7) == {"g"}
    assert see(work, 2, engines={}) == frozenset()
    assert see(work, 3, 0.0) == frozenset()
