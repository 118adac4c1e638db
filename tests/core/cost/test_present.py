from typing import Any

import pytest

from agent.core.cost.live import Live
from agent.core.cost.present import PresentSlot, present
from agent.core.cost.tariff import Tariff
from agent.core.gpu_readings import GpuReading, GpuSnapshot
from tests.support.engine_groups import GROUP, scraped, worker
from tests.support.money import NS, UPSTREAM, book, engine
from tests.support.slots import GIB, cut, device, gpu, held, known, pod, process, snapshot

T0 = 1_800_000_000 * NS
NOW = T0 + NS
A, B = pod("a"), pod("b")
FULL = {"memory_total_bytes": 80 * GIB, "memory_free_bytes": 60 * GIB}


def seen(*found: GpuReading, who: Any = None) -> Tariff:
    tariff = Tariff(book())
    tariff.see_gpus(T0, snapshot(T0, *found))
    if who is not None:
        tariff.see_workloads(T0, who)
    return tariff


def now(tariff: Tariff) -> dict[str, PresentSlot]:
    found = present(tariff, NOW)
    assert len({slot.slot for slot in found}) == len(found)
    return {slot.slot: slot for slot in found}


def memory(uuid: str, gib: int, free: int, **fields: Any) -> Any:
    return device(uuid, memory_total_bytes=gib * GIB, memory_free_bytes=free * GIB, **fields)


@pytest.mark.parametrize(
    ("pids", "who", "state", "reason", "stranded"),
    [
        ((), None, "unallocated", "no_process", None),
        ((), known(), "unallocated", "free", None),
        ((), known(0, held("GPU-0", A)), "allocated_idle", "held_no_process", 60 * GIB),
        ((7,), known(0, held("GPU-0", A)), "other_workload", "process", 60 * GIB),
        ((7,), known(), "other_workload", "not_allocated", 60 * GIB),
    ],
)
def test_a_gpu_now(pids: tuple[int, ...], who: Any, state: str, reason: str, stranded: int | None) -> None:
    tariff = seen(gpu(T0, processes=tuple(map(process, pids)), simulated=True, **FULL), who=who)
    slot = now(tariff)["GPU-0"]
    assert (slot.gpu, slot.index, slot.kind, slot.profile) == ("GPU-0", 0, "gpu", "")
    assert (slot.state, slot.reason, slot.stranded_bytes) == (state, reason, stranded)
    assert slot.stranded_cause == ("" if stranded is None else "held_free")
    assert (slot.weight, slot.weights, slot.memory_total_bytes, slot.memory_free_bytes) == (1, 1, 80 * GIB, 60 * GIB)
    assert slot.holders == ((A,) if who is not None and who.holdings else ())
    assert slot.simulated


@pytest.mark.parametrize(
    ("state", "running", "requests", "shown"),
    [
        ("ready", 0.0, [], "loaded_idle"),
        ("starting", 0.0, [], "warmup"),
        ("ready", 2.0, [], "unattributed"),
        ("ready", None, [], "loaded_idle"),
        ("ready", 2.0, [None], "request"),
        ("ready", 0.0, [T0 + 1], "loaded_idle"),  # it has ended
    ],
)
def test_what_an_engine_does_now(state: str, running: float | None, requests: list[Any], shown: str) -> None:
    tariff = seen(gpu(T0, processes=(process(7),), **FULL))
    tariff.see_engine(T0, engine(T0, state=state, running=running))
    for number, ended in enumerate(requests):
        tariff.add(Live(str(number), UPSTREAM, "vllm", T0, ended_ns=ended))
    slot = now(tariff)["GPU-0"]
    assert (slot.state, slot.reason, slot.engines) == (shown, "configured", ("vllm",))
    assert (slot.stranded_bytes, slot.stranded_cause) == (60 * GIB, "held_free")


def test_mig_devices_and_what_none_of_them_has() -> None:
    """Sizes of the H100 captured, in whole GiB."""
    devices = [memory("MIG-a", 40, 30, slices=3), memory("MIG-b", 10, 9, slices=1)]
    found = now(seen(cut(T0, *devices, **FULL), who=known(0, held("MIG-a", A))))
    assert [(slot.slot, slot.kind, slot.profile, slot.weight, slot.weights) for slot in found.values()] == [
        ("MIG-a", "mig", "3g.30gb", 3, 7),
        ("MIG-b", "mig", "1g.10gb", 1, 7),
        ("GPU-0", "rest", "", 3, 7),
    ]
    assert [(slot.stranded_bytes, slot.stranded_cause) for slot in found.values()] == [
        (30 * GIB, "held_free"),
        (None, ""),
        (21 * GIB, "mig_unpartitioned"),
    ]


def test_memory_that_seven_small_devices_leave() -> None:
    devices = [memory(f"MIG-{i}", 10, 9, slices=1) for i in range(7)]
    rest = now(seen(cut(T0, *devices, memory_total_bytes=80 * GIB, memory_free_bytes=73 * GIB)))["GPU-0"]
    assert (rest.weight, rest.kind, rest.stranded_bytes) == (0, "rest", 10 * GIB)
    assert "GPU-0" not in now(seen(cut(T0, *devices, memory_total_bytes=80 * GIB, memory_free_bytes=63 * GIB)))
    assert "GPU-0" not in now(seen(cut(T0, *devices)))  # not known


def test_a_gpu_in_mig_mode_without_devices() -> None:
    (rest,) = now(seen(cut(T0, **FULL))).values()
    assert (rest.slot, rest.kind, rest.stranded_bytes, rest.weight, rest.weights) == ("GPU-0", "rest", 60 * GIB, 7, 7)


def test_memory_of_a_gpu_instance_counts_once() -> None:
    both = {"gpu_instance": 1, "gpu_instance_slices": 3}
    devices = [
        memory("MIG-a", 40, 30, slices=1, compute_slices=1, **both),
        memory("MIG-b", 40, 30, slices=2, compute_slices=2, **both),
    ]
    found = now(seen(cut(T0, *devices, **FULL), who=known(0, held("MIG-a", A), held("MIG-b", B))))
    assert [(slot.memory_total_bytes or 0) // GIB for slot in found.values()] == [13, 26, 40]
    assert found["MIG-a"].stranded_bytes == 10 * GIB
    assert found["MIG-b"].stranded_bytes == 20 * GIB
    assert found["GPU-0"].stranded_bytes == 30 * GIB


def test_what_a_free_share_has_is_not_stranded() -> None:
    found = now(seen(gpu(T0, **FULL), who=known(0, held("GPU-0", A, "1"), replicas={"GPU-0": 3})))
    assert [(slot.slot, slot.kind, slot.state, slot.stranded_bytes) for slot in found.values()] == [
        ("GPU-0::0", "share", "unallocated", None),
        ("GPU-0::1", "share", "allocated_idle", 20 * GIB),
        ("GPU-0::2", "share", "unallocated", None),
    ]


@pytest.mark.parametrize(
    "fields", [{}, {"memory_source": "system", **FULL}], ids=["not told", "memory of the CPU, too"]
)
def test_memory_that_is_not_known_is_not_stranded(fields: dict[str, Any]) -> None:
    slot = now(seen(gpu(T0, **fields), who=known(0, held("GPU-0", A))))["GPU-0"]
    assert (slot.state, slot.memory_free_bytes, slot.stranded_bytes) == ("allocated_idle", None, None)


def test_memory_of_one_device_that_is_not_known_hides_the_rest() -> None:
    found = now(seen(cut(T0, memory("MIG-a", 40, 30, slices=3), device("MIG-b", 1), **FULL)))
    assert found["GPU-0"].stranded_bytes is None


def test_gpus_that_are_broken_gone_or_not_watched() -> None:
    tariff = seen(gpu(T0), gpu(T0, "GPU-1", 1), gpu(T0, "GPU-2", 2))
    tariff.see_gpus(T0 + 1, snapshot(T0 + 1, gpu(T0, "GPU-2", 0, state="lost", **FULL), gpu(T0, "GPU-0", 1)))
    found = present(tariff, T0 + 2)
    assert [(slot.gpu, slot.index, slot.state, slot.reason) for slot in found] == [
        ("GPU-2", 0, "broken", "lost"),
        ("GPU-0", 1, "unallocated", "no_process"),
        ("GPU-1", None, "broken", "missing"),
    ]
    assert {slot.stranded_bytes for slot in found} == {None}
    assert {(slot.state, slot.reason) for slot in present(tariff, T0 + 60 * NS)} == {("gap", "not_watched")}
    tariff.see_gpus(T0 + 61 * NS, GpuSnapshot(read_at_ns=1, driver="no_driver", gpus=(gpu(1),)))
    assert {(slot.state, slot.reason) for slot in present(tariff, T0 + 62 * NS)} == {("gap", "not_watched")}


def test_before_the_first_snapshot_there_is_nothing() -> None:
    assert present(Tariff(None), NOW) == ()


@pytest.mark.parametrize(
    ("ratio", "state", "reason"),
    [(0.4, "unattributed", "group_worker"), (0.0, "loaded_idle", "group_idle")],
)
def test_a_worker_of_an_engine_on_another_node_now(ratio: float, state: str, reason: str) -> None:
    tariff = seen(gpu(T0, processes=(process(7),), utilization_ratio=ratio))
    tariff.see_engine(T0, scraped(worker(7, name="w")))
    slot = now(tariff)["GPU-0"]
    assert (slot.state, slot.reason, slot.engines, slot.groups) == (state, reason, ("w",), (GROUP,))
