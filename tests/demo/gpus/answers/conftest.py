"""One simulated GPU behind genuine pynvml."""

import pynvml
import pytest

from tests.support.gpu_bench import GpuBench


@pytest.fixture
def simulated():
    bench = GpuBench()
    yield bench
    bench.close()


@pytest.fixture
def gpu_handle(simulated):
    return pynvml.nvmlDeviceGetHandleByIndex(0)
