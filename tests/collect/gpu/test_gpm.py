import pynvml
import pytest

from agent.collect.gpu.calls import GpuUnavailable
from agent.collect.gpu.gpm import GpmSampler
from agent.collect.gpu.meters import NS
from tests.support.mig_bench import mig_bench


class Sampled:
    def __init__(self, bench):
        self.bench = bench
        self.node, self.calls = bench.node, bench.calls
        self.handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        self.sampler = GpmSampler(self.calls, "gpu", 5 * NS)

    def read(self, seconds=1.0, period_ns=NS):
        self.bench.now_ns += int(seconds * NS)
        self.node.advance(self.bench.now_ns)
        return self.sampler.read(self.take, self.bench.now_ns, period_ns)

    def take(self, buffer):
        return self.calls.value("gpu", "nvmlGpmSampleGet", self.handle, buffer)


@pytest.fixture
def sampled():
    with mig_bench("h100x8") as bench:
        yield Sampled(bench)


def test_ratios_are_those_of_the_time_between_two_samples(sampled):
    sampled.bench.control(load={"0": 0.5})
    assert sampled.read() is None
    activity = sampled.read()
    assert (activity.graphics_engine_ratio, activity.tensor_ratio) == pytest.approx((0.5, 0.275))
    # Half a second of rest, then half a second of full load: no sample at an instant would show it.
    sampled.bench.control(load={"0": 0.0})
    sampled.node.advance(sampled.bench.now_ns + NS // 2)
    sampled.bench.control(load={"0": 1.0})
    assert sampled.read().graphics_engine_ratio == pytest.approx(0.5)


def test_samples_are_a_period_apart(sampled):
    sampled.bench.control(load={"0": 1.0})
    sampled.read()
    first = sampled.read()
    sampled.bench.control(load={"0": 0.0})
    assert sampled.read(0.5) is first
    assert sampled.calls.counts["nvmlGpmSampleGet"] == 2
    assert sampled.read(0.45).graphics_engine_ratio == 0  # a tick may come a little early
    assert sampled.calls.counts["nvmlGpmSampleGet"] == 3


def test_nothing_is_said_about_a_long_silence(sampled):
    sampled.bench.control(load={"0": 1.0})
    sampled.read()
    assert sampled.read(6) is None
    assert sampled.read().graphics_engine_ratio == 1


def test_two_buffers_for_ever(sampled):
    for _ in range(50):
        sampled.read()
    assert len(sampled.node.gpm_samples) == 2
    sampled.sampler.free()
    assert len(sampled.node.gpm_samples) == 0


def test_giving_back_to_a_driver_that_has_gone(sampled):
    sampled.read()
    sampled.bench.control(driver="unloaded")
    sampled.sampler.free()


def test_a_ratio_over_one_is_one_and_counted(sampled):
    sampled.bench.control(load={"0": 1.0}, activity={"sm": 1.29, "tensor": 7.0})
    sampled.read()
    activity = sampled.read()
    assert (activity.sm_ratio, activity.tensor_ratio, activity.graphics_engine_ratio) == (1, None, 1)
    assert sampled.calls.errors == {"nvmlGpmMetricsGet: over 100 % (0)": 1, "nvmlGpmMetricsGet: no percentage (0)": 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 140737488355328.0])
def test_what_is_no_ratio(sampled, value):
    genuine = sampled.bench.library.nvmlGpmMetricsGet

    def odd(asked):
        code = genuine(asked)
        asked._obj.metrics[0].value = value
        asked._obj.metrics[1].nvmlReturn = 3
        return code

    sampled.bench.library.nvmlGpmMetricsGet = odd
    sampled.bench.control(load={"0": 1.0})
    sampled.read()
    activity = sampled.read()
    assert (activity.graphics_engine_ratio, activity.sm_ratio, activity.dram_ratio) == (None, None, 0.5)


@pytest.mark.parametrize("function", ["nvmlGpmSampleGet", "nvmlGpmMetricsGet"])
@pytest.mark.parametrize("code", [2, 17, 19, 999])
def test_a_call_that_fails_now_and_then(sampled, function, code):
    sampled.read()
    sampled.bench.control(load={"0": 1.0}, returns={function: {"0": code, "*": code}})
    assert sampled.read() is None
    sampled.bench.control(load={"0": 1.0})
    assert sampled.read().graphics_engine_ratio == pytest.approx(1)
    assert len(sampled.node.gpm_samples) == 2


@pytest.mark.parametrize("function", ["nvmlGpmSampleAlloc", "nvmlGpmSampleGet", "nvmlGpmMetricsGet"])
@pytest.mark.parametrize("code", [3, 4, 13])
def test_a_call_that_is_never_answered_is_made_once(sampled, function, code):
    sampled.bench.control(returns={function: {"0": code, "*": code}})
    assert [sampled.read() for _ in range(5)] == [None] * 5
    assert sampled.calls.counts[function] == 1


def test_a_lost_gpu(sampled):
    sampled.read()
    sampled.bench.control(lost=[0])
    with pytest.raises(GpuUnavailable):
        sampled.read()
