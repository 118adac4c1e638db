"""Throttled time: the driver's counters, else what was seen."""

import pytest

from agent.collect.gpu.codes import THROTTLE_REASONS
from agent.collect.gpu.parts.throttle import REASON_OF


def test_the_counters_of_the_driver(bench):
    bench.wish(load=1.0, throttle_mask=0x4 | 0x40)
    gpu = bench.read(11)
    assert gpu.violation_ns["hw_thermal"] == gpu.violation_ns["power"] == 11e9
    assert set(gpu.violation_ns) == {*REASON_OF, "thermal", "low_util"}
    assert gpu.throttle_seconds["hw_thermal"] == gpu.throttle_seconds["sw_power_cap"] == 11.0
    assert gpu.throttle_seconds["sync_boost"] == 0.0


def test_without_counters_it_is_what_was_seen(gpu_bench):
    bench = gpu_bench(throttle_counters=False)
    bench.wish(load=1.0, throttle_mask=0x40)
    gpu = bench.read(5)
    assert gpu.violation_ns is None
    assert gpu.throttle_seconds["hw_thermal"] == 4.0


def test_a_reason_without_a_counter_is_seen_beside_those_that_have_one(bench):
    bench.facts(unsupported_fields=(269, 270, 271))
    bench.wish(load=1.0, throttle_mask=0x4 | 0x40)
    gpu = bench.read(11)
    assert (gpu.throttle_seconds["sw_power_cap"], gpu.throttle_seconds["hw_thermal"]) == (11.0, 10.0)


@pytest.mark.parametrize("word", REASON_OF.values())
def test_the_words_are_those_of_the_mask(word):
    assert word in THROTTLE_REASONS.values()


def test_a_blank_counter_is_absent(bench):
    bench.wish(fields={74: 9223372036854775794})
    assert "power" not in bench.read().violation_ns
