import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.calendar import Calendar
from agent.core.cost.report_windows import rfc3339
from agent.runners.report_periods import Periods
from tests.support.report_files import NS, at

DAY_NS = 86_400 * NS
ZONES = ["UTC", "Asia/Shanghai", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia"]


@pytest.mark.parametrize(
    ("zone", "at_time", "end", "due"),
    [
        ("UTC", "06:00", "2026-11-24T00:00:00+00:00", "2026-11-24T06:00:00Z"),
        ("Asia/Shanghai", "00:00", "2026-11-24T00:00:00+08:00", "2026-11-23T16:00:00Z"),
        # There is no half past two on that day.
        ("Europe/Berlin", "02:30", "2026-03-29T00:00:00+01:00", "2026-03-29T01:30:00Z"),
        # And twice on that one: the first.
        ("Europe/Berlin", "02:30", "2026-10-25T00:00:00+02:00", "2026-10-25T00:30:00Z"),
    ],
)
def test_when_a_report_is_due(zone: str, at_time: str, end: str, due: str):
    assert rfc3339(Periods("daily", at_time, Calendar(zone)).due_ns(at(end))) == due


@pytest.mark.parametrize(("every", "label"), [("daily", "2026-12-31"), ("weekly", "2026-W53"), ("monthly", "2026-12")])
def test_labels(every: str, label: str):
    now = at({"daily": "2027-01-01", "weekly": "2027-01-04", "monthly": "2027-01-01"}[every] + "T06:00:00+00:00")
    (period,) = Periods(every, "06:00", Calendar("UTC")).due(None, now, 5)  # type: ignore[arg-type]
    assert period.label == label


@given(
    st.sampled_from(["daily", "weekly", "monthly"]),
    st.sampled_from(ZONES),
    st.integers(0, 23),
    st.integers(0, 59),
    st.integers(at("2011-01-01T00:00:00+00:00"), at("2030-01-01T00:00:00+00:00")),
    st.lists(st.integers(1, 40 * DAY_NS), max_size=8),
)
def test_every_period_comes_once_and_none_is_left_out(
    every: str, zone: str, hour: int, minute: int, start: int, pauses: list[int]
):
    periods = Periods(every, f"{hour:02d}:{minute:02d}", Calendar(zone))  # type: ignore[arg-type]
    made: int | None = None
    now = start
    last_label = ""
    for pause in [0, *pauses]:
        now += pause
        for period in periods.due(made, now, 1000):
            assert made is None or period.start_ns == made
            assert period.start_ns < period.end_ns <= periods.due_ns(period.end_ns) <= now
            assert period.label > last_label
            made, last_label = period.end_ns, period.label
        assert periods.due(made, now, 1000) == [] or made is None
