"""What a meter counted is given to the open time, to the last microjoule."""

import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.energy import MOST_WATTS, Drawn, Meter, Reading, reading_of
from tests.support.money import NS
from tests.support.slots import gpu

UJ = 1_000_000


def meter(*readings: tuple[float, float], closed: float = 0, source: str = "counter") -> Meter:
    found = Meter()
    for at, joules in readings:
        found.see(Reading(int(at * NS), int(joules * UJ), source), int(closed * NS))
    return found


@pytest.mark.parametrize(
    ("start", "end", "joules", "metered"),
    [
        (0, 10, 0, 0),
        (10, 20, 1000, 10),
        (10, 15, 500, 5),
        (19, 22, 100 + 400, 3),
        (22, 99, 200 + 600, 5),
        (40, 50, 0, 0),
    ],
)
def test_between_readings_it_is_drawn_evenly(start: int, end: int, joules: int, metered: int) -> None:
    found = meter((10, 5000), (20, 6000), (23, 6600), (27, 7200))
    assert found.drawn(start * NS, end * NS) == Drawn(joules * UJ, metered * NS)


@given(
    st.lists(st.tuples(st.integers(1, 5 * NS), st.integers(0, 10**9)), min_size=1, max_size=8),
    st.lists(st.integers(0, 10**10), max_size=30),
)
def test_stretches_add_up_to_what_was_counted(steps: list[tuple[int, int]], cuts: list[int]) -> None:
    found, at, total = Meter(Reading(0, 7)), 0, 7
    for length, counted in steps:
        at, total = at + length, total + counted
        found.see(Reading(at, total), 0)
    bounds = sorted({0, at, *(cut % (at + 1) for cut in cuts)})
    drawn = [found.drawn(a, b) for a, b in pairwise(bounds)]
    assert sum(one.energy_uj for one in drawn) == total - 7
    assert sum(one.metered_ns for one in drawn) == at
    assert all(one.energy_uj >= 0 for one in drawn)


def test_a_meter_that_began_anew_says_nothing_of_the_time_between() -> None:
    found = meter((0, 5000), (1, 5100), (2, 30), (3, 130))
    assert [found.drawn(i * NS, (i + 1) * NS) for i in range(3)] == [
        Drawn(100 * UJ, NS),
        Drawn(0, 0),
        Drawn(100 * UJ, NS),
    ]


def test_another_way_of_metering_is_another_meter() -> None:
    found = meter((0, 5000), (1, 5100))
    found.see(Reading(2 * NS, 9000 * UJ, "integrated"), 0)
    found.see(Reading(3 * NS, 9100 * UJ, "integrated"), 0)
    assert found.drawn(0, 3 * NS) == Drawn(200 * UJ, 2 * NS)


def test_a_jump_is_no_energy() -> None:
    found = meter((0, 0), (100, 100 * MOST_WATTS * 2), (101, 100 * MOST_WATTS * 2 + 50))
    assert found.drawn(0, 200 * NS) == Drawn(50 * UJ, NS)


def test_readings_that_come_together_lose_nothing() -> None:
    found = meter((0, 0), (1, 400), (1.000001, 800))
    assert found.drawn(0, 2 * NS).energy_uj == 800 * UJ


def test_readings_that_come_out_of_order_are_left_out() -> None:
    found = meter((0, 0), (2, 200), (1, 150), (3, 300))
    assert found.drawn(0, 9 * NS) == Drawn(300 * UJ, 3 * NS)


def test_what_was_drawn_while_nobody_watched_goes_to_the_end_of_that_time() -> None:
    """Closed up to 55 s when the meter can be read again."""
    found = Meter(Reading(0, 0, "counter"))
    found.see(Reading(60 * NS, 6000 * UJ, "counter"), 55 * NS)
    assert found.drawn(0, 55 * NS) == Drawn(0, 0)
    assert found.drawn(55 * NS, 60 * NS) == Drawn(6000 * UJ, 5 * NS)
    found.see(Reading(61 * NS, 6100 * UJ, "counter"), 61 * NS)  # closed up to the reading itself: the next one has it
    found.see(Reading(62 * NS, 6200 * UJ, "counter"), 61 * NS)
    assert found.drawn(60 * NS, 62 * NS) == Drawn(200 * UJ, NS)


def test_what_is_over_is_forgotten() -> None:
    found = meter((0, 0), (1, 100), (2, 200))
    found.forget_before(NS)
    assert found.drawn(0, 2 * NS) == Drawn(100 * UJ, NS)


@pytest.mark.parametrize("joules", [None, math.nan, math.inf, -1.0, 1e300])
def test_what_is_no_reading(joules: float | None) -> None:
    assert reading_of(1, gpu(1, energy_joules=joules)) is None
    assert reading_of(1, gpu(1, energy_joules=1.0, state="lost")) is None


def test_a_reading_is_in_whole_microjoules() -> None:
    found = reading_of(3, gpu(1, energy_joules=12.3456789, energy_source="counter"))
    assert found == Reading(3, 12_345_679, "counter")
    assert Fraction(found.total_uj, UJ) == Fraction("12.345679")


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=8), st.integers(0, 10**10))
def test_a_meter_that_goes_on_where_the_ledger_ends_loses_nothing(steps: list[int], closed: int) -> None:
    one, total = Meter(), 0
    for number, counted in enumerate(steps):
        total += counted
        one.see(Reading(number * NS, total), 0)
    end = (len(steps) - 1) * NS
    closed %= end + 1
    shown = one.at(closed)
    assert shown is not None
    other = Meter(shown)
    other.see(Reading(end + NS, total + 5), closed)
    before, after = one.drawn(0, closed), other.drawn(closed, end + NS)
    assert before.energy_uj + after.energy_uj == total + 5 - steps[0]
    assert before.metered_ns + after.metered_ns == end + NS
    assert Meter().at(closed) is None
