from agent.api.rules_json import alerts_data, groups_data
from agent.api.services import GroupView, RuleView
from tests.support.api import rule_group

NO_FILTERS = {"rule_name": [], "rule_group": [], "file": []}


def test_a_failing_rule_says_why():
    broken = RuleView(kind="alerting", name="b", query="x", health="err", error="many-to-many")
    group = GroupView(name="g", file="f", interval_seconds=1, rules=(broken,))
    (found,) = groups_data([group], "", NO_FILTERS, without_alerts=False)
    assert (found["rules"][0]["health"], found["rules"][0]["lastError"]) == ("err", "many-to-many")


def test_filters_choose_groups_files_and_rules():
    def names(kind: str = "", **filters: list[str]) -> list[str]:
        groups = groups_data([rule_group()], kind, {**NO_FILTERS, **filters}, without_alerts=False)
        return [rule["name"] for group in groups for rule in group["rules"]]

    assert len(names()) == 8
    assert names("record") == ["llm:requests:rate5m"]
    assert names(rule_name=["TrafficDrop"]) == ["TrafficDrop"]
    assert names(file=["other"]) == names(rule_group=["other"]) == []


def test_an_alert_without_value_has_an_empty_one():
    quiet = rule_group(firing=False)
    assert alerts_data([quiet]) == []
    assert [alert["value"] for alert in alerts_data([rule_group()])] == ["9.1e+01", "9.8e-01"]
