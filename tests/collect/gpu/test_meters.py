import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.collect.gpu.meters import NS, EnergyMeter, ThrottleMeter

GAP = 5 * NS


def test_a_counter_that_agrees_is_passed_on():
    meter = EnergyMeter(GAP)
    for second in range(60):
        assert meter.read(second * NS, 300.0, 1000 + 300.0 * second) == (1000 + 300.0 * second, "counter")


def test_a_stuck_counter_is_given_up_and_nothing_is_lost():
    # A T4 reported 15 mJ for ever at 68 W.
    meter = EnergyMeter(GAP)
    readings = [meter.read(second * NS, 68.0, 0.015) for second in range(31)]
    sources = [source for _, source in readings]
    assert sources[:10] == ["counter"] * 10
    assert sources[10:] == ["integrated"] * 21
    assert readings[-1][0] == pytest.approx(0.015 + 30 * 68.0)


def test_a_counter_that_runs_away_is_given_up_and_does_not_fall():
    meter = EnergyMeter(GAP)
    totals = [meter.read(second * NS, 100.0, 10_000.0 * second)[0] for second in range(20)]
    assert totals == sorted(totals)
    assert meter.read(20 * NS, 100.0, 0.0)[1] == "integrated"


def test_an_idle_gpu_with_a_coarse_counter_is_believed():
    meter = EnergyMeter(GAP)
    assert all(meter.read(s * NS, 4.0, 0.0)[1] == "counter" for s in range(13))


def test_a_reset_of_the_counter_is_a_reset_not_a_fault():
    meter = EnergyMeter(GAP)
    for second in range(5):
        meter.read(second * NS, 100.0, 5000 + 100.0 * second)
    assert meter.read(5 * NS, 100.0, 3.0) == (3.0, "counter")


@given(st.lists(st.floats(min_value=0, max_value=1000), min_size=1, max_size=50))
def test_without_a_counter_power_is_integrated(watts):
    meter = EnergyMeter(GAP)
    for second, value in enumerate(watts):
        total, source = meter.read(second * NS, value, None)
    assert source == "integrated"
    assert total == pytest.approx(sum((a + b) / 2 for a, b in itertools.pairwise(watts)))


def test_silence_is_not_integrated():
    meter = EnergyMeter(GAP)
    meter.read(0, 100.0, None)
    assert meter.read(100 * NS, 100.0, None) == (0.0, "integrated")
    assert meter.read(101 * NS, None, None) == (None, None)
    assert meter.read(102 * NS, 100.0, None) == (0.0, "integrated")


def test_throttled_time_counts_between_readings():
    meter = ThrottleMeter(GAP)
    assert meter.seconds["sw_thermal"] == 0.0
    assert "gpu_idle" not in meter.seconds
    meter.add(0, ("sw_thermal", "gpu_idle"))
    meter.add(2 * NS, ("sw_thermal", "0x800"))
    meter.add(3 * NS, ())
    meter.add(4 * NS, None)
    meter.add(5 * NS, ("sw_thermal",))
    meter.add(60 * NS, ("sw_thermal",))
    assert meter.seconds["sw_thermal"] == 2.0
    assert meter.seconds["0x800"] == 2.0
    assert "gpu_idle" not in meter.seconds
