import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.collect.gpu.calls import Calls
from agent.collect.gpu.parts.part import Asker
from agent.collect.gpu.process_load import DeviceLoad, ProcessLoad

NOW_US = 1_800_000_000_000_000


class Driver:
    """Stands in for NVML's function: a list of (pid, stamp, percent), and what it was asked."""

    def __init__(self):
        self.samples, self.asked = [], []

    def __call__(self, _handle, out, count, since):
        new = [one for one in self.samples if one[1] > since.value]
        if out is None:
            self.asked.append(since.value)
            count._obj.value = len(new)
            return 7 if new else self.empty
        for slot, (pid, stamp, percent) in enumerate(new):
            out[slot].pid, out[slot].timeStamp, out[slot].smUtil = pid, stamp, percent
        return 0

    empty = 6


class Library:
    def __init__(self):
        self.nvmlDeviceGetProcessUtilization = Driver()


@pytest.fixture
def driver(monkeypatch):
    library = Library()
    monkeypatch.setattr(pynvml, "nvmlLib", library)
    pynvml._nvmlGetFunctionPointer_cache.clear()
    yield library.nvmlDeviceGetProcessUtilization
    pynvml._nvmlGetFunctionPointer_cache.clear()


@pytest.fixture
def asker():
    return Asker(Calls(), "gpu", None)


def read(load, asker, pids=(1, 2), device=None, now_us=NOW_US):
    return dict(load.read(asker, pids, device, now_us * 1000))


def test_only_what_is_new_is_asked_for(driver, asker):
    load = ProcessLoad()
    driver.samples = [(1, NOW_US - 500_000, 40), (1, NOW_US - 300_000, 60)]
    assert read(load, asker) == {1: 0.5}
    assert read(load, asker, now_us=NOW_US + 1) == {}
    assert driver.asked == [NOW_US - 1_000_000, NOW_US - 300_000]


@pytest.mark.parametrize("code", [0, 6, 3, 21])
def test_no_samples(driver, asker, code):
    driver.empty = code  # pynvml raises NVMLError(0) when there are none
    assert read(ProcessLoad(), asker) == {}
    assert asker.calls.errors == {}


def test_a_call_that_fails_for_now(driver, asker):
    driver.empty = 17
    assert read(ProcessLoad(), asker) == {}


def test_processes_that_are_not_listed_are_not_there(driver, asker):
    driver.samples = [(1, NOW_US, 10), (999_999, NOW_US, 80), (0, NOW_US, 80)]
    assert read(ProcessLoad(), asker) == {1: 0.1}


def test_garbage(driver, asker):
    driver.samples = [(1, NOW_US, 105), (2, NOW_US, 4_000_000_000), (2, 2**63, 50), (2, 5, 50)]
    assert read(ProcessLoad(), asker) == {1: 1.0}
    assert asker.calls.errors == {"nvmlDeviceGetProcessUtilization: no percentage (0)": 1}
    assert read(ProcessLoad(), asker, now_us=NOW_US) == {1: 1.0}


def test_a_stamp_of_the_far_future_does_not_hide_what_comes(driver, asker):
    load = ProcessLoad()
    driver.samples = [(1, 2**60, 50)]
    assert read(load, asker) == {}
    driver.samples = [(1, NOW_US + 1000, 50)]
    assert read(load, asker, now_us=NOW_US + 2000) == {1: 0.5}


def test_the_clock_was_set_back(driver, asker):
    load, back_us = ProcessLoad(), NOW_US - 3_600_000_000
    driver.samples = [(1, NOW_US, 50)]
    read(load, asker)
    driver.samples = [(1, back_us, 70)]
    assert read(load, asker, now_us=back_us) == {1: 0.7}


def test_together_not_more_than_the_gpu(driver, asker):
    driver.samples = [(1, NOW_US, 90), (2, NOW_US, 30)]
    assert read(ProcessLoad(), asker, device=0.4) == pytest.approx({1: 0.3, 2: 0.1})
    assert sum(read(ProcessLoad(), asker).values()) == pytest.approx(1.0)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)), max_size=30))
def test_never_more_than_there_is(samples):
    driver, calls = Driver(), Calls()
    driver.samples = [*samples, (1, NOW_US, 50)]
    library = Library()
    library.nvmlDeviceGetProcessUtilization = driver
    pynvml.nvmlLib = library
    pynvml._nvmlGetFunctionPointer_cache.clear()
    try:
        found = read(ProcessLoad(), Asker(calls, "gpu", None), pids=(1, 2, 3), device=0.7)
    finally:
        pynvml.nvmlLib = None
        pynvml._nvmlGetFunctionPointer_cache.clear()
    assert found.keys() <= {1, 2, 3}
    assert 1 in found
    assert all(0 <= ratio <= 0.7 + 1e-9 for ratio in found.values())
    assert sum(found.values()) <= 0.7 + 1e-9


def test_mean_of_the_ticks():
    load = DeviceLoad()
    assert load.take() is None
    for ratio in (0.2, None, 0.4):
        load.add(ratio)
    assert load.take() == pytest.approx(0.3)
    assert load.take() is None
