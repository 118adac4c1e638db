"""Random series under rules with all kinds of holds: promtool confirms every state our engine comes to."""

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agent.core.alerts.alert import AlertState
from agent.core.alerts.rulefile import parse_rule_file
from agent.core.metrics.samples import Sample, SeriesKey
from agent.core.metrics.series import History
from agent.runners.rules import RuleRunner
from tests.support.components import need

TURNS = 60
STEP_SECONDS = 14  # no range below is a multiple: Prometheus 2 and 3 differ about a sample exactly at its start
HOLDS = ("0s", "15s", "30s", "1m", "100s", "4m")


def rules(dice: random.Random) -> dict[str, Any]:
    made: list[dict[str, Any]] = [
        {"record": "t:max", "expr": "max by (gpu) (t)"},
        {"record": "t:rate", "expr": "rate(c_total[1m])"},
    ]
    for number in range(8):
        low, high = sorted(dice.sample(range(70, 95), 2))
        expr = dice.choice(
            [
                f"t:max > {high}",
                f"t > {high} or (t > {low} and on (gpu) ALERTS{{alertname='A{number}', alertstate='firing'}})",
                f"sum(t) > {2 * high}",
                f"t:max > {low} and on (gpu) t:rate > 1",
                f"count(t:max > {low}) / count(t:max) > 0.5",
                f"max_over_time(t[1m]) > {high} unless on (gpu) ALERTS_FOR_STATE{{alertname='A{number - 1}'}}",
                "absent(t{gpu='1'})",
            ]
        )
        rule = {
            "alert": f"A{number}",
            "expr": expr,
            "for": dice.choice(HOLDS),
            "keep_firing_for": dice.choice(HOLDS),
            "labels": {
                "severity": "{{ $labels.gpu }}x",
                "gpu": dice.choice(["{{ $labels.gpu }}", "{{ $labels.gpu }}"]),
            },
            "annotations": {"since": "{{ $value | humanize }} {{ $labels.gpu }}"},
        }
        made.append(rule)
    return {"groups": [{"name": "g", "rules": made}]}


def points(dice: random.Random, *, counter: bool) -> list[float | str | None]:
    """A walk that stays for a while, with holes and ends; a counter sometimes starts over."""
    value, found = 80.0, []
    while len(found) < TURNS:
        what = dice.random()
        if what < 0.06:
            found += [None] * dice.choice([1, 2, 5, 25])
        elif what < 0.1:
            found.append("stale")
        else:
            value = dice.choice([value, value, value + dice.randint(0, 60)]) if counter else dice.uniform(65, 98)
            if counter and what > 0.97:
                value = 0.0
            found += [round(value, 1)] * (1 if counter else dice.randint(1, 8))
    return found[:TURNS]


@pytest.mark.component("promtool")
@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(s, marks=pytest.mark.long) for s in range(6, 60))])
def test_promtool_confirms_every_turn(seed: int, tmp_path: Path):
    promtool = need("promtool")
    dice = random.Random(seed)
    document = rules(dice)
    series = {SeriesKey("t", [("gpu", str(gpu))]): points(dice, counter=False) for gpu in range(4)}
    series |= {SeriesKey("c_total", [("gpu", str(gpu))]): points(dice, counter=True) for gpu in range(4)}
    history = History()
    runner = RuleRunner(parse_rule_file(json.dumps(document), "r.yaml"), history, lambda _alerts, _now: None, "n1")
    expectations, fired = [], 0
    for turn in range(TURNS):
        at_ms = turn * STEP_SECONDS * 1000
        for key, values in series.items():
            value = values[turn]
            if value == "stale":
                history.mark_stale(repr(key), at_ms)
            elif isinstance(value, float):
                history.append(repr(key), at_ms, [Sample(key, value)])
        runner.evaluate(at_ms, at_ms * 1_000_000)
        assert [s.error for s in runner.statuses() if s.error] == []
        firing = [a for a in runner.alerts() if a.state is AlertState.FIRING]
        fired += len(firing)
        for number in range(8):
            expected = [
                {
                    "exp_labels": {k: v for k, v in a.labels if k != "alertname"},
                    "exp_annotations": dict(a.annotations),
                }
                for a in firing
                if a.rule == f"A{number}"
            ]
            at = f"{turn * STEP_SECONDS}s"
            expectations.append({"eval_time": at, "alertname": f"A{number}", "exp_alerts": expected})
    assert fired > TURNS  # the dice made something worth confirming
    test = {
        "interval": f"{STEP_SECONDS}s",
        "input_series": [
            {
                "series": f'{key.name}{{gpu="{key.get("gpu")}"}}',
                "values": " ".join("_" if v is None else str(v) for v in values),
            }
            for key, values in series.items()
        ],
        "alert_rule_test": expectations,
    }
    (tmp_path / "r.yaml").write_text(json.dumps(document))
    everything = {"rule_files": ["r.yaml"], "evaluation_interval": f"{STEP_SECONDS}s", "tests": [test]}
    (tmp_path / "t.yaml").write_text(json.dumps(everything))
    done = subprocess.run(
        [promtool, "test", "rules", "t.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[:6000]
