"""Runs promtool's own test files through our rule engine; a verdict per expectation, comparable with promtool's."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agent.core.alerts.alert import AlertState
from agent.core.alerts.rulefile import parse_duration_ms, parse_rule_file
from agent.core.metrics.promql import Scalar, Vector, evaluate, parse
from agent.core.metrics.samples import Sample, SeriesKey
from agent.core.metrics.series import History
from agent.runners.rules import RuleRunner

_LABEL = re.compile(r'([a-zA-Z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"')
_ITEM = re.compile(
    r"(?P<gap>_)(?:x(?P<gaps>\d+))?|(?P<stale>stale)|(?P<start>-?[\d.e]+|NaN|-?Inf)(?:(?P<step>[+-][\d.]+)?x(?P<times>\d+))?"
)

Points = list[float | str | None]


def series_key(text: str) -> SeriesKey:
    """`name{a="b"}` as promtool writes it."""
    name, _, inside = text.partition("{")
    return SeriesKey(name.strip(), [(m[1], m[2]) for m in _LABEL.finditer(inside)])


def expand(values: str) -> Points:
    """promtool's notation: `1 2`, `0+5x3` (four values), `7x2` (three), `_` (nothing), `_x4`, `stale`."""
    points: Points = []
    for item in str(values).split():
        match = _ITEM.fullmatch(item)
        assert match is not None, f"cannot read `{item}`"
        if match["gap"]:
            points += [None] * int(match["gaps"] or 1)
        elif match["stale"]:
            points.append("stale")
        else:
            start, step = float(match["start"]), float(match["step"] or 0)
            points += [start + i * step for i in range(int(match["times"] or 0) + 1)]
    return points


@dataclass(frozen=True)
class Verdict:
    """One expectation that was not met."""

    test: int
    at: str
    what: str


def ours(test_file: Path, rules_text: str | None = None) -> list[Verdict]:
    """Expectations of a test file that our engine does not meet. `rules_text` replaces the rule file it names."""
    document = yaml.safe_load(test_file.read_text())
    text = rules_text
    if text is None:
        text = "\n".join((test_file.parent / name).read_text() for name in document["rule_files"])
    step = parse_duration_ms(document.get("evaluation_interval", "1m"))
    failures = []
    for number, test in enumerate(document["tests"]):
        failures += _one(number, test, text, step)
    return failures


def _one(number: int, test: dict[str, Any], rules_text: str, step: int) -> list[Verdict]:
    history = History()
    runner = RuleRunner(parse_rule_file(rules_text, "rules.yaml"), history, lambda _alerts, _now: None, "n1")
    interval = parse_duration_ms(test["interval"])
    series = [(series_key(s["series"]), expand(s["values"])) for s in test["input_series"]]
    asked = [("alert", q) for q in test.get("alert_rule_test", [])] + [
        ("expr", q) for q in test.get("promql_expr_test", [])
    ]
    end = max(parse_duration_ms(q["eval_time"]) for _, q in asked)
    failures = []
    loaded = 0
    for at in range(0, end + 1, step):
        while loaded * interval <= at:
            _load(history, series, loaded, loaded * interval)
            loaded += 1
        runner.evaluate(at, at * 1_000_000)
        for kind, query in asked:
            if at <= parse_duration_ms(query["eval_time"]) < at + step:
                met = _alerts_met(runner, query) if kind == "alert" else _expr_met(history, query, at)
                if not met:
                    failures.append(Verdict(number, query["eval_time"], query.get("alertname") or query["expr"]))
    broken = [f"{s.name}: {s.error}" for s in runner.statuses() if s.error]
    return failures + [Verdict(number, "", problem) for problem in broken]


def _load(history: History, series: list[tuple[SeriesKey, Points]], index: int, at: int) -> None:
    for key, points in series:
        point = points[index] if index < len(points) else None
        if point == "stale":
            history.mark_stale(repr(key), at)
        elif isinstance(point, float):
            history.append(repr(key), at, [Sample(key, point)])


def _alerts_met(runner: RuleRunner, query: dict[str, Any]) -> bool:
    name = query["alertname"]
    found = [
        (dict(a.labels), dict(a.annotations))
        for a in runner.alerts()
        if a.rule == name and a.state is AlertState.FIRING
    ]
    wanted = [
        ({k: str(v) for k, v in e.get("exp_labels", {}).items()} | {"alertname": name}, e.get("exp_annotations", {}))
        for e in query.get("exp_alerts", [])
    ]
    return sorted(found, key=repr) == sorted(wanted, key=repr) or _same(found, wanted)


def _same(found: list[Any], wanted: list[Any]) -> bool:
    return len(found) == len(wanted) and all(f in wanted for f in found)


def _expr_met(history: History, query: dict[str, Any], at: int) -> bool:
    result = evaluate(parse(query["expr"]), history, at)
    wanted = {}
    for sample in query.get("exp_samples", []):
        key = series_key(sample.get("labels", ""))
        named = [("__name__", key.name)] if key.name else []
        wanted[tuple(sorted([*named, *key.labels]))] = float(sample["value"])
    if isinstance(result, Scalar):
        return wanted == {(): result.value}
    assert isinstance(result, Vector)
    return wanted == {tuple(sorted(s.labels)): s.value for s in result.samples}


def promtools(promtool: str, folder: Path, test_text: str, rules_text: str) -> tuple[int, set[tuple[str, str]], str]:
    """promtool's exit status, its unmet alert expectations as (alert, time), and what it printed."""
    (rules_name,) = yaml.safe_load(test_text)["rule_files"]
    (folder / rules_name).write_text(rules_text)
    (folder / "rules.test.yaml").write_text(test_text)
    done = subprocess.run(
        [promtool, "test", "rules", "rules.test.yaml"], cwd=folder, capture_output=True, text=True, timeout=120
    )
    said = done.stdout + done.stderr
    return done.returncode, {(m[1], m[2]) for m in re.finditer(r"alertname: (\w+), time: (\w+),", said)}, said
