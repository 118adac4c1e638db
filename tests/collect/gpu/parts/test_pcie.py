"""The PCIe link and its counters."""

import pytest

from agent.collect.gpu.parts.pcie import ERRORS


def test_the_link_and_its_counters(bench):
    bench.wish(load=0.5, pcie_replays=9, pcie_errors=2)
    pcie = bench.read(61).pcie
    assert (pcie.generation, pcie.generation_max, pcie.width, pcie.width_max) == (5, 5, 16, 16)
    assert (pcie.received_bytes, pcie.transmitted_bytes) == (61 * 10**9, 61 * 250 * 10**6)
    assert pcie.replays == 9
    assert pcie.errors == dict.fromkeys(ERRORS, 2)


def test_the_measurement_of_20_ms_is_never_asked_for(bench):
    bench.read(130)
    assert "nvmlDeviceGetPcieThroughput" not in bench.calls.counts
    assert "nvmlDeviceGetPcieReplayCounter" not in bench.calls.counts


def test_an_older_driver_has_only_calls(bench):
    bench.control(returns={"nvmlDeviceGetFieldValues": {"0": 3}})
    pcie = bench.read().pcie
    assert (pcie.generation, pcie.replays, pcie.received_bytes, pcie.errors) == (5, 0, None, None)


def test_counters_of_32_bits_are_widened(gpu_bench):
    bench = gpu_bench(pcie_bits=32)
    bench.wish(load=0.05)
    pcie = bench.read(101).pcie
    assert pcie.received_bytes == pytest.approx(101 * 10**8)


def test_counters_of_32_bits_that_are_too_slow_are_absent(gpu_bench):
    bench = gpu_bench(pcie_bits=32)
    bench.wish(load=0.15)
    assert bench.read(31).pcie.received_bytes is None
    assert bench.calls.errors["field 198: 32 bits are too few for this traffic"] == 3


def test_nothing_absurd(bench):
    bench.wish(
        values=dict.fromkeys(("nvmlDeviceGetCurrPcieLinkGeneration", "nvmlDeviceGetCurrPcieLinkWidth"), 0xFFFFFFFF),
        fields={94: 0xFFFFFFFF, 197: 2**63 - 14},
    )
    pcie = bench.read().pcie
    assert (pcie.generation, pcie.width, pcie.replays, pcie.transmitted_bytes) == (None, None, None, None)
    assert pcie.generation_max == 5
