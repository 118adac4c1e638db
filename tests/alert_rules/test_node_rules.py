"""The shipped rules: promtool and our engine give the same verdicts, also on rules that were spoilt on purpose."""

import re
from pathlib import Path

import pytest

from agent.core.metrics.samples import SeriesKey
from agent.runners.rules import SHIPPED_RULES
from tests.support.alert_rules import expand, ours, promtools, series_key
from tests.support.components import need

ROOT = Path(__file__).resolve().parent.parent.parent
RULES = ROOT / "alert-rules" / "node.yaml"
TESTS = ROOT / "alert-rules" / "node.test.yaml"


def test_the_notation_of_series():
    assert expand("1 2") == [1.0, 2.0]
    assert expand("0+5x3 7x1 10-2x2") == [0.0, 5.0, 10.0, 15.0, 7.0, 7.0, 10.0, 8.0, 6.0]
    assert expand("_ _x2 stale 1") == [None, None, None, "stale", 1.0]
    assert series_key('m{b="2", a="1"}') == SeriesKey("m", [("a", "1"), ("b", "2")])


def test_it_is_shipped_as_it_is_in_the_repository():
    assert RULES in [path.resolve() for path in SHIPPED_RULES]


def test_our_engine_meets_every_expectation():
    assert ours(TESTS) == []


@pytest.mark.component("promtool")
def test_promtool_meets_every_expectation(tmp_path: Path):
    status, unmet, said = promtools(need("promtool"), tmp_path, TESTS.read_text(), RULES.read_text())
    assert (status, unmet) == (0, set()), said


SPOILT = [
    ("> 85", "> 90"),
    ("> 80", "> 83"),
    ("for: 2m", "for: 2m30s"),
    ('ALERTS{alertname="GPUTemperatureHigh", alertstate="firing"}', 'ALERTS{alertname="GPUTemperatureHigh"}'),
    ("> 0.95", ">= 0.95"),
    ("for: 10m", "for: 9m"),
    ("(engineroom_gpu_up) == 0", "(engineroom_gpu_up) == 1"),
    ("keep_firing_for: 5m", "keep_firing_for: 25m"),
    (">= 100", ">= 50"),
    (">= 50", ">= 30"),
    ("ratio_rate5m > 0.01", "ratio_rate5m > 0.03"),
    ("llm:request_timeouts:ratio_rate5m > 0.05", "llm:request_timeouts:ratio_rate5m > -1"),
    ("or 0 * llm:requests:rate5m", ""),
    ("(llm:requests:rate5m > 0)", "llm:requests:rate5m"),
    ("1 in 100 requests", "1 of 100 requests"),
    ("by (node, engine, model, source, le)", "by (node, engine, model, le)"),
    ("humanizePercentage", "humanize"),
    ("severity: critical", "severity: info"),
]


@pytest.mark.component("promtool")
@pytest.mark.parametrize(("good", "bad"), SPOILT)
def test_the_same_verdicts_on_spoilt_rules(good, bad, tmp_path: Path):
    text = RULES.read_text()
    assert good in text
    spoilt = text.replace(good, bad)
    status, unmet, said = promtools(need("promtool"), tmp_path, TESTS.read_text(), spoilt)
    mine = ours(TESTS, spoilt)
    assert {(v.what, v.at) for v in mine if re.fullmatch(r"\w+", v.what)} == unmet, said
    assert status != 0, "the tests do not notice this change"
    assert mine != []
