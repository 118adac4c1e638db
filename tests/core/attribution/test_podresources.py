import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.attribution.podresources import (
    ClaimedDevice,
    ContainerDevices,
    Devices,
    decode_allocatable,
    decode_list,
)
from tests.support.kubelet import MESSAGES, allocatable, claim, pod


def listed(*pods: object) -> bytes:
    answer: bytes = MESSAGES["ListPodResourcesResponse"](pod_resources=pods).SerializeToString()
    return answer


def test_devices_and_claims_of_containers() -> None:
    raw = listed(
        pod("ml", "a-0", "server", {"nvidia.com/gpu": ["GPU-1", "GPU-2"], "example.com/nic": ["n0"]}),
        pod("ml", "b-0", "server", {}, [claim("two", "ml", "gpu-0", "gpu-1")]),
        pod("ml", "old-0", "server", {}, [claim("old", "ml", "gpu-2", cdi=True)]),
        pod("kube-system", "dns", "dns", {}),
    )
    gpu = [
        ClaimedDevice(claim="two", claim_namespace="ml", driver="gpu.nvidia.com", pool="node-1", device=f"gpu-{n}")
        for n in range(2)
    ]
    old = ClaimedDevice(claim="old", claim_namespace="ml", driver="gpu.nvidia.com", pool="", device="gpu-2")
    assert decode_list(raw) == (
        ContainerDevices(
            namespace="ml",
            pod="a-0",
            container="server",
            devices=(
                Devices("nvidia.com/gpu", ("GPU-1",)),
                Devices("nvidia.com/gpu", ("GPU-2",)),
                Devices("example.com/nic", ("n0",)),
            ),
        ),
        ContainerDevices(namespace="ml", pod="b-0", container="server", claimed=tuple(gpu)),
        ContainerDevices(namespace="ml", pod="old-0", container="server", claimed=(old,)),
    )


def test_allocatable_devices() -> None:
    answer = MESSAGES["AllocatableResourcesResponse"](
        devices=allocatable({"nvidia.com/gpu": ["GPU-1", "GPU-2"]}), cpu_ids=[1, 2]
    )
    assert decode_allocatable(answer.SerializeToString()) == (
        Devices("nvidia.com/gpu", ("GPU-1",)),
        Devices("nvidia.com/gpu", ("GPU-2",)),
    )
    assert decode_allocatable(b"") == ()


@given(st.binary(max_size=300), st.integers(0, 400))
def test_damaged_answers_are_refused_or_read(noise: bytes, at: int) -> None:
    raw = listed(pod("ml", "a-0", "server", {"nvidia.com/gpu": ["GPU-1"]}, [claim("c", "ml", "gpu-0")]))
    for damaged in (noise, raw[:at] + noise + raw[at:]):
        for decode in (decode_list, decode_allocatable):
            try:
                decode(damaged)
            except ValueError:
                pass


def test_a_cut_answer_is_refused() -> None:
    raw = listed(pod("ml", "a-0", "server", {"nvidia.com/gpu": ["GPU-1"]}))
    with pytest.raises(ValueError, match=r"."):
        decode_list(raw[:-3])
