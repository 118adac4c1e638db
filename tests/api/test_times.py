from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.times import NS, parse_duration, parse_instant, parse_window, rfc3339


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * NS


NOON = at("2026-11-23T12:00:00+00:00")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5", 1.5), ("5m", 300), ("1h30m", 5400), ("250ms", 0.25), ("7d", 604800)]
)
def test_durations(text: str, seconds: float):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "x", "5 m", "m5", "inf", "nan", "1h-2m"])
def test_what_is_no_duration_is_refused(text: str):
    if text == "5":
        assert parse_duration(text) == 5
    else:
        with pytest.raises(ValueError, match="not a duration"):
            parse_duration(text)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("1763894400", 1_763_894_400 * NS),
        ("1763894400.25", 1_763_894_400_250_000_000),
        ("2026-11-23T12:00:00Z", NOON),
        ("2026-11-23T20:00:00+08:00", NOON),
        ("2026-11-23T20:00:00 08:00", NOON),  # a plus that was not percent-encoded
        ("2026-11-23T12:00:00.123456789Z", NOON + 123_456_789),
    ],
)
def test_instants(text: str, instant: int):
    assert parse_instant(text) == instant


@pytest.mark.parametrize(
    "text", ["", "now", "2026-11-23T12:00:00", "inf", "nan", "-5", "99999999999", "2026-13-01T00:00:00Z"]
)
def test_what_is_no_instant_is_refused(text: str):
    with pytest.raises(ValueError, match=r"instant|time zone|outside"):
        parse_instant(text)


@given(st.integers(0, 2**62))
def test_rfc3339_reads_back(instant: int):
    assert parse_instant(rfc3339(instant)) == instant


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("today", "2026-11-23T00:00:00+00:00", "2026-11-23T12:00:00+00:00"),
        ("yesterday", "2026-11-22T00:00:00+00:00", "2026-11-23T00:00:00+00:00"),
        ("lasthour", "2026-11-23T11:00:00+00:00", "2026-11-23T12:00:00+00:00"),
        ("30m", "2026-11-23T11:30:00+00:00", "2026-11-23T12:00:00+00:00"),
        ("7d", "2026-11-16T12:00:00+00:00", "2026-11-23T12:00:00+00:00"),
        ("2026-11-01T00:00:00Z,2026-11-02T00:00:00Z", "2026-11-01T00:00:00+00:00", "2026-11-02T00:00:00+00:00"),
    ],
)
def test_windows(text: str, start: str, end: str):
    assert parse_window(text, NOON) == (at(start), at(end))


def test_a_pair_of_unix_times():
    assert parse_window("1763894400,1763894460", NOON) == (1_763_894_400 * NS, 1_763_894_460 * NS)


@pytest.mark.parametrize("text", ["", "tomorrow", "24", "-1h", "5,4", "a,b", "0s", "1763894400"])
def test_what_is_no_window_is_refused(text: str):
    with pytest.raises(ValueError, match=r"window|instant"):
        parse_window(text, NOON)


def test_days_follow_the_calendar_of_the_zone():
    # Berlin set its clocks back on 2026-10-25: that day had 25 hours.
    now = at("2026-10-26T08:00:00+01:00")
    start, end = parse_window("yesterday", now, "Europe/Berlin")
    assert (end - start) == 25 * 3600 * NS
    assert datetime.fromtimestamp(end // NS, UTC).hour == 23
