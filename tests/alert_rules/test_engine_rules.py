"""The rules for the health of engines: promtool and our engine give the same verdicts, also on spoilt rules."""

import re
from pathlib import Path

import pytest
import yaml

from agent.runners.rules import SHIPPED_RULES
from tests.support.alert_rules import ours, promtools
from tests.support.components import need

ROOT = Path(__file__).resolve().parent.parent.parent
RULES = ROOT / "alert-rules" / "engines.yaml"
TESTS = ROOT / "alert-rules" / "engines.test.yaml"


def test_it_is_shipped_as_it_is_in_the_repository() -> None:
    assert RULES in [path.resolve() for path in SHIPPED_RULES]


def test_every_alert_fires_in_one_test_and_is_silent_in_another() -> None:
    asked = [query for test in yaml.safe_load(TESTS.read_text())["tests"] for query in test["alert_rule_test"]]
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    alerts = {rule["alert"] for rule in rules if "alert" in rule}
    assert {query["alertname"] for query in asked if query["exp_alerts"]} == alerts
    assert {query["alertname"] for query in asked if not query["exp_alerts"]} == alerts


def test_our_engine_meets_every_expectation() -> None:
    assert ours(TESTS) == []


@pytest.mark.component("promtool")
def test_promtool_meets_every_expectation(tmp_path: Path) -> None:
    status, unmet, said = promtools(need("promtool"), tmp_path, TESTS.read_text(), RULES.read_text())
    assert (status, unmet) == (0, set()), said


SPOILT = [
    ("crash_looping) == 1", "crash_looping) == 0"),
    ("engineroom_llm_ready) == 0", "engineroom_llm_ready) == 1"),
    ("engineroom_llm_up == 0", "engineroom_llm_up == 2"),
    ("for: 15m", "for: 5m"),
    ("min_over_time", "max_over_time"),
    ("for: 5m", "for: 0m"),
]


@pytest.mark.component("promtool")
@pytest.mark.parametrize(("good", "bad"), SPOILT)
def test_the_same_verdicts_on_spoilt_rules(good: str, bad: str, tmp_path: Path) -> None:
    text = RULES.read_text()
    assert good in text
    spoilt = text.replace(good, bad)
    status, unmet, said = promtools(need("promtool"), tmp_path, TESTS.read_text(), spoilt)
    mine = ours(TESTS, spoilt)
    assert {(v.what, v.at) for v in mine if re.fullmatch(r"\w+", v.what)} == unmet, said
    assert status != 0, "the tests do not notice this change"
    assert mine != []
