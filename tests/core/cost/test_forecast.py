import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.forecast import DAY_NS, HOUR_NS, WEEK_NS, Forecast, Hour, pattern_of

MONDAY_NS = 4 * DAY_NS  # 5 January 1970


def slot_of(at_ns: int) -> int:
    return (at_ns - MONDAY_NS) // HOUR_NS % 168


def hours(count: int, nano: Callable[[int], float], start_ns: int = MONDAY_NS) -> list[Hour]:
    """`nano` of the hour of the week."""
    starts = [start_ns + index * HOUR_NS for index in range(count)]
    return [Hour(at, HOUR_NS, round(nano(slot_of(at)))) for at in starts]


def by_day(slot: int) -> float:
    """Much by day, little at night, nearly nothing on Sundays."""
    return (10**6 if 8 <= slot % 24 < 20 else 10**5) * (0.1 if slot >= 144 else 1)


def test_too_little_is_no_forecast():
    assert pattern_of([], slot_of) is None
    assert pattern_of(hours(23, lambda _: 5), slot_of) is None
    assert pattern_of(hours(24, lambda _: 5), slot_of) is not None
    assert pattern_of(hours(5, lambda _: 5), slot_of, committed=True) is None
    assert pattern_of(hours(6, lambda _: 5), slot_of, committed=True) is not None


def test_committed_spending_is_certain():
    found = pattern_of(hours(6, lambda _: 1000), slot_of, committed=True)
    assert found
    month = found.forecast(123, MONDAY_NS, MONDAY_NS + 30 * DAY_NS)
    assert (month.nano, month.low_nano, month.high_nano) == (720_123, 720_123, 720_123)
    assert "committed" in month.method


def test_committed_spending_follows_a_new_gpu_within_a_day():
    steady = hours(20 * 24, lambda _: 1000) + hours(24, lambda _: 2000, MONDAY_NS + 20 * DAY_NS)
    found = pattern_of(steady, slot_of, committed=True)
    assert found
    week = found.forecast(0, MONDAY_NS + 21 * DAY_NS, MONDAY_NS + 28 * DAY_NS)
    assert week.nano == pytest.approx(2000 * 168, rel=0.01)


def test_hours_of_the_week_are_known_after_two_weeks():
    found = pattern_of(hours(28 * 24, by_day), slot_of)
    assert found
    assert "by hour of the week" in found.method
    start = MONDAY_NS + 4 * WEEK_NS
    for first, last in [(0, 168), (0, 24), (144, 168), (30, 40), (3, 4)]:
        expected = sum(by_day(slot) for slot in range(first, last))
        assert found.expected(start + first * HOUR_NS, start + last * HOUR_NS) == pytest.approx(expected, rel=1e-3)
    assert found.expected(start, start + 5 * WEEK_NS) == pytest.approx(5 * sum(map(by_day, range(168))), rel=1e-3)
    assert found.expected(start + 10, start + 10) == 0


def test_little_history_is_wide_and_much_is_narrower():
    widths = []
    for days in (1, 3, 7):
        found = pattern_of(hours(days * 24, lambda _: 1000), slot_of)
        assert found
        month = found.forecast(0, MONDAY_NS, MONDAY_NS + 30 * DAY_NS)
        assert month.low_nano <= month.nano <= month.high_nano
        assert month.nano == pytest.approx(720_000, rel=0.01)
        widths.append((month.high_nano - month.low_nano) / month.nano)
    assert widths[0] > 2 > 0.7 > widths[1] > 0.2 > widths[2] or widths[0] > widths[1] > widths[2]
    assert widths[0] > 2


def test_nine_of_ten_truths_are_in_the_interval():
    """Days that scatter by a third around a pattern, four weeks of them; the truth of the next two weeks."""
    inside = 0
    for seed in range(300):
        chance = random.Random(seed)
        level = [max(0.0, chance.gauss(1, 0.3)) for _ in range(42)]
        made = [
            Hour(MONDAY_NS + index * HOUR_NS, HOUR_NS, round(by_day(index % 168) * level[index // 24]))
            for index in range(42 * 24)
        ]
        found = pattern_of(made[: 28 * 24], slot_of)
        assert found
        truth = sum(hour.nano for hour in made[28 * 24 :])
        forecast = found.forecast(0, made[28 * 24].start_ns, made[-1].start_ns + HOUR_NS)
        inside += forecast.low_nano <= truth <= forecast.high_nano
    assert 0.86 <= inside / 300 <= 0.995


@given(
    st.lists(st.integers(0, 10**15), min_size=24, max_size=120),
    st.integers(0, 10**18),
    st.integers(0, 400 * 24),
    st.booleans(),
)
def test_bounds_are_in_order_and_never_below_what_is_spent(
    nanos: list[int], spent: int, ahead_hours: int, committed: bool
):
    made = [Hour(MONDAY_NS + index * HOUR_NS, HOUR_NS, nano) for index, nano in enumerate(nanos)]
    found = pattern_of(made, slot_of, committed=committed)
    assert found
    now = made[-1].start_ns + HOUR_NS
    forecast = found.forecast(spent, now, now + ahead_hours * HOUR_NS)
    assert spent <= forecast.low_nano <= forecast.nano <= forecast.high_nano
    assert math.isfinite(forecast.high_nano)
    if not any(nanos):
        assert forecast.high_nano == spent
    if ahead_hours == 0:
        assert forecast.high_nano == spent


@given(st.integers(0, 100))
def test_more_spent_lifts_the_bounds(spent: int):
    found = Forecast(nano=50, low_nano=20, high_nano=80, method="m", hours=3).at_least(spent)
    assert spent <= found.low_nano <= found.nano <= found.high_nano
    assert (found.method, found.hours) == ("m", 3)


def test_hours_that_are_missing_and_short_ones_do_no_harm():
    made = [hour for hour in hours(20 * 24, by_day) if hour.start_ns // HOUR_NS % 5]
    short = [hour._replace(length_ns=HOUR_NS // 2, nano=hour.nano // 2) for hour in made]
    for some in (made, short):
        found = pattern_of(some, slot_of)
        assert found
        week = found.expected(MONDAY_NS + 3 * WEEK_NS, MONDAY_NS + 4 * WEEK_NS)
        assert week == pytest.approx(sum(map(by_day, range(168))), rel=0.1)
