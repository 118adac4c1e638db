"""The node's history and rule runner → the shapes that the API and the page ask for (`agent.api.services`)."""

from collections.abc import Callable, Sequence
from functools import lru_cache

from agent.api.services import AlertView, Answer, GroupView, Line, QueryRefused, RuleView
from agent.core.alerts.alert import Alert, AlertState
from agent.core.alerts.rulefile import AlertRule, Rule, RuleGroup
from agent.core.metrics.promql import Expr, Matrix, QueryError, Scalar, Text, Vector, evaluate, evaluate_range, parse
from agent.core.metrics.promql.tree import VectorSelector
from agent.core.metrics.series import History
from agent.runners.rules import RuleRunner, RuleStatus

_KEPT_QUERIES = 256


class HistoryQueries:
    """PromQL over a `History`; every refusal becomes `QueryRefused`."""

    def __init__(self, history: History) -> None:
        self._history = history
        # A dashboard and the page ask the same texts again and again.
        self._parse: Callable[[str], Expr] = lru_cache(maxsize=_KEPT_QUERIES)(parse)

    def instant(self, query: str, at_ms: int) -> Answer:
        """The value of a query at one instant."""
        expr = self._parsed(query)
        try:
            value = evaluate(expr, self._history, at_ms)
        except QueryError as error:
            raise QueryRefused(str(error), "execution") from error
        match value:
            case Text():
                return Answer("string", [], value.value)
            case Scalar():
                return Answer("scalar", [Line({}, [(at_ms, value.value)])])
            case Vector():
                return Answer("vector", [Line(dict(s.labels), [(at_ms, s.value)]) for s in value.samples])
            case Matrix():
                return Answer("matrix", [Line(dict(series.labels), series.points) for series in value.series])

    def range(self, query: str, start_ms: int, end_ms: int, step_ms: int) -> list[Line]:
        """The values of a query at `start_ms`, `start_ms + step_ms`, ... up to `end_ms`."""
        expr = self._parsed(query)
        try:
            found = evaluate_range(expr, self._history, start_ms, end_ms, step_ms)
        except QueryError as error:
            raise QueryRefused(str(error), "execution") from error
        return [Line(dict(series.labels), series.points) for series in found]

    def series(self, selector: str | None, start_ms: int, end_ms: int) -> list[dict[str, str]]:
        """Label sets with a sample in the window; all of them without a selector."""
        if selector is None:
            return self._series((), start_ms, end_ms)
        expr = self._parsed(selector)
        if not isinstance(expr, VectorSelector):
            raise QueryRefused(f'match[]: {selector!r} is not a series selector; write a name or {{label="value"}}')
        return self._series(expr.matchers, start_ms, end_ms)

    def _series(self, matchers: Sequence[object], start_ms: int, end_ms: int) -> list[dict[str, str]]:
        windows = self._history.select(matchers, start_ms - 1, end_ms)  # type: ignore[arg-type]
        return [dict(window.labels) for window in windows]

    def _parsed(self, query: str) -> Expr:
        try:
            return self._parse(query)
        except QueryError as error:
            raise QueryRefused(str(error)) from error


def runner_groups(runner: RuleRunner, default_interval_seconds: float) -> Callable[[], list[GroupView]]:
    """The rule runner's groups as the API shows them; for `NodeServices.rule_groups`."""
    return lambda: [_group(rules, members, default_interval_seconds) for rules, members in runner.groups()]


def _group(
    group: RuleGroup, members: Sequence[tuple[RuleStatus, Sequence[Alert]]], default_interval_seconds: float
) -> GroupView:
    last = [status.last_at_ms for status, _ in members if status.last_at_ms is not None]
    return GroupView(
        name=group.name,
        file=group.file,
        interval_seconds=default_interval_seconds if group.interval_ms is None else group.interval_ms / 1000,
        limit=group.limit,
        rules=tuple(_rule(rule, *member) for rule, member in zip(group.rules, members, strict=True)),
        evaluation_seconds=sum(status.duration_seconds for status, _ in members),
        evaluated_at_ns=max(last) * 1_000_000 if last else None,
    )


def _rule(rule: Rule, status: RuleStatus, alerts: Sequence[Alert]) -> RuleView:
    return RuleView(
        kind=status.kind,
        name=status.name,
        query=status.query,
        labels={name: value if isinstance(value, str) else value.source for name, value in rule.labels},
        annotations={name: t.source for name, t in rule.annotations} if isinstance(rule, AlertRule) else {},
        for_seconds=rule.for_ms / 1000 if isinstance(rule, AlertRule) else 0.0,
        keep_firing_for_seconds=rule.keep_firing_for_ms / 1000 if isinstance(rule, AlertRule) else 0.0,
        health=status.health,
        error=status.error,
        evaluation_seconds=status.duration_seconds,
        evaluated_at_ns=None if status.last_at_ms is None else status.last_at_ms * 1_000_000,
        alerts=tuple(_alert(alert) for alert in alerts if alert.state is not AlertState.RESOLVED),
    )


def _alert(alert: Alert) -> AlertView:
    return AlertView(
        name=alert.rule,
        state="firing" if alert.state is AlertState.FIRING else "pending",
        labels=dict(alert.labels),
        annotations=dict(alert.annotations),
        active_at_ns=alert.active_at_ns,
        value=alert.value,
        fired_at_ns=alert.fired_at_ns,
    )
