"""The rules for the health of GPUs: promtool and our engine give the same verdicts, also on rules that were spoilt."""

import re
from pathlib import Path

import pytest
import yaml

from agent.core.gpu_readings import RECOVERY_ACTIONS
from agent.core.xids import CRITICAL
from agent.runners.rules import SHIPPED_RULES
from tests.support.alert_rules import ours, promtools
from tests.support.components import need

ROOT = Path(__file__).resolve().parent.parent.parent
RULES = ROOT / "alert-rules" / "gpu.yaml"
TESTS = ROOT / "alert-rules" / "gpu.test.yaml"


def test_it_is_shipped_as_it_is_in_the_repository() -> None:
    assert RULES in [path.resolve() for path in SHIPPED_RULES]


def test_every_alert_fires_in_one_test_and_is_silent_in_another() -> None:
    asked = [query for test in yaml.safe_load(TESTS.read_text())["tests"] for query in test["alert_rule_test"]]
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    alerts = {rule["alert"] for rule in rules if "alert" in rule}
    assert {query["alertname"] for query in asked if query["exp_alerts"]} == alerts
    assert {query["alertname"] for query in asked if not query["exp_alerts"]} == alerts


def test_the_codes_that_are_critical_are_those_of_the_table() -> None:
    named = RULES.read_text().split('xid=~"')[1].split('"')[0]
    assert {int(code) for code in named.split("|")} == CRITICAL


def test_the_runbook_says_what_to_do_for_every_action() -> None:
    runbook = (ROOT / "docs" / "runbooks" / "GPURecoveryWanted.md").read_text()
    assert [action for action in RECOVERY_ACTIONS if action != "none" and f"`{action}`" not in runbook] == []


def test_our_engine_meets_every_expectation() -> None:
    assert ours(TESTS) == []


@pytest.mark.component("promtool")
def test_promtool_meets_every_expectation(tmp_path: Path) -> None:
    status, unmet, said = promtools(need("promtool"), tmp_path, TESTS.read_text(), RULES.read_text())
    assert (status, unmet) == (0, set()), said


SPOILT = [
    ('xid=~"48|62|64|74|79|', 'xid=~"31|'),
    ("} < 600", "} < 6000"),
    ('{action!="none"}', ""),
    ("for: 1m", "for: 0m"),
    ("engineroom_gpu_row_remap_failed) == 1", "engineroom_gpu_row_remap_failed) == 0"),
    ("hw_thermal|sw_thermal", "sw_power_cap"),
    ("> 0.1", "> 0.6"),
    ('state="allocated_idle"', 'state="loaded_idle"'),
    ("for: 1h", "for: 2m"),
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
