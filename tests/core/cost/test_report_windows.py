from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.calendar import Calendar
from agent.core.cost.report_windows import MAX_STEPS, MINUTE_NS, NS, edges_of, rfc3339, window_of

HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS
BERLIN = Calendar("Europe/Berlin")
UTC_DAYS = Calendar("UTC")


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * NS


# A Wednesday, five weeks after the clocks went back.
NOW = at("2026-11-25T12:34:56+01:00")


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("today", "2026-11-25T00:00:00+01:00", "2026-11-25T12:34:56+01:00"),
        ("week", "2026-11-23T00:00:00+01:00", "2026-11-25T12:34:56+01:00"),
        ("month", "2026-11-01T00:00:00+01:00", "2026-11-25T12:34:56+01:00"),
        ("yesterday", "2026-11-24T00:00:00+01:00", "2026-11-25T00:00:00+01:00"),
        ("lastweek", "2026-11-16T00:00:00+01:00", "2026-11-23T00:00:00+01:00"),
        ("lastmonth", "2026-10-01T00:00:00+02:00", "2026-11-01T00:00:00+01:00"),
        ("lasthour", "2026-11-25T11:34:56+01:00", "2026-11-25T12:34:56+01:00"),
        ("7d", "2026-11-18T12:34:56+01:00", "2026-11-25T12:34:56+01:00"),
        ("1h30m", "2026-11-25T11:04:56+01:00", "2026-11-25T12:34:56+01:00"),
        ("2026-11-01T00:00:00Z,2026-11-02T00:00:00+01:00", "2026-11-01T00:00:00Z", "2026-11-01T23:00:00Z"),
        ("1793491200, 1793577600", "2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z"),
    ],
)
def test_windows(text: str, start: str, end: str):
    assert window_of(text, NOW, BERLIN) == (at(start), at(end))


@pytest.mark.parametrize("text", ["", "tomorrow", "lastyear", "Week", "24", "-1h", "5,4", "a,b", "0s", "1w,", "9999y"])
def test_what_is_no_window_is_refused(text: str):
    with pytest.raises(ValueError, match=r"write|earlier"):
        window_of(text, NOW, BERLIN)


def texts(edges: tuple[int, ...]) -> list[str]:
    return [rfc3339(edge) for edge in edges]


START, END = at("2026-10-24T10:30:00+02:00"), at("2026-10-26T01:15:00+01:00")  # the 25th has 25 hours


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("1d", ["2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"]),
        ("day", ["2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"]),
        ("2d", ["2026-10-25T23:00:00Z"]),
        ("1w", ["2026-10-25T23:00:00Z"]),
        ("1M", []),
        # Counted from local midnight; the fifth of the long day is the hour that is left.
        (
            "6h",
            [
                "2026-10-24T10:00:00Z",
                "2026-10-24T16:00:00Z",
                "2026-10-24T22:00:00Z",
                "2026-10-25T04:00:00Z",
                "2026-10-25T10:00:00Z",
                "2026-10-25T16:00:00Z",
                "2026-10-25T22:00:00Z",
                "2026-10-25T23:00:00Z",
            ],
        ),
        ("25h", ["2026-10-25T09:30:00Z"]),
        ("86400", ["2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"]),
    ],
)
def test_steps(step: str, expected: list[str]):
    assert texts(edges_of(step, START, END, BERLIN)) == expected


def test_an_hour_is_an_hour_in_every_spelling():
    hours = edges_of("1h", START, END, BERLIN)
    assert hours == edges_of("60m", START, END, BERLIN) == edges_of("hour", START, END, BERLIN)
    assert len(hours) == 13 + 1 + 24 + 1 + 1  # 24th, midnight, 25th of 25 hours, midnight, 26th


def test_odd_lengths_count_from_the_windows_first_minute():
    assert edges_of("7m", NOW, NOW + 15 * MINUTE_NS, UTC_DAYS) == (
        NOW - NOW % MINUTE_NS + 7 * MINUTE_NS,
        NOW - NOW % MINUTE_NS + 14 * MINUTE_NS,
    )


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("", "not a step"),
        ("x", "not a step"),
        ("1s", "whole number of minutes"),
        ("90s", "whole number of minutes"),
        ("0", "whole number of minutes"),
        ("-60", "whole number of minutes"),
        ("3M", "only 1M"),
        ("inf", "not a step"),
    ],
)
def test_what_is_no_step_is_refused(step: str, says: str):
    with pytest.raises(ValueError, match=says):
        edges_of(step, START, END, BERLIN)


@pytest.mark.parametrize("step", ["1m", "1h", "7m"])
def test_more_steps_than_anybody_reads_are_refused_at_once(step: str):
    with pytest.raises(ValueError, match="larger step"):
        edges_of(step, 0, 2**63 - 1, UTC_DAYS)


@given(
    st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe"]),
    st.sampled_from(["15m", "1h", "6h", "7h", "1d", "3d", "1w", "10d", "1M"]),
    st.integers(0, 60 * 365 * DAY_NS),
    st.integers(1, 80 * DAY_NS),
)
def test_edges_ascend_within_the_window(zone: str, step: str, start: int, length: int):
    edges = edges_of(step, start, start + length, Calendar(zone))
    assert list(edges) == sorted(set(edges))
    assert all(start < edge < start + length for edge in edges)
    assert len(edges) <= MAX_STEPS
    assert {edge % MINUTE_NS for edge in edges} <= {0}


def test_instants_as_text():
    assert rfc3339(NOW) == datetime.fromtimestamp(NOW // NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert rfc3339(1_250_000_000) == "1970-01-01T00:00:01.25Z"
