"""MIG through genuine pynvml."""

import pynvml
import pytest

from tests.support.mig_bench import MIB, SEVEN, mig_bench, part


@pytest.fixture
def bench():
    with mig_bench() as bench:
        yield bench


@pytest.fixture
def gpu(bench):
    return pynvml.nvmlDeviceGetHandleByIndex(0)


def test_mode(bench, gpu):
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [1, 1]
    assert pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu) == 7
    bench.control(mig={"0": None})
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [0, 0]
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)


def test_a_gpu_without_mig():
    with mig_bench("rtx4080sx2"):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        with pytest.raises(pynvml.NVMLError_NotSupported):
            pynvml.nvmlDeviceGetMigMode(gpu)
        assert pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu) == 0


def test_a_device(gpu):
    device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)
    assert pynvml.nvmlDeviceGetUUID(device).startswith("MIG-")
    assert pynvml.nvmlDeviceGetName(device) == "NVIDIA H100 80GB HBM3 MIG 3g.40gb"
    assert (pynvml.nvmlDeviceGetGpuInstanceId(device), pynvml.nvmlDeviceGetComputeInstanceId(device)) == (2, 0)
    assert pynvml.nvmlDeviceIsMigDeviceHandle(device).value == 1
    assert pynvml.nvmlDeviceIsMigDeviceHandle(gpu).value == 0
    parent = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device)
    assert pynvml.nvmlDeviceGetUUID(parent) == pynvml.nvmlDeviceGetUUID(gpu)
    has = pynvml.nvmlDeviceGetAttributes_v2(device)
    assert (has.gpuInstanceSliceCount, has.multiprocessorCount, has.memorySizeMB) == (3, 60, 40448)
    memory = pynvml.nvmlDeviceGetMemoryInfo(device, version=pynvml.nvmlMemory_v2)
    assert (memory.total, memory.reserved) == (40448 * MIB, 0)
    assert memory.used + memory.free == memory.total
    assert pynvml.nvmlDeviceGetMemoryInfo(device).used == memory.used


def test_what_a_device_does_not_say(gpu):
    device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)
    for function in (pynvml.nvmlDeviceGetPowerUsage, pynvml.nvmlDeviceGetUtilizationRates, pynvml.nvmlDeviceGetSerial):
        with pytest.raises(pynvml.NVMLError_NotSupported):
            function(device)


def test_what_the_gpu_does_not_say(gpu):
    for function in (pynvml.nvmlDeviceGetUtilizationRates, pynvml.nvmlDeviceGetGpuInstanceId):
        with pytest.raises(pynvml.NVMLError_NotSupported):
            function(gpu)
    assert pynvml.nvmlDeviceGetPowerUsage(gpu) == 71200


def test_there_is_no_device_at_this_index(gpu):
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 4)


def test_handles_die(bench, gpu):
    device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)
    bench.control(mig={"0": SEVEN})
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetUUID(device)
    bench.control(mig={"0": None})
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetUUID(device)


def test_profiles(bench, gpu):
    whole = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, pynvml.NVML_GPU_INSTANCE_PROFILE_7_SLICE)
    assert (whole.sliceCount, whole.multiprocessorCount, whole.name) == (7, 132, "MIG 7g.80gb")
    older = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE, version=1)
    assert (older.sliceCount, older.memorySizeMB) == (1, 9984)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, pynvml.NVML_GPU_INSTANCE_PROFILE_8_SLICE)


def test_placement_is_for_those_with_the_right(bench, gpu):
    instance = pynvml.nvmlDeviceGetGpuInstanceById(gpu, 10)
    info = pynvml.nvmlGpuInstanceGetInfo(instance)
    assert (info.id, info.placement.start) == (10, 3)
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetGpuInstanceById(gpu, 5)
    bench.control(mig={"0": [part("1g.10gb", 10)]}, mig_rights=False)
    with pytest.raises(pynvml.NVMLError_NoPermission):
        pynvml.nvmlDeviceGetGpuInstanceById(gpu, 10)
    bench.control(mig={"0": []})
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlGpuInstanceGetInfo(instance)
