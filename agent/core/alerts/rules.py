"""The life of alerts: one rule and the series history in; new states, transitions and series of its own out.

The behaviour is Prometheus' (`rules/alerting.go`), with three differences, all on purpose: timers run on the boot-time
clock, so a step of the wall clock fires nothing; a rule over its limit keeps its oldest alerts instead of losing all;
an error keeps the last state and says so.
"""

from dataclasses import dataclass, field

import msgspec

from agent.core.alerts.alert import Alert, AlertState, Reason, Transition
from agent.core.alerts.rulefile import AlertRule, RecordingRule
from agent.core.metrics.promql import QueryError, Scalar, Vector, evaluate
from agent.core.metrics.samples import Labels, Sample, SeriesKey
from agent.core.metrics.series import History

NS_PER_MS = 1_000_000
RESOLVED_KEPT_NS = 15 * 60 * 1_000_000_000  # Prometheus' resolvedRetention


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one evaluation of one rule gave. `limited` counts results over the limit.

    With an `error` and no samples nothing changed.
    """

    samples: tuple[Sample, ...] = ()
    transitions: tuple[Transition, ...] = ()
    error: str = ""
    limited: int = 0


@dataclass(slots=True)
class _Timed:
    """An alert and its timers, on the boot-time clock."""

    alert: Alert
    active_mono_ns: int
    false_since_mono_ns: int | None = None
    resolved_mono_ns: int | None = None


@dataclass(slots=True)
class RecordingState:
    """A recording rule. It has no memory; the class is there so that both kinds are evaluated alike."""

    rule: RecordingRule
    limit: int = 0

    def evaluate(self, history: History, at_ms: int, mono_ns: int) -> Outcome:
        """The result under the rule's name and labels, ready for the history."""
        del mono_ns
        try:
            results = _query(self.rule, history, at_ms)
        except QueryError as error:
            return Outcome(error=str(error))
        samples: dict[SeriesKey, Sample] = {}
        for labels, value in results:
            merged = labels | dict(self.rule.labels)
            merged.pop("__name__", None)
            key = SeriesKey(self.rule.record, merged.items())
            if key in samples:
                return Outcome(
                    error=f"more than one result with the labels {key!r}; keep a label that tells them apart"
                )
            samples[key] = Sample(key, value)
        if self.limit and len(samples) > self.limit:
            return Outcome(
                error=f"{len(samples)} results, the limit of the group is {self.limit}", limited=len(samples)
            )
        return Outcome(tuple(samples.values()))


@dataclass(slots=True)
class AlertingState:
    """An alerting rule and the alerts it has made. `hold_scale` multiplies `for` and `keep_firing_for` (demo)."""

    rule: AlertRule
    group: str
    limit: int = 0
    hold_scale: float = 1.0
    _timed: dict[Labels, _Timed] = field(default_factory=dict)

    def alerts(self) -> tuple[Alert, ...]:
        """Every alert: pending, firing, and those resolved within the last 15 minutes."""
        return tuple(timed.alert for timed in self._timed.values())

    @property
    def hold_ns(self) -> int:
        return int(self.rule.for_ms * NS_PER_MS * self.hold_scale)

    @property
    def keep_ns(self) -> int:
        return int(self.rule.keep_firing_for_ms * NS_PER_MS * self.hold_scale)

    def evaluate(self, history: History, at_ms: int, mono_ns: int) -> Outcome:
        """One turn. `at_ms` is the wall clock of query and payload, `mono_ns` the boot-time clock of all timers."""
        try:
            results = _query(self.rule, history, at_ms)
        except QueryError as error:
            return Outcome(error=str(error))
        current: dict[Labels, tuple[Labels, float]] = {}
        for series, value in results:
            labels = self._labels(series, value)
            if labels in current:
                return Outcome(
                    error=f"more than one result with the labels {dict(labels)}; keep a label apart from the rule's"
                )
            current[labels] = (_rendered(self.rule, series, value), value)
        transitions: list[Transition] = []
        limited = self._see(current, at_ms * NS_PER_MS, mono_ns, transitions)
        for labels in list(self._timed):
            self._advance(labels, labels in current, at_ms * NS_PER_MS, mono_ns, transitions)
        problem = f"{limited} alerts over the limit of {self.limit}; the oldest are kept" if limited else ""
        return Outcome(self._series(), tuple(transitions), problem, limited)

    def adopt(self, earlier: "AlertingState", mono_ns: int) -> tuple[Transition, ...]:
        """Take over the alerts of the same rule from before a change of configuration.

        An alert that fires goes back to pending only if it has been true for less than the new `for` (Prometheus 3.11).
        """
        self._timed = earlier._timed
        transitions = []
        for timed in self._timed.values():
            alert = timed.alert
            if alert.state is AlertState.FIRING and mono_ns - timed.active_mono_ns < self.hold_ns > earlier.hold_ns:
                timed.alert = msgspec.structs.replace(alert, state=AlertState.PENDING, fired_at_ns=None)
                timed.false_since_mono_ns = None
                transitions.append(_moved(alert, timed.alert, Reason.HOLD_RAISED))
        return tuple(transitions)

    def close(self, at_ns: int) -> tuple[Transition, ...]:
        """Resolve whatever fires because the rule is gone. `at_ns` is wall clock."""
        transitions = []
        for timed in self._timed.values():
            if timed.alert.state is AlertState.FIRING:
                after = msgspec.structs.replace(timed.alert, state=AlertState.RESOLVED, resolved_at_ns=at_ns)
                transitions.append(_moved(timed.alert, after, Reason.RULE_REMOVED))
        self._timed = {}
        return tuple(transitions)

    def _labels(self, series: dict[str, str], value: float) -> Labels:
        merged = {name: text for name, text in series.items() if name != "__name__"}
        for name, template in self.rule.labels:
            merged[name] = template.render(series, value)
        merged["alertname"] = self.rule.alert
        return tuple(sorted((name, text) for name, text in merged.items() if text))

    def _see(self, current: dict[Labels, tuple[Labels, float]], at_ns: int, mono_ns: int, out: list[Transition]) -> int:
        """Begin what is new, refresh what is known. Returns how many there was no room for."""
        open_count = sum(t.alert.state is not AlertState.RESOLVED for t in self._timed.values())
        limited = 0
        for labels, (annotations, value) in current.items():
            known = self._timed.get(labels)
            if known is not None and known.alert.state is not AlertState.RESOLVED:
                known.alert = msgspec.structs.replace(known.alert, annotations=annotations, value=value)
                continue
            if self.limit and open_count >= self.limit:
                limited += 1
                continue
            open_count += 1
            alert = Alert(
                rule=self.rule.alert,
                group=self.group,
                labels=labels,
                annotations=annotations,
                state=AlertState.PENDING,
                value=value,
                active_at_ns=at_ns,
            )
            self._timed[labels] = _Timed(alert, mono_ns)
            before = AlertState.RESOLVED if known is not None else None
            out.append(Transition(before=before, after=AlertState.PENDING, reason=Reason.BECAME_TRUE, alert=alert))
        return limited

    def _advance(self, labels: Labels, true: bool, at_ns: int, mono_ns: int, out: list[Transition]) -> None:
        timed = self._timed[labels]
        alert = timed.alert
        if alert.state is AlertState.RESOLVED:
            if timed.resolved_mono_ns is not None and mono_ns - timed.resolved_mono_ns > RESOLVED_KEPT_NS:
                del self._timed[labels]
        elif true:
            if timed.false_since_mono_ns is not None:
                timed.false_since_mono_ns = None
                timed.alert = alert = msgspec.structs.replace(alert, keep_firing_since_ns=None)
            if alert.state is AlertState.PENDING and mono_ns - timed.active_mono_ns >= self.hold_ns:
                timed.alert = msgspec.structs.replace(alert, state=AlertState.FIRING, fired_at_ns=at_ns)
                out.append(_moved(alert, timed.alert, Reason.HELD))
        elif alert.state is AlertState.PENDING:
            del self._timed[labels]
            out.append(Transition(before=AlertState.PENDING, after=None, reason=Reason.BECAME_FALSE, alert=alert))
        else:
            self._cool_down(timed, at_ns, mono_ns, out)

    def _cool_down(self, timed: _Timed, at_ns: int, mono_ns: int, out: list[Transition]) -> None:
        """A firing alert that is no longer true: wait for `keep_firing_for`, then resolve."""
        if timed.false_since_mono_ns is None:
            timed.false_since_mono_ns = mono_ns
            if self.keep_ns:
                timed.alert = msgspec.structs.replace(timed.alert, keep_firing_since_ns=at_ns)
        if mono_ns - timed.false_since_mono_ns < self.keep_ns:
            return
        before = timed.alert
        timed.alert = msgspec.structs.replace(before, state=AlertState.RESOLVED, resolved_at_ns=at_ns)
        timed.resolved_mono_ns = mono_ns
        out.append(_moved(before, timed.alert, Reason.KEPT_LONG_ENOUGH if self.keep_ns else Reason.BECAME_FALSE))

    def _series(self) -> tuple[Sample, ...]:
        """`ALERTS` and `ALERTS_FOR_STATE` of this turn, so that rules can ask about alerts (hysteresis)."""
        samples = []
        for timed in self._timed.values():
            alert = timed.alert
            if alert.state is AlertState.RESOLVED:
                continue
            state = ("alertstate", alert.state.value)
            samples.append(Sample(SeriesKey("ALERTS", (*alert.labels, state)), 1.0))
            since = float(alert.active_at_ns // 1_000_000_000)
            samples.append(Sample(SeriesKey("ALERTS_FOR_STATE", alert.labels), since))
        return tuple(samples)


RuleState = RecordingState | AlertingState


def _query(rule: RecordingRule | AlertRule, history: History, at_ms: int) -> list[tuple[dict[str, str], float]]:
    result = evaluate(rule.expr, history, at_ms)
    if isinstance(result, Vector):
        return [(dict(sample.labels), sample.value) for sample in result.samples]
    if isinstance(result, Scalar):
        return [({}, result.value)]
    raise QueryError("a rule needs a number or an instant vector; this gives a text or a range of values")


def _rendered(rule: AlertRule, series: dict[str, str], value: float) -> Labels:
    return tuple((name, template.render(series, value)) for name, template in rule.annotations)


def _moved(before: Alert, after: Alert, reason: Reason) -> Transition:
    return Transition(before=before.state, after=after.state, reason=reason, alert=after)
