"""What cannot be true is absent; what can be true is passed on unchanged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.collect.gpu import sane

BLANK_64 = 9223372036854775794
BLANKS = [BLANK_64 - 2, BLANK_64, 2**63 - 1, 2**64 - 1, float("nan")]
BLANKS_32 = [0x7FFFFFF0, 0x7FFFFFF2, 0x7FFFFFFF, 0xFFFFFFFF]


@pytest.mark.parametrize("value", [*BLANKS, *BLANKS_32])
@pytest.mark.parametrize(
    "of",
    [sane.small_count, sane.ratio, sane.celsius, sane.watts, sane.hertz, sane.pid, sane.lanes, sane.pcie_generation],
)
def test_blanks_are_absent(of, value):
    assert of(value) is None


@pytest.mark.parametrize("value", BLANKS)
def test_blanks_of_64_bits(value):
    assert sane.is_blank(value)
    assert sane.count(value) is None
    assert sane.process_memory(value, None) is None


@pytest.mark.parametrize("value", BLANKS_32)
def test_in_64_bits_the_blanks_of_32_are_plain_numbers(value):
    assert sane.count(value) == value
    assert sane.small_count(value) is None


@pytest.mark.parametrize(
    ("percent", "ratio", "overshoots"),
    [(0, 0.0, False), (63, 0.63, False), (100, 1.0, False), (129, 1.0, True), (201, None, False), (-3, None, False)],
)
def test_ratio(percent, ratio, overshoots):
    assert sane.ratio(percent) == ratio
    assert sane.overshoots(percent) is overshoots


@pytest.mark.parametrize(
    ("of", "value", "found"),
    [
        (sane.celsius, 0, 0.0),
        (sane.celsius, -1, -1.0),
        (sane.celsius, 512, None),
        (sane.sensor_celsius, 0, None),
        (sane.sensor_celsius, 48, 48.0),
        (sane.watts, 69850, 69.85),
        (sane.watts, 0, 0.0),
        (sane.watts, -5, None),
        (sane.watts, 10**9, None),
        (sane.limit_watts, 0, None),
        (sane.limit_watts, 700_000, 700.0),
        (sane.hertz, 1980, 1.98e9),
        (sane.hertz, 10**6, None),
        (sane.pid, 4_194_304, 4_194_304),
        (sane.pid, 4_194_305, None),
        (sane.pid, 0, None),
        (sane.pid, -9, None),
        (sane.lanes, 16, 16),
        (sane.lanes, 0, None),
        (sane.lanes, 17, None),
        (sane.pcie_generation, 5, 5),
        (sane.pcie_generation, 0, None),
        (sane.performance_state, 0, 0),
        (sane.performance_state, 32, None),
    ],
)
def test_single_values(of, value, found):
    assert of(value) == found
    assert of(None) is None


@pytest.mark.parametrize(
    ("used", "total", "fits"),
    [
        (0, 10, True),
        (10, 10, True),
        (11, 10, False),
        (-1, 10, False),
        (0, 0, False),
        (None, 10, False),
        (1, None, False),
    ],
)
def test_memory_is_part_of_the_total(used, total, fits):
    assert sane.fits(used, total) is fits


def test_memory_of_a_process_is_no_more_than_there_is():
    assert sane.process_memory(5, 10) == 5
    assert sane.process_memory(11, 10) is None
    assert sane.process_memory(-1, None) is None
    assert sane.process_memory(11, None) == 11


@given(st.one_of(st.integers(-(2**65), 2**65), st.floats(allow_nan=True, allow_infinity=True)))
def test_nothing_absurd_gets_through(value):
    for of, least, most in (
        (sane.ratio, 0, 1),
        (sane.celsius, -60, 200),
        (sane.watts, 0, sane.WATTS_MOST),
        (sane.hertz, 0, sane.CLOCK_HERTZ_MOST),
        (sane.count, 0, 2**64 - 2),
        (sane.small_count, 0, 2**32 - 2),
        (sane.performance_state, 0, 15),
        (sane.pcie_generation, 1, 16),
    ):
        found = of(value)
        assert found is None or least <= found <= most


@given(st.integers(0, 2**63 - 17))
def test_counters_that_can_be_true_are_unchanged(value):
    assert sane.count(value) == value


@given(st.lists(st.integers(0, 2**31 - 1), max_size=40), st.integers(0, 2**32 - 1))
def test_a_narrow_counter_is_widened(steps, start):
    widened, true = sane.Widened(), start
    assert widened.read(start) == start
    for step in steps:
        true += step
        assert widened.read(true % 2**32) == true


def test_a_narrow_counter_that_is_too_fast_is_given_up():
    widened = sane.Widened()
    assert [widened.read(raw) for raw in (0, 10, 2**31 + 10, 2**31 + 11)] == [0, 10, None, None]
