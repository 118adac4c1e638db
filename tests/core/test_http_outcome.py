"""Every status to what it means for the items; headers and texts of others by tables and hypothesis."""

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.http_outcome import (
    REASON_CHARACTERS,
    RETRY_AFTER_MAX_SECONDS,
    bounded_reason,
    http_date_ns,
    outcome,
    retry_after_seconds,
)
from agent.core.ports import Paused, Rejected, TooLarge, TryLater

NS = 1_000_000_000
NOW = 1_795_424_121_816 * 1_000_000


@pytest.mark.parametrize(
    ("statuses", "error"),
    [
        ((200, 201, 202, 204, 299), None),
        ((408, 425, 429, 500, 502, 503, 504, 507, 520, 599, 0, 100, 999), TryLater),
        ((301, 302, 304, 307, 308, 401, 402, 403, 404, 405, 406, 407, 410, 415, 421, 426, 451, 501, 505, 511), Paused),
        ((413,), TooLarge),
        ((400, 409, 411, 412, 414, 422, 431, 499), Rejected),
    ],
)
def test_statuses(statuses, error):
    for status in statuses:
        assert type(outcome(status)) is (error or type(None)), status


def test_what_the_errors_carry():
    error = outcome(429, " slow\ndown ", 7.0)
    assert isinstance(error, TryLater)
    assert (error.reason, error.after_seconds) == ("HTTP 429: slow down", 7.0)
    assert str(outcome(401)) == "HTTP 401"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("-1", None),
        ("1.5", None),
        ("١٢", None),
        ("9" * 400, RETRY_AFTER_MAX_SECONDS),
        ("later", None),
        ("Mon, 23 Nov 2026 08:55:31 GMT", 9.184),
        ("Mon, 23 Nov 2026 08:55:31 -0000", 9.184),
        ("Mon, 23 Nov 2020 00:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", RETRY_AFTER_MAX_SECONDS),
        ("Mon, 23 Nov 99999999999999999999 00:00:00 GMT", None),
    ],
)
def test_retry_after(header, seconds):
    assert retry_after_seconds(header, NOW) == (None if seconds is None else pytest.approx(seconds))


def test_a_date_needs_a_clock():
    assert retry_after_seconds("Mon, 23 Nov 2026 08:55:31 GMT", None) is None
    assert retry_after_seconds("7", None) == 7.0


@given(st.text())
def test_no_header_breaks_it(text):
    seconds = retry_after_seconds(text, NOW)
    assert seconds is None or 0 <= seconds <= RETRY_AFTER_MAX_SECONDS


@given(st.integers(0, 4_000_000_000))
def test_http_dates(seconds):
    assert http_date_ns(formatdate(seconds, usegmt=True)) == seconds * NS


@given(st.text(), st.integers(1, 50))
def test_reasons_are_one_printable_line(text, limit):
    reason = bounded_reason(text, limit)
    assert len(reason) <= limit
    assert reason.isprintable()
    assert bounded_reason(reason, limit) == reason


def test_a_long_reason_says_that_it_is_cut():
    reason = bounded_reason("x" * 10_000)
    assert len(reason) == REASON_CHARACTERS
    assert reason.endswith("…")
