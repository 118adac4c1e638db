"""Limits, fan and memory temperature."""

import pytest


def test_a_sensor_that_does_not_exist_reads_0(bench):
    bench.wish(fields={82: 0})
    assert bench.read().memory_temperature_celsius is None


def test_memory_temperature(bench):
    assert bench.read().memory_temperature_celsius == 48


@pytest.mark.parametrize("unsupported", [(), (190,)])
def test_the_limit_in_force(bench, unsupported):
    bench.facts(unsupported_fields=unsupported)
    gpu = bench.read(11)
    assert gpu.power_limit_watts == 700
    assert ("nvmlDeviceGetEnforcedPowerLimit" in bench.calls.counts) is bool(unsupported)


def test_the_fan(gpu_bench):
    bench = gpu_bench("rtx4080sx2")
    assert bench.read().fan_speed_ratio == 0.0
    bench.wish(values={"nvmlDeviceGetFanSpeed": 47})
    assert bench.read(10).fan_speed_ratio == 0.47


def test_the_slowdown_temperature_is_the_lowest_seen(bench):
    assert bench.read().temperature_slowdown_celsius == 89
    bench.facts(slowdown_margin_celsius=1)
    assert bench.read(61).temperature_slowdown_celsius == 86
    bench.facts(slowdown_margin_celsius=-2)
    assert bench.read(61).temperature_slowdown_celsius == 86
