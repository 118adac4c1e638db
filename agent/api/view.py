"""Services → what the page shows of alerts and rules. Plain values, already in words; the templates only lay out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from agent.api import formats
from agent.api.history_view import Series
from agent.api.services import AlertView, GroupView

NS = 1_000_000_000
SLOW_SECONDS = 2.0  # the threshold of the shipped rule, drawn here

Charts = dict[str, Series]


@dataclass(slots=True)
class Cell:
    """A figure with its small chart."""

    label: str
    value: str
    note: str = ""
    tone: str = ""
    chart: Markup = field(default_factory=Markup)


@dataclass(slots=True)
class AlertCard:
    """One alert, as loud as it is."""

    name: str
    state: str
    severity: str
    summary: str
    detail: str
    since: str
    labels: list[tuple[str, str]]
    runbook: str


@dataclass(slots=True)
class RuleChip:
    """One alert rule and whether it is quiet."""

    name: str
    state: str
    note: str


def alert_cards(groups: Sequence[GroupView], now_ns: int) -> list[AlertCard]:
    """Firing ones first, the most severe of them first."""
    rank = {"critical": 0, "warning": 1}
    alerts = [alert for group in groups for rule in group.rules for alert in rule.alerts]
    alerts.sort(key=lambda a: (a.state != "firing", rank.get(a.labels.get("severity", ""), 2), a.active_at_ns))
    return [_alert_card(alert, now_ns) for alert in alerts]


def _alert_card(alert: AlertView, now_ns: int) -> AlertCard:
    since = formats.duration(max(0, now_ns - (alert.fired_at_ns or alert.active_at_ns)) / NS)
    notes = alert.annotations
    return AlertCard(
        name=alert.name,
        state=alert.state,
        severity=alert.labels.get("severity", ""),
        summary=notes.get("summary", ""),
        detail=notes.get("description", ""),
        since=f"{alert.state} for {since}",
        labels=[(k, v) for k, v in sorted(alert.labels.items()) if k not in ("alertname", "severity")],
        runbook=_web_address(notes.get("runbook_url", "")),
    )


def _web_address(text: str) -> str:
    """Annotations come from rule files: only ordinary links become links."""
    return text if text.startswith(("https://", "http://", "/")) else ""


def rule_chips(groups: Sequence[GroupView]) -> list[RuleChip]:
    """Every alert rule by name, with its state."""
    chips = []
    for group in groups:
        for rule in group.rules:
            if rule.kind != "alerting":
                continue
            states = {alert.state for alert in rule.alerts}
            state = "firing" if "firing" in states else "pending" if "pending" in states else "quiet"
            if rule.health == "err":
                state = "broken"
            chips.append(RuleChip(rule.name, state, rule.error or state))
    return chips
