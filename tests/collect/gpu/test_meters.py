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


def test_a_counter_that_falls_but_not_to_its_start_is_given_up():
    meter = EnergyMeter(GAP)
    for second in range(5):
        meter.read(second * NS, 100.0, 500_000 + 100.0 * second)
    assert meter.read(5 * NS, 100.0, 450_000.0) == (500_500.0, "integrated")
    assert meter.read(6 * NS, 100.0, 500_600.0) == (500_600.0, "integrated")


def test_a_counter_that_leaps_is_given_up_at_once():
    meter = EnergyMeter(GAP)
    for second in range(5):
        meter.read(second * NS, 100.0, 100.0 * second)
    assert meter.read(5 * NS, 100.0, 10e6) == (500.0, "integrated")


def test_a_counter_that_comes_late_goes_on_from_what_was_integrated():
    meter = EnergyMeter(GAP)
    for second in range(5):
        meter.read(second * NS, 100.0, None)
    assert meter.read(5 * NS, 100.0, 15e6) == (500.0, "counter")
    assert meter.read(6 * NS, 100.0, 15e6 + 100) == (600.0, "counter")


def test_a_counter_that_misses_a_reading_does_not_make_the_total_fall():
    meter = EnergyMeter(GAP)
    meter.read(0, 400.0, 1000.0)
    meter.read(1 * NS, 400.0, 1100.0)
    assert meter.read(2 * NS, 400.0, None) == (1500.0, "integrated")
    assert meter.read(3 * NS, 400.0, 1300.0) == (1500.0, "counter")


def test_the_counter_of_a_t4_under_load_is_believed():
    # 15152422938 mJ at 68.2 W: a little over 61 hours of it.
    meter = EnergyMeter(GAP)
    readings = [meter.read(second * NS, 68.244, 15152422.938 + 68.0 * second) for second in range(30)]
    assert {source for _, source in readings} == {"counter"}


@given(st.lists(st.tuples(st.none() | st.floats(0, 1000), st.none() | st.floats(0, 1e7)), max_size=60))
def test_the_total_falls_only_when_the_counter_starts_anew(readings):
    meter, last = EnergyMeter(GAP), None
    for second, (watts, counter) in enumerate(readings):
        total, source = meter.read(second * NS, watts, counter)
        if total is not None and last is not None and total < last:
            assert source == "counter"
            assert counter == total <= EnergyMeter.RESET_WATTS * len(readings)
        last = last if total is None else total


def test_the_counter_of_the_driver_comes_before_what_was_seen():
    meter = ThrottleMeter(GAP)
    meter.add(0, ("sw_thermal", "hw_slowdown"), {"sw_thermal": 200.0})
    meter.add(2 * NS, ("sw_thermal", "hw_slowdown"), {"sw_thermal": 200.5})
    assert (meter.seconds["sw_thermal"], meter.seconds["hw_slowdown"]) == (200.5, 2.0)


@given(st.lists(st.tuples(st.booleans(), st.none() | st.floats(0, 0.9)), max_size=40))
def test_throttled_time_does_not_fall_when_its_source_changes(seconds):
    """The counter grows by what it is given and is there now and then; the mask says its own."""
    meter, counter, last = ThrottleMeter(GAP), 0.0, 0.0
    for second, (seen, grown) in enumerate(seconds):
        counter += grown or 0.0
        meter.add(second * NS, ("sw_thermal",) if seen else (), None if grown is None else {"sw_thermal": counter})
        assert meter.seconds["sw_thermal"] >= last
        last = meter.seconds["sw_thermal"]


def test_throttled_time_falls_with_a_counter_that_starts_anew():
    meter = ThrottleMeter(GAP)
    meter.add(0, (), {"sw_thermal": 200.0})
    meter.add(NS, (), {"sw_thermal": 1.0})
    assert meter.seconds["sw_thermal"] == 1.0
