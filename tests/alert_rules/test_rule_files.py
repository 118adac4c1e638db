"""Every rule file with the tests beside it: promtool and our engine give the same verdicts, also on spoilt rules."""

import re
from pathlib import Path

import pytest
import yaml

from agent.core.metrics.samples import SeriesKey
from agent.runners.rules import SHIPPED_RULES
from tests.support.alert_rules import expand, ours, promtools, series_key
from tests.support.components import need
from tests.support.spoilt_rules import SPOILT

FOLDER = Path(__file__).resolve().parent.parent.parent / "alert-rules"
NAMES = sorted(SPOILT)


# Half of those of the slowest file run with --long only.
SPOILT_CASES = [
    pytest.param(name, *pair, marks=pytest.mark.long if name == "delivery" and number % 2 == 0 else ())
    for name in NAMES
    for number, pair in enumerate(SPOILT[name])
]


def rules_of(name: str) -> Path:
    return FOLDER / f"{name}.yaml"


def unit_tests_of(name: str) -> Path:
    return FOLDER / f"{name}.test.yaml"


def test_the_notation_of_series() -> None:
    assert expand("0+5x3 7x1 10-2x2") == [0.0, 5.0, 10.0, 15.0, 7.0, 7.0, 10.0, 8.0, 6.0]
    assert expand("_ _x2 stale 1") == [None, None, None, "stale", 1.0]
    assert series_key('m{b="2", a="1"}') == SeriesKey("m", [("a", "1"), ("b", "2")])


def test_every_shipped_file_is_spoilt_here() -> None:
    assert [path.resolve() for path in SHIPPED_RULES] == [rules_of(path.stem) for path in SHIPPED_RULES]
    assert {path.stem for path in SHIPPED_RULES} == set(SPOILT)


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_fires_in_one_test_and_is_silent_in_another(name: str) -> None:
    asked = [
        q for test in yaml.safe_load(unit_tests_of(name).read_text())["tests"] for q in test.get("alert_rule_test", [])
    ]
    groups = yaml.safe_load(rules_of(name).read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert {query["alertname"] for query in asked if query["exp_alerts"]} == alerts
    assert {query["alertname"] for query in asked if not query["exp_alerts"]} == alerts


@pytest.mark.parametrize("name", NAMES)
def test_a_series_in_the_tests_is_no_number(name: str) -> None:
    """YAML reads `0x9` as one, and promtool does not."""
    tests = yaml.safe_load(unit_tests_of(name).read_text())["tests"]
    assert all(isinstance(series["values"], str) for test in tests for series in test["input_series"])


@pytest.mark.parametrize("name", NAMES)
def test_our_engine_meets_every_expectation(name: str) -> None:
    assert ours(unit_tests_of(name)) == []


@pytest.mark.component("promtool")
@pytest.mark.parametrize("name", NAMES)
def test_promtool_meets_every_expectation(name: str, tmp_path: Path) -> None:
    status, unmet, said = promtools(
        need("promtool"), tmp_path, unit_tests_of(name).read_text(), rules_of(name).read_text()
    )
    assert (status, unmet) == (0, set()), said


@pytest.mark.component("promtool")
@pytest.mark.parametrize(("name", "good", "bad"), SPOILT_CASES)
def test_the_same_verdicts_on_spoilt_rules(name: str, good: str, bad: str, tmp_path: Path) -> None:
    text = rules_of(name).read_text()
    assert good in text
    spoilt = text.replace(good, bad)
    status, unmet, said = promtools(need("promtool"), tmp_path, unit_tests_of(name).read_text(), spoilt)
    mine = ours(unit_tests_of(name), spoilt)
    assert {(v.what, v.at) for v in mine if re.fullmatch(r"\w+", v.what)} == unmet, said
    assert status != 0, "the tests do not notice this change"
    assert mine != []
