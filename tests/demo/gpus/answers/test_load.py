"""Load as a program sees it that knows only NVML."""

import pynvml
import pytest


def test_engines(simulated, gpu_handle):
    simulated.wish(encoder_percent=65, jpeg_percent=4)
    assert pynvml.nvmlDeviceGetEncoderUtilization(gpu_handle)[0] == 65
    assert pynvml.nvmlDeviceGetDecoderUtilization(gpu_handle)[0] == 0
    assert pynvml.nvmlDeviceGetJpgUtilization(gpu_handle)[0] == 4
    assert pynvml.nvmlDeviceGetOfaUtilization(gpu_handle)[0] == 0


def test_no_memory_of_its_own(simulated, gpu_handle):
    simulated.wish(memory_shared=True)
    for version in (None, pynvml.nvmlMemory_v2):
        with pytest.raises(pynvml.NVMLError_NotSupported):
            pynvml.nvmlDeviceGetMemoryInfo(gpu_handle, version=version)


def test_performance_state(simulated, gpu_handle):
    simulated.wish(load=1.0)
    assert pynvml.nvmlDeviceGetPerformanceState(gpu_handle) == 0
