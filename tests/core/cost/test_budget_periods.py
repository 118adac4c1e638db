import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.budget_periods import CALENDAR_PERIODS, rolling_seconds, span_of
from agent.core.cost.calendar import Calendar
from tests.support.budgets import HOUR_NS, MINUTE_NS, NS, ns

ZONES = ["UTC", "Asia/Shanghai", "Europe/Berlin", "America/Havana", "Asia/Kolkata", "Pacific/Apia", "Africa/Cairo",
         "Australia/Lord_Howe"]  # fmt: skip


@pytest.mark.parametrize(
    ("period", "zone", "now", "start", "end"),
    [
        ("day", "Europe/Berlin", "2026-03-29T10:00:00+00:00", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"),
        ("week", "UTC", "2026-11-22T23:59:59+00:00", "2026-11-16T00:00:00+00:00", "2026-11-23T00:00:00+00:00"),
        ("month", "UTC", "2026-12-31T12:00:00+00:00", "2026-12-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00"),
        ("quarter", "UTC", "2026-02-28T12:00:00+00:00", "2026-01-01T00:00:00+00:00", "2026-04-01T00:00:00+00:00"),
        ("quarter", "Asia/Shanghai", "2026-09-30T16:00:00+00:00", "2026-10-01T00:00:00+08:00",
         "2027-01-01T00:00:00+08:00"),
        ("year", "UTC", "2028-02-29T00:00:00+00:00", "2028-01-01T00:00:00+00:00", "2029-01-01T00:00:00+00:00"),
        ("7d", "UTC", "2026-11-22T23:59:59+00:00", "2026-11-16T00:00:00+00:00", "2026-11-23T00:00:00+00:00"),
    ],
)  # fmt: skip
def test_bounds(period: str, zone: str, now: str, start: str, end: str):
    span = span_of(period, Calendar(zone), ns(now))
    assert span[:2] == (ns(start), ns(end))
    assert span.whole_ns == span.end_ns - span.start_ns


@given(st.sampled_from(CALENDAR_PERIODS), st.sampled_from(ZONES), st.integers(946_684_800, 2_000_000_000))
def test_calendar_periods_hold_their_instants_and_follow_each_other(period: str, zone: str, now: int):
    calendar = Calendar(zone)
    span = span_of(period, calendar, now * NS)
    assert span.start_ns <= now * NS < span.end_ns
    assert span_of(period, calendar, span.end_ns - 1) == span
    assert span_of(period, calendar, span.end_ns).start_ns == span.end_ns
    assert span.start_ns % MINUTE_NS == 0


@given(st.integers(1, 366 * 24), st.integers(946_684_800 * NS, 2_000_000_000 * NS))
def test_rolling_windows_end_with_the_minute_that_runs(hours: int, now: int):
    span = span_of(f"{hours}h", Calendar("UTC"), now)
    assert span.end_ns - MINUTE_NS <= now < span.end_ns
    assert span.whole_ns == hours * HOUR_NS == span.end_ns - span.start_ns


def test_a_budget_begins_in_the_middle_of_a_period_or_later():
    calendar, now = Calendar("UTC"), ns("2026-11-23T10:00:00+00:00")
    begun = span_of("month", calendar, now, ns("2026-11-20T00:00:00+00:00"))
    assert begun[:2] == (ns("2026-11-20T00:00:00+00:00"), ns("2026-12-01T00:00:00+00:00"))
    assert begun.whole_ns == 30 * 24 * HOUR_NS
    assert span_of("month", calendar, now, ns("2026-10-20T00:00:00+00:00")) == span_of("month", calendar, now)
    later = span_of("day", calendar, now, ns("2026-12-20T00:00:00+00:00"))
    assert later.start_ns == later.end_ns > now


@pytest.mark.parametrize(
    "period", ["", "d", "0d", "7", "7m", "7 d", "-7d", "367d", "8785h", "month ", "P1M", "\u0667d"]
)
def test_what_is_no_period_is_told(period: str):
    with pytest.raises(ValueError, match="expected day, week, month"):
        rolling_seconds(period)
