"""Rule groups → the ``data`` of Prometheus' ``/api/v1/rules`` and ``/api/v1/alerts``."""

from collections.abc import Mapping, Sequence
from typing import Any

from agent.api.numbers import scientific
from agent.api.services import AlertView, GroupView, RuleView
from agent.api.times import rfc3339

_NEVER = "0001-01-01T00:00:00Z"  # Go's zero time, which clients of this API know
_KINDS = {"alert": "alerting", "record": "recording"}


def groups_data(
    groups: Sequence[GroupView], kind: str, filters: Mapping[str, Sequence[str]], *, without_alerts: bool
) -> list[dict[str, Any]]:
    """Groups with the rules that pass the filters; groups left without any rule are dropped when filtering."""
    names, group_names, files = (filters[key] for key in ("rule_name", "rule_group", "file"))
    found = []
    for group in groups:
        if (group_names and group.name not in group_names) or (files and group.file not in files):
            continue
        rules = [
            _rule(rule, without_alerts=without_alerts)
            for rule in group.rules
            if (not kind or rule.kind == _KINDS[kind]) and (not names or rule.name in names)
        ]
        if not rules and (kind or names):
            continue
        found.append(
            {
                "name": group.name,
                "file": group.file,
                "interval": group.interval_seconds,
                "limit": group.limit,
                "rules": rules,
                "evaluationTime": group.evaluation_seconds,
                "lastEvaluation": _instant(group.evaluated_at_ns),
            }
        )
    return found


def alerts_data(groups: Sequence[GroupView]) -> list[dict[str, Any]]:
    """Every pending and firing alert of every rule."""
    return [_alert(alert) for group in groups for rule in group.rules for alert in rule.alerts]


def _rule(rule: RuleView, *, without_alerts: bool) -> dict[str, Any]:
    common = {
        "name": rule.name,
        "query": rule.query,
        "labels": rule.labels,
        "health": rule.health,
        "evaluationTime": rule.evaluation_seconds,
        "lastEvaluation": _instant(rule.evaluated_at_ns),
        "type": rule.kind,
    }
    if rule.error:
        common["lastError"] = rule.error
    if rule.kind == "recording":
        return common
    states = {alert.state for alert in rule.alerts}
    return {
        **common,
        "state": "firing" if "firing" in states else "pending" if "pending" in states else "inactive",
        "duration": rule.for_seconds,
        "keepFiringFor": rule.keep_firing_for_seconds,
        "annotations": rule.annotations,
        "alerts": [] if without_alerts else [_alert(alert) for alert in rule.alerts],
    }


def _alert(alert: AlertView) -> dict[str, Any]:
    return {
        "labels": alert.labels,
        "annotations": alert.annotations,
        "state": alert.state,
        "activeAt": rfc3339(alert.active_at_ns),
        "value": "" if alert.value is None else scientific(alert.value),
    }


def _instant(at_ns: int | None) -> str:
    return _NEVER if at_ns is None else rfc3339(at_ns)
