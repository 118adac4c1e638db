"""The rules for spool and delivery: promtool and our engine give the same verdicts, also on rules that were spoilt."""

import re
from pathlib import Path

import pytest
import yaml

from agent.runners.rules import SHIPPED_RULES
from tests.support.alert_rules import ours, promtools
from tests.support.components import need

ROOT = Path(__file__).resolve().parent.parent.parent
RULES = ROOT / "alert-rules" / "delivery.yaml"
TESTS = ROOT / "alert-rules" / "delivery.test.yaml"


def test_it_is_shipped_as_it_is_in_the_repository():
    assert RULES in [path.resolve() for path in SHIPPED_RULES]


def test_every_alert_fires_in_one_test_and_is_silent_in_another():
    asked = [query for test in yaml.safe_load(TESTS.read_text())["tests"] for query in test["alert_rule_test"]]
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    alerts = {rule["alert"] for rule in rules if "alert" in rule}
    assert {query["alertname"] for query in asked if query["exp_alerts"]} == alerts
    assert {query["alertname"] for query in asked if not query["exp_alerts"]} == alerts
    fired = {alert["exp_labels"].get("loss") for query in asked for alert in query["exp_alerts"]}
    assert fired >= {rule["labels"].get("loss") for rule in rules if "alert" in rule}


def test_a_series_in_the_tests_is_no_number():
    """YAML reads `0x9` as one, and promtool does not."""
    tests = yaml.safe_load(TESTS.read_text())["tests"]
    assert all(isinstance(series["values"], str) for test in tests for series in test["input_series"])


def test_our_engine_meets_every_expectation():
    assert ours(TESTS) == []


@pytest.mark.component("promtool")
def test_promtool_meets_every_expectation(tmp_path: Path):
    status, unmet, said = promtools(need("promtool"), tmp_path, TESTS.read_text(), RULES.read_text())
    assert (status, unmet) == (0, set()), said


SPOILT = [
    ("dropped:.*|unknown", "dropped:.*"),
    (', result!="dropped:discarded"', ""),
    ("or 0 * max by (node, instance, stream) (engineroom_delivery_accepted_items_total)", ""),
    ("delivery:items_lost:total - min_over_time(delivery:items_lost:total[15m]) > 0", "delivery:items_lost:total > 0"),
    ("delivery:records_missing:max - min_over_time(delivery:records_missing:max[15m])", "delivery:records_missing:max"),
    (
        "increase(engineroom_sidecar_events_dropped_total[15m])",
        "max_over_time(engineroom_sidecar_events_dropped_total[15m])",
    ),
    ("for: 30s", "for: 0s"),
    ("> 0.8\n", ">= 0.8\n"),
    ("delivery:oldest_age:seconds > 300", "delivery:oldest_age:seconds > 0"),
    ("increase(engineroom_spool_retired_segments_total[15m])", "0 * engineroom_spool_retired_segments_total"),
    ("increase(engineroom_spool_damaged_frames_total[15m])", "engineroom_spool_damaged_frames_total"),
    ("and on (node, instance, stream) engineroom_delivery_up == 0", ""),
    ("unless on (node, instance, stream) engineroom_delivery_paused == 1", ""),
    ('{stream!="dead-letters"} > 3600', " > 3600"),
    ("by (node, instance, stream)", "by (node, stream)"),
    ("severity: critical", "severity: info"),
]


@pytest.mark.component("promtool")
@pytest.mark.parametrize(
    ("good", "bad"),
    [pytest.param(*pair, marks=() if number % 2 else pytest.mark.long) for number, pair in enumerate(SPOILT)],
)
def test_the_same_verdicts_on_spoilt_rules(good: str, bad: str, tmp_path: Path):
    text = RULES.read_text()
    assert good in text
    spoilt = text.replace(good, bad)
    status, unmet, said = promtools(need("promtool"), tmp_path, TESTS.read_text(), spoilt)
    mine = ours(TESTS, spoilt)
    assert {(v.what, v.at) for v in mine if re.fullmatch(r"\w+", v.what)} == unmet, said
    assert status != 0, "the tests do not notice this change"
    assert mine != []
