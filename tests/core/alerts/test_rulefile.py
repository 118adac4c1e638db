"""Rule files: what is read, and what is refused with which words. promtool judges the files we accept."""

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.alerts.rulefile import (
    AlertRule,
    KeptHistory,
    RecordingRule,
    RuleFileError,
    parse_duration_ms,
    parse_rule_file,
)
from agent.core.ports import ConfigError
from tests.support.components import need

GOOD = """
groups:
  - name: one
    interval: 15s
    limit: 7
    rules:
      - record: job:up:sum
        expr: sum by (job) (up)
        labels: {tier: 1, flag: yes}
      - alert: Down
        expr: |
          job:up:sum == 0
        for: 1m30s
        keep_firing_for: 2m
        labels: {severity: "critical {{ $labels.job }}"}
        annotations: {summary: "{{ $labels.job }} has {{ $value }}"}
  - name: two
    rules: []
"""


def test_everything_a_file_can_say():
    one, two = parse_rule_file(GOOD, "good.yaml")
    assert (one.name, one.file, one.interval_ms, one.limit) == ("one", "good.yaml", 15_000, 7)
    assert (two.interval_ms, two.limit, two.rules) == (None, 0, ())
    record, alert = one.rules
    assert isinstance(record, RecordingRule)
    assert (record.name, record.query) == ("job:up:sum", "sum by (job) (up)")
    # Scalars stay as written: Go reads them into strings, and `yes` is no boolean there.
    assert record.labels == (("flag", "yes"), ("tier", "1"))
    assert isinstance(alert, AlertRule)
    assert (alert.for_ms, alert.keep_firing_for_ms) == (90_000, 120_000)
    assert [(n, t.render({"job": "x"}, 0.0)) for n, t in alert.labels] == [("severity", "critical x")]
    assert [(n, t.render({"job": "x"}, 0.0)) for n, t in alert.annotations] == [("summary", "x has 0")]


@pytest.mark.component("promtool")
def test_promtool_takes_the_same_file(tmp_path: Path):
    (tmp_path / "good.yaml").write_text(GOOD)
    done = subprocess.run(
        [need("promtool"), "check", "rules", "good.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", ["", "# nothing\n", "groups:\n", "groups: []\n"])
def test_an_empty_file_has_no_groups(text):
    assert parse_rule_file(text, "empty.yaml") == ()


def rule(text: str) -> str:
    return "groups: [{name: g, rules: [" + text + "]}]"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("groups: [", "f.yaml, line 2, column 1: not valid YAML"),
        ("rules: []", "unknown field `rules` in the file; allowed are groups"),
        ("- a", "has to be a mapping"),
        ("groups: {a: b}", "`groups` has to be a list"),
        ("groups: [{rules: []}]", "group 1: a group needs a `name`"),
        ("groups: [{name: g}, {name: g}]", "group `g` is there twice"),
        ("groups: [{name: g, name: h}]", "key `name` is there twice"),
        (
            "groups: [{name: g, query_offset: 1m}]",
            "group 1: unknown field `query_offset` in the group; allowed are name,",
        ),
        ("groups: [{name: g, limit: -1}]", "group `g`: `limit`: `-1` is not a whole number"),
        ("groups: [{name: g, interval: 5}]", "`interval`: `5` is not a duration"),
        (rule("{expr: up}"), "group `g`, rule 1: a rule is a mapping with exactly one of"),
        (rule("{alert: A, record: b, expr: up}"), "exactly one of"),
        (rule("{alert: '', expr: up}"), "`alert` needs a name"),
        (
            rule("{alert: A, expr: up, labels: {severity: a}, foo: x}"),
            "unknown field `foo` in a rule with `alert`; allowed",
        ),
        (rule("{record: a, expr: up, for: 5m}"), "unknown field `for` in a rule with `record`"),
        (rule("{record: a-b, expr: up}"), "rule 1 `a-b`: `a-b` is not a metric name"),
        (rule("{alert: A}"), "rule 1 `A`: a rule needs an `expr`"),
        (rule("{alert: A, expr: 'sum('}"), "rule 1 `A`: `expr`: "),
        (rule("{alert: A, expr: 'up[5m]'}"), "`expr` gives a matrix"),
        (rule("{alert: A, expr: '\"text\"'}"), "`expr` gives a string"),
        (rule("{alert: A, expr: [up]}"), "`expr` has to be a text, not a list"),
        (rule("{alert: A, expr: up, for: 5 minutes}"), "`for`: `5 minutes` is not a duration"),
        (rule("{alert: A, expr: up, keep_firing_for: 1s2m}"), "`keep_firing_for`: `1s2m` is not a duration"),
        (rule("{alert: A, expr: up, labels: [a]}"), "`labels` has to be a mapping"),
        (rule("{alert: A, expr: up, labels: {a-b: c}}"), "`a-b` is not a name for labels"),
        (rule("{alert: A, expr: up, labels: {__name__: c}}"), "`__name__` is not a name for labels"),
        (rule("{alert: A, expr: up, labels: {alertname: c}}"), "label `alertname` is set by the rule's name"),
        (rule("{alert: A, expr: up, labels: {a: [b]}}"), "`a` in `labels` has to be a text"),
        (
            rule("{alert: A, expr: up, annotations: {s: '{{ query }}'}}"),
            "annotation `s`: function `query` is not supported",
        ),
        (rule("{alert: A, expr: up}, {alert: A, expr: up == 0}"), "two rules named `A` with the same labels"),
    ],
)
def test_what_is_refused_and_how(text, says):
    with pytest.raises(RuleFileError, match=re.escape(says)) as caught:
        parse_rule_file(text, "f.yaml")
    assert isinstance(caught.value, ConfigError)
    assert caught.value.key == "rules.files"
    assert "f.yaml" in str(caught.value)


def test_a_query_beyond_the_history_is_refused_with_the_setting():
    text = rule("{alert: A, expr: 'rate(x_total[1h] offset 5m) > 0'}")
    kept = KeptHistory(30 * 60_000, "storage.history_seconds")
    with pytest.raises(
        RuleFileError, match=re.escape("3900 s back, the history kept is 1800 s; raise `storage.history_seconds`")
    ):
        parse_rule_file(text, "f.yaml", kept)
    assert parse_rule_file(text, "f.yaml", KeptHistory(3900_000))


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0", 0),
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("1d", 86_400_000),
        ("1w", 604_800_000),
        ("1y", 31_536_000_000),
        ("250ms", 250),
        ("1m1ms", 60_001),
    ],
)
def test_durations(text, ms):
    assert parse_duration_ms(text) == ms


@pytest.mark.parametrize("text", ["", "5", "m", "1.5h", "-1m", "1m1h", "1 m", "1m1m"])
def test_refused_durations(text):
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration_ms(text)


@given(st.integers(0, 10), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_parts_of_a_duration_add_up(days, hours, minutes, seconds):
    ms = parse_duration_ms(f"{days}d{hours}h{minutes}m{seconds}s")
    assert ms == 1000 * (seconds + 60 * (minutes + 60 * (hours + 24 * days)))
