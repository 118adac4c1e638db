"""Every rule file that comes with engineroom: what readers of alerts, runbooks and dashboards rely on."""

import re
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from agent.core.alerts.rulefile import AlertRule, KeptHistory
from agent.core.catalogue import BY_NAME
from agent.core.metrics.promql import parse
from agent.runners.rules import SHIPPED_RULES, load_rules

ROOT = Path(__file__).resolve().parent.parent.parent
RULE_FILES = sorted(path for path in (ROOT / "alert-rules").glob("*.yaml") if not path.name.endswith(".test.yaml"))
TEST_FILES = sorted((ROOT / "alert-rules").glob("*.test.yaml"))
RUNBOOKS = sorted((ROOT / "docs" / "runbooks").glob("*.md"))


def alert_rules() -> list[AlertRule]:
    return [rule for group in load_rules(RULE_FILES) for rule in group.rules if isinstance(rule, AlertRule)]


def test_the_node_evaluates_every_file_of_the_folder():
    assert sorted(path.resolve() for path in SHIPPED_RULES) == RULE_FILES
    first = ("gpu", "llm_health", "gpu_health", "delivery", "budgets")  # of each file its first group
    assert [Path(group.file) for group in load_rules([]) if group.name in first] == list(SHIPPED_RULES)


def test_the_wheel_carries_them():
    builder = WheelBuilder(str(ROOT))
    with builder.config.set_build_data({"artifacts": [], "force_include": {}, "build_hooks": ()}):
        carried = {file.distribution_path for file in builder.recurse_included_files()}
    assert carried >= {f"agent/data/alert-rules/{path.name}" for path in RULE_FILES}


def test_every_file_has_its_tests():
    assert [path.name for path in TEST_FILES] == [path.name.replace(".yaml", ".test.yaml") for path in RULE_FILES]


def test_every_alert_has_what_a_reader_needs():
    for rule in alert_rules():
        annotations = {name: template.source for name, template in rule.annotations}
        labels = {name: template.source for name, template in rule.labels}
        assert labels["severity"] in ("critical", "warning", "info"), rule.name
        assert set(annotations) == {"summary", "description", "runbook"}, rule.name
        assert annotations["runbook"] == f"docs/runbooks/{rule.name}.md"


def test_every_alert_has_a_runbook_and_every_runbook_an_alert():
    assert {path.stem for path in RUNBOOKS} == {rule.name for rule in alert_rules()}
    for path in RUNBOOKS:
        assert path.read_text().startswith(f"# {path.stem}\n")


@pytest.mark.parametrize("path", [*RULE_FILES, *TEST_FILES, *RUNBOOKS], ids=lambda p: p.name)
def test_every_metric_named_is_one_we_export(path: Path):
    """Those of the sidecar alone are checked by its own tests."""
    for name in set(re.findall(r"engineroom_[a-z_]+", path.read_text())):
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        assert name in BY_NAME or family in BY_NAME or name.startswith("engineroom_sidecar_"), name


def test_every_query_in_a_runbook_can_be_asked():
    for path in RUNBOOKS:
        for query in re.findall(r"`([^`]*(?:engineroom_|llm:|delivery:)[^`]*)`", path.read_text()):
            parse(query)


def test_no_value_is_part_of_an_identity():
    for rule in alert_rules():
        assert not any("value" in template.source.lower() for _, template in rule.labels), rule.name


def test_the_rules_fit_into_the_history_kept_by_default():
    assert load_rules([], KeptHistory())
