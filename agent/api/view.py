"""Services → what the page shows: alerts and engines. Plain values, already in words; the templates only lay out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from agent.api import formats
from agent.api.charts import Frame, Trace, described, meter, plot, top_of
from agent.api.history_view import Series, latest
from agent.api.services import AlertView, GroupView
from agent.core.readings import EngineSnapshot

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
class EngineCard:
    """One engine with its charts."""

    name: str
    kind: str
    models: str
    state: str
    reason: str
    facts: list[Cell]
    charts: list[Cell] = field(default_factory=list)


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


def engine_cards(engines: dict[str, EngineSnapshot], charts: Charts, frame: Frame) -> list[EngineCard]:
    """A card per engine that is watched or that a sidecar has seen."""
    names = set(engines) | {key[0] for kind in ("requests", "tokens") for key in charts[kind]}
    return [_engine_card(name, engines.get(name), charts, frame) for name in sorted(names)]


def _engine_card(name: str, snapshot: EngineSnapshot | None, charts: Charts, frame: Frame) -> EngineCard:
    card = EngineCard(name, "", "", "seen by the sidecar", "", [])
    if snapshot is not None:
        status = snapshot.status
        card.kind = " ".join(part for part in (status.kind, status.version) if part)
        card.models = ", ".join(dict.fromkeys(reading.model for reading in snapshot.readings if reading.model))
        card.state, card.reason = status.state, status.reason
    readings = snapshot.readings if snapshot else ()
    kv = [r.kv_cache_usage_ratio for r in readings if r.kv_cache_usage_ratio is not None]
    card.facts = [
        Cell("Running", formats.figure(_sum(r.requests_running for r in readings))),
        Cell("Waiting", formats.figure(_sum(r.requests_waiting for r in readings))),
        Cell(
            "KV cache",
            formats.percent(max(kv, default=None)),
            chart=meter(max(kv), "b", f"KV cache {formats.percent(max(kv))} full") if kv else Markup(),
        ),
    ]
    card.charts = _engine_charts(name, charts, frame)
    return card


def _engine_charts(name: str, charts: Charts, frame: Frame) -> list[Cell]:
    def points(kind: str, *key: str) -> list[tuple[int, float]]:
        return charts[kind].get((name, *key), [])

    requests = [Trace("all", "a", points("requests"))]
    failed = points("failures")
    if any(value > 0 for _, value in failed):
        requests.append(Trace("failed", "bad", failed))
    tokens = [Trace("out", "a", points("tokens", "output")), Trace("in", "b", points("tokens", "input"))]
    cached = points("tokens", "input_cached")
    if cached:
        tokens.append(Trace("cached", "c", cached))
    duration = [Trace("p99", "d", points("duration_p99")), Trace("p50", "a", points("duration_p50"))]
    first = [Trace("p99", "d", points("first_token_p99")), Trace("p50", "a", points("first_token_p50"))]
    return [
        _chart("Requests", requests, frame, lambda v: formats.figure(v, "/s")),
        _chart("Latency", duration, frame, formats.seconds, SLOW_SECONDS),
        _chart("Time to first token", first, frame, formats.seconds),
        _chart("Tokens", tokens, frame, lambda v: formats.figure(v, "/s")),
    ]


@dataclass(slots=True)
class ChartCell(Cell):
    """A larger chart: its legend has the newest value of every line; `top` labels the y axis."""

    top: str = ""
    legend: list[tuple[str, str, str]] = field(default_factory=list)


def _chart(
    title: str, traces: Sequence[Trace], frame: Frame, show: Callable[[float | None], str], mark: float | None = None
) -> ChartCell:
    empty = not any(trace.points for trace in traces)
    top = top_of(traces)
    label = "; ".join(described(f"{title}, {trace.name}", trace.points, show) for trace in traces)
    legend = [(trace.name, trace.tone, show(latest(list(trace.points), frame))) for trace in traces]
    graphic = Markup() if empty else plot(frame, traces, top, label, mark)
    return ChartCell(title, "", "no data yet" if empty else "", "", graphic, "" if empty else show(top), legend)


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


def _sum(values: Iterable[float | None]) -> float | None:
    reported = [value for value in values if value is not None]
    return sum(reported) if reported else None
