import pytest

from agent.core.cost.shapes import Efficiency, GpuPower, ModelShape, constants, kv_bytes_per_token, power_of

LLAMA_8B = ModelShape(
    active_parameters=8.03e9, kv_bytes_per_token=kv_bytes_per_token(32, 8, 128), source="config", told_by="test"
)


@pytest.mark.parametrize(
    ("name", "tera", "gigabytes"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4, 3352),
        ("NVIDIA H100 PCIe", 756.4, 2039),
        ("NVIDIA H100 NVL", 835.5, 3938),
        ("NVIDIA H200", 989.4, 4800),
        ("NVIDIA GH200 480GB", 989.4, 4000),
        ("NVIDIA H20", 148, 4000),
        ("NVIDIA B200", 2250, 8000),
        ("NVIDIA A100-SXM4-40GB", 312, 1555),
        ("NVIDIA A100-SXM4-80GB", 312, 2039),
        ("NVIDIA A100 80GB PCIe", 312, 1935),
        ("NVIDIA A100-PCIE-40GB", 312, 1555),
        ("NVIDIA L40S", 362, 864),
        ("NVIDIA L40", 181, 864),
        ("NVIDIA L4", 121, 300),
        ("NVIDIA A10", 125, 600),
        ("NVIDIA A10G", 70, 600),
        ("NVIDIA A40", 149.7, 696),
        ("Tesla T4", 65, 320),
        ("Tesla V100-SXM2-16GB", 125, 900),
        ("Tesla V100-PCIE-16GB", 112, 900),
        ("NVIDIA GeForce RTX 4090", 165.2, 1008),
        ("NVIDIA GeForce RTX 4080", 97.5, 717),
        ("NVIDIA GeForce RTX 3090", 71, 936),
    ],
)
def test_gpus_are_known_by_the_names_of_nvml(name: str, tera: float, gigabytes: float) -> None:
    power = power_of(name)
    assert power is not None
    assert (power.flops / 1e12, power.bandwidth / 1e9) == pytest.approx((tera, gigabytes))


@pytest.mark.parametrize("name", ["", "AMD Instinct MI300X", "NVIDIA GeForce GTX 1080", "nvidia h100"])
def test_other_gpus_are_not_guessed(name: str) -> None:
    assert power_of(name) is None


def test_the_roofline_of_llama_8b_on_an_h100() -> None:
    power = power_of("NVIDIA H100 80GB HBM3")
    assert power is not None
    found = constants(LLAMA_8B, [power])
    assert found is not None
    assert found.prefill_ns == pytest.approx(2 * 8.03e9 / (989.4e12 * 0.5) * 1e9)
    assert found.context_ns == pytest.approx(131072 / (3352e9 * 0.8) * 1e9)
    assert found.source == "shape"


def test_gpus_that_work_together_divide_both() -> None:
    power = GpuPower(1e15, 1e12)
    one, four = constants(LLAMA_8B, [power]), constants(LLAMA_8B, [power] * 4)
    assert one is not None
    assert four is not None
    assert (four.prefill_ns, four.context_ns) == pytest.approx((one.prefill_ns / 4, one.context_ns / 4))
    slice_of_it = constants(LLAMA_8B, [power.part(0.5)])
    assert slice_of_it is not None
    assert slice_of_it.prefill_ns == pytest.approx(2 * one.prefill_ns)


def test_fp8_counts_where_the_gpu_has_it() -> None:
    shape = ModelShape(active_parameters=1e9, source="engine", arithmetic="fp8")
    has, has_not = GpuPower(1e12, 1e12, 2e12), GpuPower(1e12, 1e12)
    with_it, without = constants(shape, [has], Efficiency(1, 1)), constants(shape, [has_not], Efficiency(1, 1))
    assert with_it is not None
    assert without is not None
    assert (with_it.prefill_ns, without.prefill_ns) == pytest.approx((1e6, 2e6))
    assert has.part(0.5).fp8_flops == 1e12
    assert has_not.part(0.5).fp8_flops is None


def test_what_is_not_known_is_not_charged() -> None:
    assert constants(LLAMA_8B, []) is None
    found = constants(ModelShape(active_parameters=1e9, source="engine"), [GpuPower(1e12, 1e12)])
    assert found is not None
    assert found.context_ns == 0
