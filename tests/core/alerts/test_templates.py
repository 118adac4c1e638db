"""Our texts against promtool's, character by character; and what is refused, by name."""

import json
import math
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.alerts.templates import TemplateError, compile_template
from tests.support.components import need

VALUES = [
    "0",
    "1",
    "-1",
    "5",
    "0.5",
    "0.0001",
    "0.00001",
    "1.5e-7",
    "99999",
    "100000",
    "999999",
    "1000000",
    "123456789",
    "1e15",
    "1e16",
    "1e21",
    "0.1",
    "0.30000000000000004",
    "999.96",
    "1234567",
    "1023",
    "1024",
    "1536",
    "1e9",
    "59.99",
    "60",
    "61",
    "3600",
    "90061",
    "0.015",
    "-90061",
    "-0.015",
    "-0.5",
    "1e-30",
    "99.995",
    "12345.678",
    "1e100",
    "2.5",
    "3.5",
    "Inf",
    "-Inf",
    "NaN",
]
TEMPLATES = [
    "{{ $value }}",
    "{{ $value | humanize }}",
    "{{ humanize1024 $value }}",
    "{{ humanizePercentage $value }}",
    '{{ printf "%.2f" $value }}',
    '{{ $value | printf "%.3e" }}',
    '{{ printf "%.3g" $value }}',
    '{{ printf "%g" $value }}',
    '{{ printf "%f" $value }}',
    '{{ printf "%e" $value }}',
    '{{ printf "%v|%s%%" $value $labels.x }}',
    "[{{ $labels.missing }}]",
    'a  {{- $labels.x }} b {{ $labels.x | toUpper -}}   c {{ "q\\"" }}{{ `raw` }}',
    '{{ $labels.x | printf "%v" }}',
    "{{ .Value }}{{ .Labels.x }}{{$value}}",
    '{{ $value | humanize | printf "<%s>" }}',
    "{{ $labels.__name__ }} plain } { text %",
]
DURATION = "{{ $value | humanizeDuration }}"  # beyond 292 years Go's integers overflow; ours do not


@pytest.mark.component("promtool")
def test_every_text_equals_promtools(tmp_path: Path):
    promtool = need("promtool")
    annotations = {f"a{i:02}": text for i, text in enumerate([*TEMPLATES, DURATION])}
    expected = []
    for number, value in enumerate(VALUES):
        labels = {"__name__": "v", "x": f"s{number}"}
        texts = {name: compile_template(text).render(labels, float(value)) for name, text in annotations.items()}
        if abs(float(value)) > 1e15 and math.isfinite(float(value)):
            continue
        expected.append({"exp_labels": {"x": f"s{number}"}, "exp_annotations": texts})
    kept = [e["exp_labels"]["x"] for e in expected]
    series = [{"series": f'v{{x="s{n}"}}', "values": v} for n, v in enumerate(VALUES) if f"s{n}" in kept]
    rule = {"alert": "T", "expr": "v", "annotations": annotations}
    test = {
        "interval": "1m",
        "input_series": series,
        "alert_rule_test": [{"eval_time": "0m", "alertname": "T", "exp_alerts": expected}],
    }
    (tmp_path / "r.yaml").write_text(json.dumps({"groups": [{"name": "g", "rules": [rule]}]}))
    (tmp_path / "t.yaml").write_text(json.dumps({"rule_files": ["r.yaml"], "tests": [test]}))
    done = subprocess.run(
        [promtool, "test", "rules", "t.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_missing_label_is_the_empty_string():
    assert compile_template("[{{ $labels.gone }}]").render({}, 1.0) == "[]"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ $value", "without its"),
        ("{{ }}", "empty"),
        ("{{ $value | }}", "empty part"),
        ("{{ if $value }}x{{ end }}", "`if` is not supported"),
        ('{{ query "up" }}', "`query` is not supported"),
        ("{{ $externalLabels.x }}", "externalLabels"),
        ("{{ $labels }}", "is not supported"),
        ('{{ index $labels "x" }}', "`index` is not supported"),
        ("{{ humanize $labels.x }}", "`humanize` takes one number"),
        ("{{ toUpper $value }}", "`toUpper` takes one text"),
        ("{{ humanize $value $value }}", "takes one number"),
        ("{{ $value $value }}", "is not a function"),
        ("{{ humanize 5 }}", "`5` is not supported"),
        ("{{ printf $value }}", "needs its format"),
        ('{{ printf "%d" $value }}', "`%d` in printf is not supported"),
        ('{{ printf "%5.1f" $value }}', "`%5` in printf is not supported"),
        ('{{ printf "%.2f" $labels.x }}', "does not fit"),
        ('{{ printf "%s" $value }}', "does not fit"),
        ('{{ printf "%.2f %.2f" $value }}', "2 verbs for 1"),
        ('{{ printf "x" $value }}', "0 verbs for 1"),
        ('{{ printf "50%" }}', "not supported"),
        ('{{ "\\q" }}', "escape"),
    ],
)
def test_what_is_refused_and_how(text, says):
    with pytest.raises(TemplateError, match=re.escape(says)):
        compile_template(text)


@given(st.text().filter(lambda t: "{{" not in t))
def test_text_without_actions_is_itself(text):
    assert compile_template(text).render({}, 1.0) == text


@given(st.floats())
def test_a_number_reads_back_equal(value):
    text = compile_template("{{ $value }}").render({}, value)
    assert float(text) == value or (math.isnan(value) and text == "NaN")
