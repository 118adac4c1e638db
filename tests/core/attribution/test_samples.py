from typing import Any

import pytest

from agent.core.attribution.samples import attribution_samples
from agent.core.catalogue_workloads import WORKLOADS
from agent.core.gpu_readings import GpuSnapshot
from agent.core.workloads import Attribution, Feature, Holding, SlotUser, Workload
from tests.support.gpu_slots import AT_NS, gpu, gpu_uuid, mig, mig_uuid, process, snapshot

A, B = Workload(namespace="ml", pod="a", container="c"), Workload(namespace="ml", pod="b", container="c")
NODE = snapshot(
    gpu(0, process(1, 100, 0.6), process(2, 50, 0.3), utilization_ratio=0.6, power_watts=500.0),
    gpu(1, power_watts=70.0, mig_slices=7, mig=(mig(10, 7, process(3, 9), sm=0.5, slices=2),), processes=None),
)


def holding(slot: str, workload: Workload, replica: str | None = None) -> Holding:
    return Holding(slot=slot, workload=workload, resource="nvidia.com/gpu", source="pod_resources", replica=replica)


TOLD = Attribution(
    read_at_ns=AT_NS,
    holdings=(holding(gpu_uuid(0), A, "0"), holding(gpu_uuid(0), B, "1"), holding(mig_uuid(10), B)),
    users=(
        SlotUser(slot=gpu_uuid(0), pid=1, workload=A),
        SlotUser(slot=gpu_uuid(0), pid=2, workload=B),
        SlotUser(slot=mig_uuid(10), pid=3, workload=Workload(job="4711")),
    ),
    replicas={gpu_uuid(0): 4},
    holders_known=True,
    users_known=True,
    unresolved={"slot_not_seen": 2},
    features=(Feature(name="host_pid", enabled=True), Feature(name="checkpoint", enabled=False, reason="why")),
)


def values(
    name: str, told: Attribution = TOLD, node: GpuSnapshot = NODE, idle: dict[str, float] | None = None
) -> dict[tuple[str, ...], float]:
    labels = {"mig_uuid", "workload_pod", "workload_job", "split", "reason", "feature"}
    return {
        tuple(value for label, value in sample.key.labels if label in labels): sample.value
        for sample in attribution_samples("n", node, told, idle)
        if sample.key.name == name
    }


def test_what_was_given() -> None:
    assert values("engineroom_gpu_allocation_ratio") == {
        ("equal", "a"): 0.25,
        ("equal", "b"): 0.25,
        (mig_uuid(10), "whole", "b"): 1.0,
    }


def test_what_is_used() -> None:
    assert values("engineroom_gpu_workload_processes") == {("a",): 1, ("b",): 1, (mig_uuid(10), "4711"): 1}
    assert values("engineroom_gpu_workload_memory_bytes") == {("a",): 100, ("b",): 50, (mig_uuid(10), "4711"): 9}


def test_sm_time_adds_up_to_the_devices() -> None:
    found = values("engineroom_gpu_workload_sm_ratio")
    assert found == pytest.approx({("sm", "a"): 0.4, ("sm", "b"): 0.2, (mig_uuid(10), "whole", "4711"): 0.5})


def test_power() -> None:
    found = values("engineroom_gpu_workload_power_watts", idle={gpu_uuid(0): 80.0, gpu_uuid(1): 70.0})
    assert found == pytest.approx(
        {
            ("sm", "a"): 20 + 280,
            ("sm", "b"): 20 + 140,
            ("sm",): 40,
            (mig_uuid(10), "mig_activity", "b"): 20,
            ("mig_activity",): 50,
        }
    )


def test_reasons_and_features() -> None:
    assert values("engineroom_gpu_unresolved") == {("slot_not_seen",): 2}
    assert values("engineroom_feature_enabled") == {("host_pid",): 1, ("checkpoint", "why"): 0}


def test_what_is_not_known_has_no_sample() -> None:
    node = snapshot(gpu(0, process(1, None), process(2, 5), utilization_ratio=0.5))
    assert values("engineroom_gpu_workload_memory_bytes", node=node) == {("b",): 5}
    assert values("engineroom_gpu_workload_sm_ratio", node=node) == {}
    assert values("engineroom_gpu_workload_power_watts", node=node) == {}


def test_every_sample_is_in_the_catalogue_with_its_labels() -> None:
    catalogue = {metric.name: set(metric.labels) for metric in WORKLOADS}
    seen: dict[str, Any] = {}
    for sample in attribution_samples("n", NODE, TOLD, {gpu_uuid(0): 80.0}):
        seen[sample.key.name] = sample
        assert {label for label, _ in sample.key.labels} <= catalogue[sample.key.name]
    assert set(seen) == set(catalogue)
    keys = [sample.key for sample in attribution_samples("n", NODE, TOLD, {})]
    assert len(keys) == len(set(keys)), "no series twice"
