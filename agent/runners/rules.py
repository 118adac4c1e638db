"""The pulse of the rules: series history in; alerts, series of the rules and deliveries out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import anyio.lowlevel
import msgspec
import structlog

from agent.clock import NS, boot_ns, unix_ns
from agent.core.alerts.alert import Alert, AlertState, Transition
from agent.core.alerts.rulefile import AlertRule, KeptHistory, RuleFileError, RuleGroup, parse_rule_file
from agent.core.alerts.rules import AlertingState, Outcome, RecordingState, RuleState
from agent.core.metrics.series import History

log = structlog.get_logger()

_RULES_FOLDER = Path(__file__).parent.parent / "data" / "alert-rules"
SHIPPED_RULES = tuple(
    _RULES_FOLDER / name for name in ("node.yaml", "engines.yaml", "gpu.yaml", "delivery.yaml", "cost.yaml")
)
PRODUCT = "engineroom"
EVALUATOR = "node"

Deliver = Callable[[Sequence[Alert], int], None]


@dataclass(slots=True)
class RuleStatus:
    """One rule and how its last evaluation went. `samples` is how many series it gave; instants are wall clock."""

    group: str
    file: str
    name: str
    kind: Literal["alerting", "recording"]
    query: str
    health: Literal["unknown", "ok", "err"] = "unknown"
    error: str = ""
    last_at_ms: int | None = None
    duration_seconds: float = 0.0
    samples: int = 0
    evaluations: int = 0
    failures: int = 0


@dataclass(slots=True)
class _Slot:
    """A rule in its place."""

    state: RuleState
    status: RuleStatus
    source: str  # under which its series stand in the history


@dataclass(slots=True)
class _Group:
    rules: RuleGroup
    slots: list[_Slot]
    last_mono_ns: int | None = None


@dataclass(slots=True)
class RuleCounts:
    """Since the start, for the self metrics. `transitions` by reason."""

    evaluations: int = 0
    failures: int = 0
    limited: int = 0
    seconds: float = 0.0
    transitions: dict[str, int] = field(default_factory=dict)


def load_rules(files: Sequence[Path], kept: KeptHistory | None = None) -> tuple[RuleGroup, ...]:
    """The groups of all files; of the shipped files when none is named. Raises `RuleFileError`."""
    groups: list[RuleGroup] = []
    for path in files or SHIPPED_RULES:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RuleFileError(str(path), f"cannot be read: {error}") from None
        groups.extend(parse_rule_file(text, str(path), kept))
    return tuple(groups)


class RuleRunner:
    """Evaluates groups of rules on the history and hands what fires, and what has just resolved, to `deliver`.

    Alerts handed over carry the labels `node`, `product` and `evaluator="node"`; those of `alerts()` are as the rules
    made them. `deliver(alerts, now_ns)` gets the wall clock and must not wait.
    """

    def __init__(
        self, rules: Sequence[RuleGroup], history: History, deliver: Deliver, node: str, hold_scale: float = 1.0
    ) -> None:
        self.counts = RuleCounts()
        self.hold_scale = hold_scale
        self._history = history
        self._deliver = deliver
        self._added = {"evaluator": EVALUATOR, "node": node, "product": PRODUCT}
        self._groups = [self._build(group) for group in rules]

    async def step(self, at_ms: int | None = None) -> None:
        """One turn by the clocks of this machine; for `lifecycle.every`. Lets others run between two rules."""
        for _ in self._turn(unix_ns() // 1_000_000 if at_ms is None else at_ms, boot_ns()):
            await anyio.lowlevel.checkpoint()

    def evaluate(self, at_ms: int, mono_ns: int) -> None:
        """Every group that is due by the boot clock `mono_ns`; queries and payloads are at the wall clock `at_ms`."""
        for _ in self._turn(at_ms, mono_ns):
            pass

    def _turn(self, at_ms: int, mono_ns: int) -> Iterator[None]:
        """The same, rule by rule. What is appended to the history meanwhile is later than `at_ms`, and not seen."""
        groups = self._groups
        for group in groups:
            if not _is_due(group, mono_ns):
                continue
            transitions: list[Transition] = []
            for slot in group.slots:
                transitions += self._evaluate(slot, at_ms, mono_ns)
                yield
                if groups is not self._groups:
                    return  # other rules are in force now
            self._hand_over(group, transitions, at_ms)

    def replace(self, rules: Sequence[RuleGroup], at_ms: int, mono_ns: int) -> None:
        """A new configuration: a rule of the same group, name and labels keeps its alerts.

        Alerts that fire by a rule that is gone are resolved and handed over once more.
        """
        before = {_identity(g.rules, s): s for g in self._groups for s in g.slots}
        due = {(g.rules.file, g.rules.name): g for g in self._groups}
        self._groups = [self._build(group) for group in rules]
        ended: list[Transition] = []
        for group in self._groups:
            if (known := due.get((group.rules.file, group.rules.name))) is not None:
                group.last_mono_ns = known.last_mono_ns
            for slot in group.slots:
                earlier = before.pop(_identity(group.rules, slot), None)
                if earlier is None:
                    continue
                slot.source = earlier.source
                if isinstance(slot.state, AlertingState) and isinstance(earlier.state, AlertingState):
                    ended += slot.state.adopt(earlier.state, mono_ns)
        for slot in before.values():
            self._history.mark_stale(slot.source, at_ms)
            if isinstance(slot.state, AlertingState):
                ended += slot.state.close(at_ms * 1_000_000)
        self._note(ended)
        self._deliver([self._sent(_ended(t, at_ms)) for t in ended], at_ms * 1_000_000)

    def alerts(self) -> list[Alert]:
        """Every alert in every state, in the order of the rules."""
        return [
            a for g in self._groups for s in g.slots if isinstance(s.state, AlertingState) for a in s.state.alerts()
        ]

    def statuses(self) -> list[RuleStatus]:
        """Every rule, in order."""
        return [slot.status for group in self._groups for slot in group.slots]

    def groups(self) -> list[tuple[RuleGroup, list[tuple[RuleStatus, list[Alert]]]]]:
        """Groups with their rules and alerts, as the rules page of Prometheus' API shows them."""
        return [(g.rules, [(s.status, _alerts_of(s.state)) for s in g.slots]) for g in self._groups]

    def _build(self, group: RuleGroup) -> _Group:
        slots = []
        for index, rule in enumerate(group.rules):
            alerting = isinstance(rule, AlertRule)
            state: RuleState = (
                AlertingState(rule, group.name, group.limit, self.hold_scale)
                if isinstance(rule, AlertRule)
                else RecordingState(rule, group.limit)
            )
            status = RuleStatus(group.name, group.file, rule.name, "alerting" if alerting else "recording", rule.query)
            labels = ",".join(f"{n}={v if isinstance(v, str) else v.source}" for n, v in rule.labels)
            slots.append(_Slot(state, status, f"rule {group.file} {group.name} {index} {rule.name} {labels}"))
        return _Group(group, slots)

    def _evaluate(self, slot: _Slot, at_ms: int, mono_ns: int) -> tuple[Transition, ...]:
        began = boot_ns()
        outcome: Outcome = slot.state.evaluate(self._history, at_ms, mono_ns)
        failed = bool(outcome.error)
        if not failed or outcome.samples or outcome.transitions:
            # Also when empty: series that were there last time and are gone now have ended.
            self._history.append(slot.source, at_ms, outcome.samples)
        seconds = (boot_ns() - began) / NS
        status = slot.status
        if outcome.error != status.error:
            write = log.warning if failed else log.info
            write(
                "rule_failing" if failed else "rule_recovered",
                rule=status.name,
                group=status.group,
                reason=outcome.error,
            )
        status.health, status.error = ("err" if failed else "ok"), outcome.error
        status.last_at_ms, status.duration_seconds = at_ms, seconds
        status.evaluations += 1
        self.counts.evaluations += 1
        self.counts.seconds += seconds
        self.counts.limited += outcome.limited
        if failed:
            status.failures += 1
            self.counts.failures += 1
        else:
            status.samples = len(outcome.samples)
        return outcome.transitions

    def _hand_over(self, group: _Group, transitions: Sequence[Transition], at_ms: int) -> None:
        self._note(transitions)
        ended = [_ended(t, at_ms) for t in transitions if t.before is AlertState.FIRING]
        firing = [a for slot in group.slots for a in _alerts_of(slot.state) if a.state is AlertState.FIRING]
        if ended or firing:
            self._deliver([self._sent(alert) for alert in (*ended, *firing)], at_ms * 1_000_000)

    def _note(self, transitions: Sequence[Transition]) -> None:
        for moved in transitions:
            counts = self.counts.transitions
            counts[moved.reason.value] = counts.get(moved.reason.value, 0) + 1
            if AlertState.FIRING in (moved.before, moved.after):
                log.info(
                    "alert_changed",
                    alert=moved.alert.rule,
                    state=moved.after.value if moved.after else "inactive",
                    reason=moved.reason.value,
                    labels=dict(moved.alert.labels),
                    value=moved.alert.value,
                )

    def _sent(self, alert: Alert) -> Alert:
        """The alert as others see it; a label of the rule wins over ours, as with Prometheus' external labels."""
        labels = self._added | dict(alert.labels) | {"evaluator": EVALUATOR}
        return msgspec.structs.replace(alert, labels=tuple(sorted(labels.items())))


def _is_due(group: _Group, mono_ns: int) -> bool:
    """A group's own `interval`, met by the nearest turn: turns that come a little early still count."""
    if group.rules.interval_ms is not None and group.last_mono_ns is not None:
        interval_ns = group.rules.interval_ms * 1_000_000
        if mono_ns - group.last_mono_ns < interval_ns - interval_ns // 20:
            return False
    group.last_mono_ns = mono_ns
    return True


def _ended(moved: Transition, at_ms: int) -> Alert:
    """What to tell those who know the alert as firing: it is over (also when it only went back to pending)."""
    if moved.alert.state is AlertState.RESOLVED:
        return moved.alert
    return msgspec.structs.replace(moved.alert, state=AlertState.RESOLVED, resolved_at_ns=at_ms * 1_000_000)


def _alerts_of(state: RuleState) -> list[Alert]:
    return list(state.alerts()) if isinstance(state, AlertingState) else []


def _identity(group: RuleGroup, slot: _Slot) -> tuple[str, str, str, str, tuple[tuple[str, str], ...]]:
    rule = slot.state.rule
    labels = tuple(sorted((n, v if isinstance(v, str) else v.source) for n, v in rule.labels))
    return (group.file, group.name, slot.status.kind, rule.name, labels)
