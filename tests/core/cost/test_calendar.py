"""Hours, days, weeks and months of time zones: they nest, cover all time, and begin where people say they do."""

import itertools
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.calendar import HOUR_NS, MINUTE_NS, SECOND_NS, Calendar

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",  # half an hour; its clock once changed a minute after midnight
    "America/Havana",  # the hour after midnight comes twice
    "America/Asuncion",  # midnight is left out
    "Asia/Beirut",
    "Asia/Kathmandu",  # a quarter
    "Pacific/Chatham",  # a quarter, and summer time
    "Australia/Lord_Howe",  # summer time of half an hour
    "Pacific/Apia",  # left out a day
    "Africa/Casablanca",
    "Africa/Cairo",
    "Asia/Shanghai",
)
calendars = {zone: Calendar(zone) for zone in ZONES}
zones = st.sampled_from(ZONES)
# With the seconds around changes of the clock, which a random instant never hits.
instants = st.one_of(
    st.integers(946_684_800 * SECOND_NS, 4_102_444_800 * SECOND_NS),
    st.integers(946_684_800 // 900, 2_147_483_648 // 900).map(lambda quarters: quarters * 900 * SECOND_NS),
    st.sampled_from([1_325_239_200, 1_743_296_400, 1_761_440_400, 1_194_148_860, 1_728_743_400, 1_712_415_600]).flatmap(
        lambda at: st.integers((at - 90_000) * SECOND_NS, (at + 90_000) * SECOND_NS)
    ),
)


def at(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC).timestamp()) * SECOND_NS


@given(zones, instants)
def test_minutes_hours_and_days_nest_and_hold_the_instant(zone: str, now: int) -> None:
    calendar = calendars[zone]
    minute = (now - now % MINUTE_NS, now - now % MINUTE_NS + MINUTE_NS)
    hour, day = calendar.hour_bounds(now), calendar.day_bounds(now)
    week, month = calendar.week_bounds(now), calendar.month_bounds(now)
    assert day[0] <= hour[0] <= minute[0] <= now < minute[1] <= hour[1] <= day[1]
    assert week[0] <= day[0] < day[1] <= week[1]
    assert month[0] <= day[0] < day[1] <= month[1]
    assert all(bound % MINUTE_NS == 0 for bounds in (hour, day, week, month) for bound in bounds)
    assert hour[1] - hour[0] <= HOUR_NS
    assert 22 * HOUR_NS <= day[1] - day[0] <= 26 * HOUR_NS


@given(zones, instants, st.sampled_from(["hour", "day", "week", "month"]))
def test_steps_follow_each_other_without_gap_or_overlap(zone: str, now: int, step: str) -> None:
    calendar = Calendar(zone)  # a fresh one: nothing remembered
    start, end = calendar.bounds(now, step)  # type: ignore[arg-type]
    assert calendar.bounds(start, step) == calendar.bounds(end - 1, step) == (start, end)  # type: ignore[arg-type]
    assert calendar.bounds(start - 1, step)[1] == start  # type: ignore[arg-type]
    assert calendar.bounds(end, step)[0] == end  # type: ignore[arg-type]


@given(zones, instants, st.integers(0, 40 * 24 * HOUR_NS), st.sampled_from(["hour", "day", "week", "month"]))
def test_edges_are_all_the_beginnings_inside(zone: str, start: int, length: int, step: str) -> None:
    calendar, end = calendars[zone], start + length
    edges = calendar.edges(start, end, step)  # type: ignore[arg-type]
    assert all(start < edge < end for edge in edges)
    assert list(edges) == sorted(set(edges))
    assert all(calendar.bounds(edge, step)[0] == edge for edge in edges)  # type: ignore[arg-type]
    pieces = [start, *edges, end] if length else []
    for first, second in itertools.pairwise(pieces):
        assert calendar.bounds(first, step) == calendar.bounds(second - 1, step)  # type: ignore[arg-type]


@given(zones, instants)
def test_a_day_is_found_by_its_date(zone: str, now: int) -> None:
    calendar = calendars[zone]
    assert calendar.date_start(calendar.local_date(now)) == calendar.day_bounds(now)[0]


@pytest.mark.parametrize(
    ("zone", "now", "start", "hours"),
    [
        ("UTC", "2026-01-01T12:00", "2026-01-01T00:00", 24),
        ("Asia/Shanghai", "2026-01-01T18:00", "2026-01-01T16:00", 24),
        ("Europe/Berlin", "2025-03-30T12:00", "2025-03-29T23:00", 23),
        ("Europe/Berlin", "2025-10-26T12:00", "2025-10-25T22:00", 25),
        ("Asia/Kathmandu", "2026-01-01T18:20", "2026-01-01T18:15", 24),
        ("Australia/Lord_Howe", "2025-10-05T00:00", "2025-10-04T13:30", 23.5),
        ("Australia/Lord_Howe", "2025-04-06T00:00", "2025-04-05T13:00", 24.5),
        ("America/Havana", "2025-11-02T12:00", "2025-11-02T04:00", 25),
        ("Asia/Beirut", "2025-03-30T12:00", "2025-03-29T22:00", 23),  # begins at one o'clock
        ("Pacific/Apia", "2011-12-30T09:59", "2011-12-29T10:00", 24),
        ("Pacific/Apia", "2011-12-30T10:00", "2011-12-30T10:00", 24),  # the 29th is followed by the 31st
    ],
)
def test_days_that_people_know(zone: str, now: str, start: str, hours: float) -> None:
    begin, end = Calendar(zone).day_bounds(at(now))
    assert (begin, (end - begin) / HOUR_NS) == (at(start), hours)


def test_the_date_that_was_left_out_is_nobodys() -> None:
    apia = Calendar("Pacific/Apia")
    assert str(apia.local_date(at("2011-12-30T09:59"))) == "2011-12-29"
    assert str(apia.local_date(at("2011-12-30T10:00"))) == "2011-12-31"


def test_hours_of_a_zone_with_half_hours_begin_at_half_past() -> None:
    start, end = Calendar("Asia/Kolkata").hour_bounds(at("2026-01-01T10:45"))
    assert (start, end) == (at("2026-01-01T10:30"), at("2026-01-01T11:30"))
    last = Calendar("Australia/Lord_Howe").hour_bounds(at("2025-10-05T12:45"))
    assert last == (at("2025-10-05T12:30"), at("2025-10-05T13:00"))


def test_weeks_begin_on_monday_and_months_on_the_first() -> None:
    berlin = Calendar("Europe/Berlin")
    assert berlin.week_bounds(at("2025-10-26T12:00")) == (at("2025-10-19T22:00"), at("2025-10-26T23:00"))
    assert berlin.month_bounds(at("2025-12-31T23:30")) == (at("2025-12-31T23:00"), at("2026-01-31T23:00"))
    assert len(berlin.edges(at("2025-01-01T00:00"), at("2026-01-01T00:00"), "month")) == 12


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../etc/passwd", "Europe", "UTC\0", "CEST+"])
def test_an_unknown_zone_is_refused_with_what_is_expected(zone: str) -> None:
    with pytest.raises(ValueError, match="expected an IANA name such as"):
        Calendar(zone)
