from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.quotas.periods import NS, Period, period_bounds


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * NS


@pytest.mark.parametrize(
    ("period", "zone", "now", "start", "end"),
    [
        ("day", "UTC", "2026-11-23T10:00:00+00:00", "2026-11-23T00:00:00+00:00", "2026-11-24T00:00:00+00:00"),
        ("day", "Asia/Shanghai", "2026-11-23T17:00:00+00:00", "2026-11-24T00:00:00+08:00", "2026-11-25T00:00:00+08:00"),
        ("day", "Europe/Berlin", "2026-03-29T10:00:00+00:00", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"),
        ("week", "UTC", "2026-11-22T23:59:59+00:00", "2026-11-16T00:00:00+00:00", "2026-11-23T00:00:00+00:00"),
        ("month", "UTC", "2024-02-29T12:00:00+00:00", "2024-02-01T00:00:00+00:00", "2024-03-01T00:00:00+00:00"),
        ("month", "UTC", "2026-12-31T12:00:00+00:00", "2026-12-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00"),
    ],
)
def test_calendar_periods(period: Period, zone: str, now: str, start: str, end: str):
    assert period_bounds(period, zone, ns(now)) == (ns(start), ns(end))


zones = st.sampled_from(["UTC", "Asia/Shanghai", "America/Sao_Paulo", "America/Havana", "Pacific/Apia"])


@given(st.sampled_from(["day", "week", "month"]), zones, st.integers(946_684_800 * NS, 2_000_000_000 * NS))
def test_every_instant_is_in_its_period_and_periods_follow_each_other(period: Period, zone: str, now: int):
    start, end = period_bounds(period, zone, now)
    assert start <= now < end
    assert period_bounds(period, zone, end - 1) == (start, end)
    assert period_bounds(period, zone, end)[0] == end


def test_unknown_zones_are_an_error():
    with pytest.raises((KeyError, ValueError)):
        period_bounds("day", "Mars/Olympus", datetime(2026, 1, 1, tzinfo=UTC).microsecond)
    assert ZoneInfo("UTC")
