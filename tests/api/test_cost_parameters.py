from typing import Any

import pytest

from agent.api.cost_parameters import ReportParameters, check_currency, own_tenant, read_question
from agent.api.problems import Problem
from agent.core.cost.calendar import Calendar
from agent.core.cost.report_forms import Page
from agent.doors.identity import ALL_SCOPES, Identity

NOW_NS = 1_800_000_000 * 10**9


def read(**parameters: Any) -> Any:
    return read_question(ReportParameters(**parameters), NOW_NS, Calendar("UTC"), None)


def test_two_names_of_one_parameter():
    assert not read(includeIdle="false").shows_idle
    assert not read(idle="false", includeIdle="false").shows_idle
    assert read(accumulateBy="day").step == "day"
    assert read(accumulate="day", accumulateBy="day").step == "day"


def test_what_has_no_effect_is_accepted():
    assert read(idleByNode="true", resolution="1m").query == read().query


@pytest.mark.parametrize("aggregate", [None, "state"])
def test_the_default_of_aggregate(aggregate: str | None):
    assert read(aggregate=aggregate).query.aggregate == ("state",)
    assert read(aggregate="").query.aggregate == ()


@pytest.mark.parametrize(
    ("parameters", "detail"),
    [
        ({"idle": "true", "includeIdle": "false"}, "idle: 'true' and includeIdle='false' contradict each other."),
        ({"format": "xml"}, "format: 'xml' is not served here."),
        ({"format": "focus", "offset": 3}, "offset: format=focus has one row for each hour"),
        ({"format": "focus", "shareIdle": "even"}, "basis: format=focus shows idle time as unused capacity"),
        ({"format": "focus", "idlePolicy": "none"}, "basis: format=focus shows idle time as unused capacity"),
        ({"format": "focus", "accumulateBy": "day"}, "accumulate: format=focus"),
    ],
)
def test_refusals_say_which_parameter_and_what_to_do(parameters: dict[str, Any], detail: str):
    with pytest.raises(Problem) as caught:
        read(**parameters)
    assert caught.value.status == 400
    assert caught.value.detail.startswith(detail)
    assert caught.value.remedy


def test_pages():
    assert ReportParameters().page(7) == Page(offset=0, limit=7)
    assert ReportParameters(offset=2, limit=3).page(7) == Page(offset=2, limit=3)


def test_currencies():
    check_currency(None, "CNY")
    check_currency("cny", "CNY")
    for asked, kept in (("USD", "CNY"), ("USD", None)):
        with pytest.raises(Problem, match="currency"):
            check_currency(asked, kept)


def test_whose_figures():
    everybody = Identity(name="a", kind="token", scopes=ALL_SCOPES)
    limited = Identity(name="b", kind="token", scopes=ALL_SCOPES, tenant="acme")
    assert own_tenant(everybody, None) is None
    assert own_tenant(everybody, "x") == "x"
    assert own_tenant(limited, None) == own_tenant(limited, "acme") == "acme"
    with pytest.raises(Problem) as caught:
        own_tenant(limited, "rival")
    assert caught.value.status == 403
