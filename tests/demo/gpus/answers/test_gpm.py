"""GPM through genuine pynvml."""

import ctypes

import pynvml
import pytest

from agent.demo.gpus.control import Control
from tests.support.mig_bench import SEVEN, mig_bench, part

NS = 1_000_000_000


@pytest.fixture
def bench():
    with mig_bench("h100x8") as bench:
        yield bench


@pytest.fixture
def gpu(bench):
    return pynvml.nvmlDeviceGetHandleByIndex(0)


def percent(older, newer, metric=1):
    asked = pynvml.c_nvmlGpmMetricsGet_t()
    asked.version, asked.numMetrics = pynvml.NVML_GPM_METRICS_GET_VERSION, 1
    asked.sample1, asked.sample2 = older, newer
    asked.metrics[0].metricId = metric
    answer = pynvml.nvmlGpmMetricsGet(asked).metrics[0]
    return answer.value if answer.nvmlReturn == 0 else answer.nvmlReturn


def passing(bench, seconds):
    bench.now_ns += int(seconds * NS)
    bench.node.advance(bench.now_ns)


def test_the_struct_is_as_large_as_the_drivers():
    assert ctypes.sizeof(pynvml.c_nvmlGpmMetricsGet_t) == 19104


def test_a_ratio_is_exact_at_any_distance(bench, gpu):
    assert pynvml.nvmlGpmQueryDeviceSupport(gpu).isSupportedDevice == 1
    older, newer = pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()
    pynvml.nvmlGpmSampleGet(gpu, older)
    for load, seconds in ((1.0, 3), (0.0, 5), (0.5, 4)):
        bench.node.apply(Control(load={"0": load}))
        passing(bench, seconds)
    pynvml.nvmlGpmSampleGet(gpu, newer)
    assert percent(older, newer) == pytest.approx(100 * 5 / 12)
    assert percent(older, newer, 5) == pytest.approx(55 * 5 / 12)
    assert percent(older, newer, 60) == pynvml.NVML_ERROR_NOT_SUPPORTED


def test_samples_that_cannot_be_compared(bench, gpu):
    older, newer, empty = (pynvml.nvmlGpmSampleAlloc() for _ in range(3))
    pynvml.nvmlGpmSampleGet(gpu, older)
    pynvml.nvmlGpmSampleGet(gpu, newer)
    for pair in ((older, newer), (older, empty), (newer, older)):
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            percent(*pair)
    passing(bench, 1)
    pynvml.nvmlGpmSampleGet(pynvml.nvmlDeviceGetHandleByIndex(1), newer)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        percent(older, newer)


def test_freed_buffers(bench, gpu):
    buffer = pynvml.nvmlGpmSampleAlloc()
    pynvml.nvmlGpmSampleFree(buffer)
    for call in (lambda: pynvml.nvmlGpmSampleFree(buffer), lambda: pynvml.nvmlGpmSampleGet(gpu, buffer)):
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            call()


def test_in_mig_mode_by_gpu_instance(bench, gpu):
    bench.control(mig={"0": SEVEN})
    older, newer = pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlGpmSampleGet(gpu, older)
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlGpmMigSampleGet(gpu, 2, older)
    pynvml.nvmlGpmMigSampleGet(gpu, 9, older)
    passing(bench, 1)
    pynvml.nvmlGpmMigSampleGet(gpu, 9, newer)
    assert percent(older, newer) == pytest.approx(100 * 2 / 7)
    bench.control(mig={"0": []})
    bench.control(mig={"0": [part("1g.10gb", 9)]})
    passing(bench, 1)
    pynvml.nvmlGpmMigSampleGet(gpu, 9, newer)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        percent(older, newer)


def test_before_hopper():
    with mig_bench("rtx4080sx2"):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        assert pynvml.nvmlGpmQueryDeviceSupport(gpu).isSupportedDevice == 0
        with pytest.raises(pynvml.NVMLError_NotSupported):
            pynvml.nvmlGpmSampleGet(gpu, pynvml.nvmlGpmSampleAlloc())


def test_an_overshoot_can_be_asked_for(bench, gpu):
    bench.control(load={"0": 1.0}, activity={"sm": 1.29})
    older, newer = pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()
    pynvml.nvmlGpmSampleGet(gpu, older)
    passing(bench, 1)
    pynvml.nvmlGpmSampleGet(gpu, newer)
    assert percent(older, newer, 2) == pytest.approx(129)
