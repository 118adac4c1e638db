import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.attribution.shares import (
    NOBODY,
    Share,
    Use,
    Who,
    allocation_shares,
    normalised,
    sm_weights,
    uses,
    who,
)
from agent.core.workloads import Attribution, Holding, SlotUser, Workload
from tests.support.gpu_slots import AT_NS, gpu, gpu_uuid, process, snapshot

A, B = Workload(namespace="ml", pod="a", container="c"), Workload(namespace="ml", pod="b", container="c")


def holding(workload: Workload, replica: str | None = None, resource: str = "nvidia.com/gpu") -> Holding:
    return Holding(slot=gpu_uuid(0), workload=workload, resource=resource, source="pod_resources", replica=replica)


def shares(*holdings: Holding, replicas: int | None = None) -> list[Share]:
    counts = {} if replicas is None else {gpu_uuid(0): replicas}
    return allocation_shares(Attribution(read_at_ns=AT_NS, holdings=holdings, replicas=counts))[gpu_uuid(0)]


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        (None, NOBODY),
        (Workload(), NOBODY),
        (A, Who("ml", "a", "c", "")),
        (Workload(pod_uid="u", container_id="0123456789abcdef"), Who("", "u", "0123456789ab", "")),
        (Workload(job="4711"), Who("", "", "", "4711")),
    ],
)
def test_names(workload: Workload | None, expected: Who) -> None:
    assert who(workload) == expected


def test_a_whole_device() -> None:
    assert shares(holding(A)) == [Share(who(A), "nvidia.com/gpu", 1.0, "whole")]


def test_replicas() -> None:
    found = shares(holding(A, "0"), holding(A, "1"), holding(B, "2"), replicas=4)
    assert found == [Share(who(A), "nvidia.com/gpu", 0.5, "equal"), Share(who(B), "nvidia.com/gpu", 0.25, "equal")]


def test_replicas_of_a_number_that_nobody_told() -> None:
    assert shares(holding(A, "0")) == [Share(who(A), "nvidia.com/gpu", None, "equal")]


def test_containers_that_share_a_claim() -> None:
    found = shares(holding(A, resource=""), holding(B, resource=""))
    assert found == [Share(who(A), "", 0.5, "equal"), Share(who(B), "", 0.5, "equal")]


def users(**pids: Workload | None) -> Attribution:
    found = tuple(SlotUser(slot=gpu_uuid(0), pid=int(pid[1:]), workload=one) for pid, one in pids.items())
    return Attribution(read_at_ns=AT_NS, users=found)


def test_uses_by_workload() -> None:
    node = snapshot(gpu(0, process(1, 100, 0.5), process(2, 50), process(3, None), process(4, 7, kind="mps")))
    found = uses(node, users(p1=A, p2=A, p3=B))[gpu_uuid(0)]
    assert found == {
        who(A): Use(processes=2, memory_bytes=150, sm_ratio=0.5, mps=False),
        who(B): Use(processes=1, memory_bytes=None, sm_ratio=0.0, mps=False),
        NOBODY: Use(processes=1, memory_bytes=7, sm_ratio=0.0, mps=True),
    }


def test_sm_time_is_unknown_without_samples_and_under_mps() -> None:
    def use(sm: float | None, *, mps: bool = False) -> Use:
        return Use(processes=1, memory_bytes=1, sm_ratio=sm, mps=mps)

    a, b = who(A), who(B)
    assert sm_weights({a: use(0.6), b: use(0.2)}) == {a: pytest.approx(0.75), b: pytest.approx(0.25)}
    assert sm_weights({a: use(None), b: use(None)}) is None
    assert sm_weights({a: use(0.0), b: use(0.0)}) is None
    assert sm_weights({a: use(0.5, mps=True), b: use(0.1)}) is None
    assert sm_weights({a: use(0.5, mps=True)}) == {a: 1.0}
    assert sm_weights({}) is None


@given(st.lists(st.tuples(st.sampled_from([who(A), who(B), NOBODY]), st.floats(0, 5)), max_size=6))
def test_normalised_weights_add_up_to_one(weights: list[tuple[Who, float]]) -> None:
    assert sum(normalised(weights).values()) == pytest.approx(1)
