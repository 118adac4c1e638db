"""Electricity by time of day, against a clock that is read minute by minute."""

from datetime import UTC, datetime
from fractions import Fraction
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.cost.energy_prices import EnergyTariff, Period

NS = 10**9
DAYS = frozenset(range(7))
ZONES = ["UTC", "Asia/Shanghai", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu"]


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * NS


def minute(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)


def by_the_clock(tariff: EnergyTariff, at_ns: int) -> Fraction:
    """The price, from the words of the documentation: the wall clock's minute and the day the period began on."""
    wall = datetime.fromtimestamp(at_ns // NS, ZoneInfo(tariff.zone))
    now = wall.hour * 60 + wall.minute
    for period in tariff.periods:
        runs_over = period.end_minute <= period.start_minute
        today = (wall.weekday(), wall.month)
        begun_today = now >= period.start_minute and (runs_over or now < period.end_minute)
        if begun_today and today[0] in period.days and today[1] in period.months:
            return period.per_kwh
        if runs_over and now < period.end_minute:
            before = datetime.fromordinal(wall.toordinal() - 1)
            if before.weekday() in period.days and before.month in period.months:
                return period.per_kwh
    return tariff.per_kwh


PEAK = EnergyTariff(
    "Asia/Shanghai",
    Fraction("0.7"),
    (
        Period(minute("10:00"), minute("12:00"), Fraction("1.2"), DAYS, frozenset({7, 8})),
        Period(minute("08:00"), minute("22:00"), Fraction(1), frozenset(range(5))),
        Period(minute("23:00"), minute("07:00"), Fraction("0.3")),
    ),
)


@pytest.mark.parametrize(
    ("utc", "price"),
    [
        ("2026-01-05T00:00", "1"),  # Monday 08:00 in Shanghai
        ("2026-01-05T13:59", "1"),
        ("2026-01-05T14:00", "0.7"),  # 22:00
        ("2026-01-05T15:00", "0.3"),  # 23:00
        ("2026-01-05T22:59", "0.3"),  # 06:59 on Tuesday
        ("2026-01-05T23:00", "0.7"),
        ("2026-01-10T02:00", "0.7"),  # Saturday 10:00
        ("2026-07-06T02:00", "1.2"),  # a Monday in July, 10:00
    ],
)
def test_the_wall_clock_decides(utc: str, price: str) -> None:
    assert PEAK.price_at(at(utc)) == Fraction(price)


def test_a_period_over_midnight_belongs_to_the_day_it_begins_on() -> None:
    friday = EnergyTariff("UTC", Fraction(1), (Period(minute("22:00"), minute("06:00"), Fraction(5), frozenset({4})),))
    assert friday.price_at(at("2026-01-09T22:00")) == 5
    assert friday.price_at(at("2026-01-10T05:59")) == 5
    assert friday.price_at(at("2026-01-10T22:00")) == 1
    assert friday.price_at(at("2026-01-09T05:59")) == 1


def test_a_price_that_never_changes_is_flat() -> None:
    flat = EnergyTariff("UTC", Fraction(1), (Period(0, 60, Fraction(1)),))
    assert flat.is_flat
    assert flat.changes(0, 10**18) == []
    assert not PEAK.is_flat
    assert flat == EnergyTariff("UTC", Fraction(1), (Period(0, 60, Fraction(1)),))
    assert hash(flat) != hash(PEAK)


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_on_the_days_when_the_clock_is_changed(day: str) -> None:
    """02:00 to 03:00 is left out, or comes twice."""
    tariff = EnergyTariff("Europe/Berlin", Fraction(1), (Period(minute("02:30"), minute("04:00"), Fraction(9)),))
    start = at(f"{day}T00:00") - 6 * 3600 * NS
    end = start + 36 * 3600 * NS
    expected = []
    last = by_the_clock(tariff, start)
    for now in range(start, end, 60 * NS):
        price = by_the_clock(tariff, now)
        if price != last:
            expected.append((now, price))
            last = price
    assert tariff.changes(start, end) == expected


periods = st.lists(
    st.builds(
        Period,
        st.integers(0, 1439),
        st.integers(0, 1440),
        st.fractions(0, 3, max_denominator=50),
        st.frozensets(st.integers(0, 6), min_size=1),
        st.sampled_from([frozenset(range(1, 13)), frozenset({3, 10, 4, 11})]),
    ),
    max_size=4,
)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(ZONES),
    periods,
    st.sampled_from(["2026-03-28", "2026-04-04", "2026-10-24", "2026-10-31", "2027-02-27"]),
    st.integers(0, 86399),
)
def test_changes_are_what_the_clock_shows_minute_by_minute(
    zone: str, given_periods: list[Period], day: str, second: int
) -> None:
    tariff = EnergyTariff(zone, Fraction(1), tuple(given_periods))
    start = at(f"{day}T00:00") + second * NS
    end = start + 2 * 86400 * NS
    changes = [(start, tariff.price_at(start)), *tariff.changes(start, end)]
    assert all(a[0] < b[0] and a[1] != b[1] for a, b in pairwise(changes))
    whole = -(-start // (60 * NS)) * 60 * NS
    for now in range(whole, end, 60 * NS):
        while len(changes) > 1 and changes[1][0] <= now:
            changes.pop(0)
        assert changes[0][1] == tariff.price_at(now) == by_the_clock(tariff, now)
