"""delivery.yaml: every kind of loss that it tells apart is tested."""

from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parent.parent.parent / "alert-rules"


def test_every_kind_of_loss_fires_in_a_test() -> None:
    tests = yaml.safe_load((FOLDER / "delivery.test.yaml").read_text())["tests"]
    rules = yaml.safe_load((FOLDER / "delivery.yaml").read_text())["groups"][0]["rules"]
    asked = [query for test in tests for query in test["alert_rule_test"]]
    fired = {alert["exp_labels"].get("loss") for query in asked for alert in query["exp_alerts"]}
    assert fired >= {rule["labels"].get("loss") for rule in rules if "alert" in rule}
