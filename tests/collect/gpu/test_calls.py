import pynvml
import pytest

from agent.collect.gpu.calls import Calls, DriverGone, GpuUnavailable, Missed
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import Control
from agent.demo.gpus.model import NodeSim


@pytest.fixture
def node():
    node = NodeSim(machine.load("rtx4080sx2"))
    nvml.install(node)
    pynvml.nvmlInit()
    yield node
    nvml.uninstall()


@pytest.fixture
def handle(node):
    return pynvml.nvmlDeviceGetHandleByIndex(0)


def fails_with(node, code):
    node.apply(Control(returns={"nvmlDeviceGetPowerUsage": {"0": code}}))


def test_calls_are_timed_and_counted_even_when_they_fail(node, handle):
    calls = Calls()
    assert calls.value("a", "nvmlDeviceGetPowerUsage", handle) == 25920
    fails_with(node, 19)
    with pytest.raises(Missed, match="in use"):
        calls.value("a", "nvmlDeviceGetPowerUsage", handle)
    assert calls.counts == {"nvmlDeviceGetPowerUsage": 2}
    assert 0 < calls.seconds["nvmlDeviceGetPowerUsage"] < 1
    assert calls.errors == {"nvmlDeviceGetPowerUsage: in use (19)": 1}


def test_not_supported_is_remembered_for_that_gpu(node, handle):
    calls = Calls()
    fails_with(node, 3)
    for _ in range(3):
        assert calls.value("a", "nvmlDeviceGetPowerUsage", handle) is None
    assert calls.counts["nvmlDeviceGetPowerUsage"] == 1
    node.apply(Control())
    assert calls.value("b", "nvmlDeviceGetPowerUsage", handle) is not None
    calls.forget_gpus()
    assert calls.value("a", "nvmlDeviceGetPowerUsage", handle) is not None


@pytest.mark.parametrize("code", [13, 25, 26])
def test_an_absent_function_is_remembered_for_all(node, handle, code):
    calls = Calls()
    fails_with(node, code)
    assert calls.value("a", "nvmlDeviceGetPowerUsage", handle) is None
    assert calls.value("b", "nvmlDeviceGetPowerUsage", handle) is None
    assert calls.counts["nvmlDeviceGetPowerUsage"] == 1


@pytest.mark.parametrize("code", [0, 6, 21])
def test_nothing_is_no_error_and_is_asked_again(node, handle, code):
    calls = Calls()
    if code:
        fails_with(node, code)
        assert calls.value("a", "nvmlDeviceGetPowerUsage", handle) is None
    else:
        assert calls.judge("a", "nvmlDeviceGetPowerUsage", 0) is None
    assert (calls.errors, calls.missing, calls.unsupported) == ({}, set(), set())


@pytest.mark.parametrize(
    ("code", "kind"),
    [(15, GpuUnavailable), (16, GpuUnavailable), (28, GpuUnavailable)] + [(c, DriverGone) for c in (1, 9, 18)],
)
def test_what_concerns_more_than_one_call_is_raised(node, handle, code, kind):
    fails_with(node, code)
    with pytest.raises(kind):
        Calls().value("a", "nvmlDeviceGetPowerUsage", handle)


def test_the_first_variant_that_answers_wins(node, handle):
    calls = Calls()
    fails_with(node, 13)
    variants = [("nvmlDeviceGetPowerUsage", handle), ("nvmlDeviceGetEnforcedPowerLimit", handle)]
    assert calls.first_of("a", *variants) == 320000
    assert calls.first_of("a", *variants) == 320000
    assert calls.counts["nvmlDeviceGetPowerUsage"] == 1
    assert calls.first_of("a", variants[0]) is None


def test_both_structs_of_memory(node, handle):
    calls = Calls()
    newer = calls.value("a", "nvmlDeviceGetMemoryInfo_v2", handle)
    older = calls.value("a", "nvmlDeviceGetMemoryInfo", handle)
    assert older.used == newer.used + newer.reserved
    assert older.total == newer.total


def test_one_gpu_can_be_asked_everything_again(node, handle):
    calls = Calls()
    calls.unsupported = {("a", "f"), ("b", "f")}
    calls.forget_gpu("a")
    assert calls.unsupported == {("b", "f")}


def test_one_clock_that_is_refused_does_not_hide_the_others():
    node = NodeSim(machine.load("h100x8"))
    library = nvml.install(node)
    pynvml.nvmlInit()
    genuine = library.nvmlDeviceGetClockInfo
    library.nvmlDeviceGetClockInfo = lambda handle, domain, out: (
        pynvml.NVML_ERROR_NOT_SUPPORTED if domain.value == pynvml.NVML_CLOCK_VIDEO else genuine(handle, domain, out)
    )
    calls, handle = Calls(), pynvml.nvmlDeviceGetHandleByIndex(0)
    try:
        for _ in range(2):
            assert calls.value("a", "nvmlDeviceGetClockInfo", handle, pynvml.NVML_CLOCK_VIDEO) is None
            assert calls.value("a", "nvmlDeviceGetClockInfo", handle, pynvml.NVML_CLOCK_SM)
    finally:
        nvml.uninstall()
    assert calls.counts["nvmlDeviceGetClockInfo"] == 3
    assert calls.unsupported == {("a", f"nvmlDeviceGetClockInfo({pynvml.NVML_CLOCK_VIDEO})")}
