import pytest

from agent.demo.gpus.process_samples import PERIOD_US, ProcessSamples
from tests.support.mig_bench import held

SECOND_US = 1_000_000


def test_one_sample_a_period_for_who_works():
    samples = ProcessSamples()
    samples.record(0, SECOND_US, 0.99, [held(1, sm_ratio=0.99), held(2, sm_ratio=0.0)])
    found = samples.since(0)
    assert [one.stamp_us for one in found] == [n * PERIOD_US for n in range(1, 6)]
    assert {(one.pid, one.sm_percent) for one in found} == {(1, 99)}
    assert len(samples.since(found[2].stamp_us)) == 2


def test_the_load_is_shared_by_those_of_whom_nothing_is_said():
    samples = ProcessSamples()
    samples.record(0, PERIOD_US, 0.8, [held(1, sm_ratio=0.4), held(2), held(3)])
    assert {one.pid: one.sm_percent for one in samples.since(0)} == {1: 40, 2: 20, 3: 20}


def test_the_ring_is_bounded_however_long_the_step():
    samples = ProcessSamples()
    samples.record(0, 10**9 * SECOND_US, 1.0, [held(1)])
    assert len(samples.since(0)) == 100


@pytest.mark.parametrize("processes", [[], [held(1, sm_ratio=0.0)]])
def test_no_work_no_samples(processes):
    samples = ProcessSamples()
    samples.record(0, SECOND_US, 0.0, processes)
    assert samples.since(0) == []


def test_no_period_is_counted_twice():
    samples = ProcessSamples()
    for step in range(10):
        samples.record(step * 130_000, (step + 1) * 130_000, 1.0, [held(1)])
    stamps = [one.stamp_us for one in samples.since(0)]
    assert stamps == [n * PERIOD_US for n in range(1, 7)]
