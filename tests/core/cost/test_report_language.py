from datetime import datetime

import pytest

from agent.core.cost.calendar import Calendar
from agent.core.cost.filter_language import DIMENSIONS
from agent.core.cost.report_language import Asked, WrongParameter, dimensions_of, flag, question
from agent.core.cost.reports import SHARED_STATES, ReportQuery, Term

NS = 10**9
ZONE = Calendar("Asia/Shanghai")
NOW = int(datetime.fromisoformat("2026-11-25T12:00:00+08:00").timestamp()) * NS


def ask(**fields: str) -> ReportQuery:
    return question(Asked(**fields), NOW, ZONE).query


def test_nothing_said_means_today_by_state_as_booked():
    query = ask()
    assert (query.end_ns, query.end_ns - query.start_ns) == (NOW, 12 * 3600 * NS)
    assert (query.aggregate, query.basis, query.edges, query.filter, query.tenant) == (
        ("state",),
        "usage",
        (),
        (),
        None,
    )


@pytest.mark.parametrize(
    ("fields", "basis", "policy"),
    [
        ({}, "usage", "model"),
        ({"basis": "allocation"}, "allocation", "model"),
        ({"basis": "allocation", "idle_policy": "owner"}, "allocation", "owner"),
        ({"basis": "allocation", "idle_policy": "none"}, "allocation", "none"),
        ({"idle_policy": "even"}, "allocation", "even"),
        ({"idle_policy": "none"}, "usage", "none"),
        ({"basis": "usage", "idle_policy": "none"}, "usage", "none"),
        ({"share_idle": "true"}, "allocation", "node"),
        ({"share_idle": "weighted"}, "allocation", "node"),
        ({"share_idle": "even"}, "allocation", "even"),
        ({"share_idle": "even", "idle_policy": "even"}, "allocation", "even"),
        ({"share_idle": "false"}, "usage", "model"),
        ({"share_idle": "False", "basis": "allocation"}, "allocation", "model"),
    ],
)
def test_who_pays_for_idle_time(fields: dict[str, str], basis: str, policy: str):
    query = ask(**fields)
    assert (query.basis, query.idle) == (basis, policy)


@pytest.mark.parametrize(
    ("fields", "days", "step"),
    [
        ({}, 0, None),
        ({"step": "1d"}, 6, "1d"),
        ({"accumulate": "true"}, 0, None),
        ({"accumulate": "true", "step": "1h"}, 0, None),
        ({"accumulate": "false"}, 6, "1d"),
        ({"accumulate": "False", "step": "1w"}, 0, "1w"),
        ({"accumulate": "day"}, 6, "day"),
        ({"accumulate": "day", "step": "1h"}, 6, "day"),
        ({"accumulate": "week"}, 0, "week"),
        ({"accumulate": "month"}, 0, "month"),
        ({"accumulate": "hour"}, 7 * 24 - 1, "hour"),
    ],
)
def test_accumulation(fields: dict[str, str], days: int, step: str | None):
    asked = question(Asked(window="lastweek", **fields), NOW, ZONE)
    assert len(asked.query.edges) == days
    assert asked.step == step


def test_without_idle_states_the_question_is_asked_with_them_too():
    asked = question(Asked(idle="false", filter='tenant:"a"', aggregate="tenant", step="1h"), NOW, ZONE)
    assert asked.query.filter == (Term("tenant", "is", ("a",)), Term("state", "is_not", SHARED_STATES))
    assert asked.whole.filter == (Term("tenant", "is", ("a",)),)
    assert (asked.whole.aggregate, asked.whole.edges) == ((), ())
    assert (asked.whole.start_ns, asked.whole.end_ns) == (asked.query.start_ns, asked.query.end_ns)


@pytest.mark.parametrize(
    ("text", "dimensions"),
    [
        ("", ()),
        ("all", ()),
        ("tenant,model", ("tenant", "model")),
        (" Namespace , label:tenant,", ("namespace", "tenant")),
        (",".join(DIMENSIONS), DIMENSIONS),
    ],
)
def test_dimensions(text: str, dimensions: tuple[str, ...]):
    assert dimensions_of(text) == dimensions


@pytest.mark.parametrize(
    ("fields", "parameter", "says"),
    [
        ({"window": "soon"}, "window", "yesterday"),
        ({"aggregate": "cluster"}, "aggregate", "tenant, model"),
        ({"aggregate": "state,label:state"}, "aggregate", "twice"),
        ({"step": "1s"}, "step", "whole number of minutes"),
        ({"accumulate": "quarter"}, "accumulate", "hour, day, week or month"),
        ({"basis": "fair"}, "basis", "usage or allocation"),
        ({"idle_policy": "lottery"}, "idlePolicy", "none, model, node, even or owner"),
        ({"share_idle": "maybe"}, "shareIdle", "false, true, weighted or even"),
        ({"share_idle": "true", "idle_policy": "owner"}, "shareIdle", "Leave out one"),
        ({"share_idle": "true", "basis": "usage"}, "basis", "basis=allocation"),
        ({"idle_policy": "even", "basis": "usage"}, "basis", "rows of its own"),
        ({"idle": "perhaps"}, "idle", "true or false"),
        ({"filter": "tenant"}, "filter", "%2B"),
    ],
)
def test_what_is_wrong_is_told(fields: dict[str, str], parameter: str, says: str):
    with pytest.raises(WrongParameter) as caught:
        ask(**fields)
    assert caught.value.parameter == parameter
    assert says in f"{caught.value.detail} {caught.value.remedy}"


def test_flags():
    assert [flag("x", text) for text in ("true", "True", "1", "FALSE", "0", None)] == [
        True,
        True,
        True,
        False,
        False,
        None,
    ]
