"""PCIe and NVLink as a program sees them that knows only NVML."""

import pynvml
import pytest

ALL_LINKS = 0xFFFFFFFF


def test_the_link(gpu_handle):
    assert pynvml.nvmlDeviceGetCurrPcieLinkGeneration(gpu_handle) == 5
    assert pynvml.nvmlDeviceGetMaxPcieLinkGeneration(gpu_handle) == 5
    assert pynvml.nvmlDeviceGetCurrPcieLinkWidth(gpu_handle) == pynvml.nvmlDeviceGetMaxPcieLinkWidth(gpu_handle) == 16
    assert pynvml.nvmlDeviceGetPcieReplayCounter(gpu_handle) == 0
    window = pynvml.nvmlDeviceGetBAR1MemoryInfo(gpu_handle)
    assert window.bar1Used + window.bar1Free == window.bar1Total == 128 * 2**30


def test_throughput_and_counters_agree(simulated, gpu_handle):
    simulated.wish(load=0.5)
    simulated.read(2)
    received = pynvml.nvmlDeviceGetFieldValues(gpu_handle, [198])[0].value.ullVal
    assert received == 2 * 10**9
    assert pynvml.nvmlDeviceGetPcieThroughput(gpu_handle, 1) == pytest.approx(10**9 / 1024, abs=1)


def test_links_one_by_one_and_in_all(simulated, gpu_handle):
    simulated.wish(load=1.0, nvlinks_down=[3])
    simulated.read()
    assert [pynvml.nvmlDeviceGetNvLinkState(gpu_handle, link) for link in (2, 3)] == [1, 0]
    in_all, one, beyond = pynvml.nvmlDeviceGetFieldValues(gpu_handle, [(138, ALL_LINKS), (138, 0), (138, 18)])
    assert in_all.value.ullVal == pytest.approx(18 * one.value.ullVal, abs=18)
    assert beyond.nvmlReturn == pynvml.NVML_ERROR_NOT_SUPPORTED
