"""One alert as a value: who it is about, what state it is in, and since when."""

from enum import StrEnum

from msgspec import Struct

from agent.core.metrics.samples import Labels

_FNV_OFFSET = 0xCBF29CE484222325
_FNV_PRIME = 0x100000001B3


class AlertState(StrEnum):
    """Where an alert is in its life. An alert that was never true has no value at all."""

    PENDING = "pending"  # true, but not for long enough
    FIRING = "firing"
    RESOLVED = "resolved"


class Reason(StrEnum):
    """Why an alert changed its state."""

    BECAME_TRUE = "became_true"  # the expression returned this label set for the first time
    HELD = "held"  # true for the whole `for`
    BECAME_FALSE = "became_false"  # no longer returned by the expression
    KEPT_LONG_ENOUGH = "kept_long_enough"  # false for the whole `keep_firing_for`
    HOLD_RAISED = "hold_raised"  # `for` was made longer than the alert has been true
    RULE_REMOVED = "rule_removed"  # the rule left the configuration while the alert was firing


class Alert(Struct, frozen=True, kw_only=True):
    """An alert at the instant of an evaluation.

    `labels` are sorted, include `alertname`, and are the identity; values belong into `annotations`. Instants are wall
    clock, Unix nanoseconds, as they were when it happened; `value` is what the expression last returned.
    """

    rule: str
    group: str
    labels: Labels
    annotations: Labels
    state: AlertState
    value: float
    active_at_ns: int
    fired_at_ns: int | None = None
    keep_firing_since_ns: int | None = None
    resolved_at_ns: int | None = None

    @property
    def fingerprint(self) -> str:
        """Identity as Alertmanager writes it: 16 hex digits over the labels."""
        return fingerprint(self.labels)

    @property
    def closed(self) -> bool:
        """Nothing more will happen to this alert."""
        return self.state is AlertState.RESOLVED


class Transition(Struct, frozen=True, kw_only=True):
    """A change of state. `before` and `after` are None where the alert did not exist or is forgotten at once."""

    before: AlertState | None
    after: AlertState | None
    reason: Reason
    alert: Alert


def fingerprint(labels: Labels) -> str:
    """FNV-1a (64 bit) over the sorted labels, each `name 0xFF value 0xFF` in UTF-8: equal to Alertmanager's."""
    value = _FNV_OFFSET
    for name, text in sorted(labels):
        for byte in name.encode() + b"\xff" + text.encode() + b"\xff":
            value = ((value ^ byte) * _FNV_PRIME) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"
