"""Who a simulated GPU is."""

import pynvml


def test_identity(gpu_handle):
    assert pynvml.nvmlDeviceGetBrand(gpu_handle) == pynvml.NVML_BRAND_NVIDIA
    assert pynvml.nvmlDeviceGetNumGpuCores(gpu_handle) == 16896
    assert pynvml.nvmlDeviceGetComputeMode(gpu_handle) == pynvml.NVML_COMPUTEMODE_DEFAULT
    assert pynvml.nvmlDeviceGetPersistenceMode(gpu_handle) == 1
