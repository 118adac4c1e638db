"""Process lists and samples through genuine pynvml."""

import pynvml
import pytest

from tests.support.mig_bench import MIB, SEVEN, START_NS, held, mig_bench

NONE = 0xFFFFFFFF


@pytest.fixture
def bench():
    with mig_bench("h100x8") as bench:
        yield bench


@pytest.fixture
def gpu(bench):
    return pynvml.nvmlDeviceGetHandleByIndex(0)


def pids(entries):
    return [entry.pid for entry in entries]


def test_each_kind_has_its_list(bench, gpu):
    bench.control(processes={"0": [held(1), held(2, kind="graphics"), held(3, kind="mps"), held(4)]})
    assert pids(pynvml.nvmlDeviceGetComputeRunningProcesses_v3(gpu)) == [1, 4]
    assert pids(pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3(gpu)) == [2]
    assert pids(pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3(gpu)) == [3]
    (entry,) = pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3(gpu)
    assert (entry.usedGpuMemory, entry.gpuInstanceId, entry.computeInstanceId) == (512 * MIB, NONE, NONE)


def test_the_gpu_lists_those_of_its_mig_devices_too(bench, gpu):
    bench.control(mig={"0": SEVEN})
    listed = pynvml.nvmlDeviceGetComputeRunningProcesses_v3(gpu)
    assert [(entry.pid, entry.gpuInstanceId, entry.computeInstanceId) for entry in listed] == [
        (100 + number, 7 + number, 0) for number in range(7)
    ]
    device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 4)
    assert pids(pynvml.nvmlDeviceGetComputeRunningProcesses_v3(device)) == [104]


def test_without_rights_nobody_lists_them(bench, gpu):
    bench.control(mig={"0": SEVEN}, mig_rights=False)
    for handle in (gpu, pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)):
        with pytest.raises(pynvml.NVMLError_NoPermission):
            pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)


def test_samples(bench, gpu):
    bench.control(load={"0": 0.9}, processes={"0": [held(1), held(2, sm_ratio=0.0)]})
    bench.read()
    samples = pynvml.nvmlDeviceGetProcessUtilization(gpu, 0)
    assert {(sample.pid, sample.smUtil) for sample in samples} == {(1, 90)}
    assert samples[-1].timeStamp == START_NS // 1000 + 1_000_000  # Unix microseconds
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetProcessUtilization(gpu, samples[-1].timeStamp)


def test_no_process_is_a_success_that_pynvml_raises(bench, gpu):
    with pytest.raises(pynvml.NVMLError) as raised:
        pynvml.nvmlDeviceGetProcessUtilization(gpu, 0)
    assert raised.value.value == 0


def test_no_samples_in_mig_mode(bench, gpu):
    bench.control(mig={"0": SEVEN})
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetProcessUtilization(gpu, 0)
