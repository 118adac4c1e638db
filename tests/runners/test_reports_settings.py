"""What the section `reports` takes."""

from typing import Any

import pytest
from pydantic import ValidationError

from agent.core.cost.focus import FocusNames
from agent.runners.reports_settings import ReportsSettings, ScheduleSettings


def test_nothing_configured_means_no_reports():
    settings = ReportsSettings()
    assert settings.schedules == ()
    assert settings.focus.to_names() == FocusNames()


def test_a_schedule_is_complete_with_a_name():
    schedule = ScheduleSettings(name="bill")
    assert (schedule.every, schedule.at, schedule.format, schedule.keep) == ("daily", "06:00", "csv", 60)
    assert schedule.asked("today").aggregate == "tenant,model,state"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "Bill"}, "name"),
        ({"name": "../x"}, "name"),
        ({"every": "yearly"}, "daily"),
        ({"at": "6:00"}, "write it as 06:00"),
        ({"at": "24:00"}, "write it as 06:00"),
        ({"aggregate": "colour"}, "`aggregate`: 'colour' is no dimension"),
        ({"idle_policy": "lottery"}, "`idle_policy`: 'lottery'"),
        ({"filter": "x"}, "`filter`: 'x' is no dimension"),
        ({"step": "1s"}, "`step`: "),
        ({"window": "soon"}, "`window`: "),
        ({"keep": 0}, "keep"),
        ({"format": "pdf"}, "focus"),
        ({"webhook": {}}, "exactly one of `url` and `url_file`"),
        ({"webhook": {"url": "ftp://x"}}, "pattern"),
        ({"colour": 1}, "colour"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], says: str):
    with pytest.raises(ValidationError) as caught:
        ScheduleSettings.model_validate({"name": "bill"} | fields)
    assert says in str(caught.value)


def test_two_schedules_of_one_name_are_refused():
    with pytest.raises(ValidationError, match="two schedules are named `a`"):
        ReportsSettings.model_validate({"schedules": [{"name": "a"}, {"name": "a"}]})


def test_only_the_version_that_is_written_is_accepted():
    with pytest.raises(ValidationError, match=r"1\.2"):
        ReportsSettings.model_validate({"focus": {"version": "1.3"}})
