"""The life of an alert by tables of instants; what Prometheus' own tests say is in tests/alert_rules."""

from collections.abc import Mapping

import pytest

from agent.core.alerts.alert import AlertState, Reason
from agent.core.alerts.rulefile import AlertRule, RecordingRule, parse_rule_file
from agent.core.alerts.rules import RESOLVED_KEPT_NS, AlertingState, Outcome, RecordingState
from agent.core.metrics.promql import evaluate, parse
from agent.core.metrics.samples import Sample, SeriesKey
from agent.core.metrics.series import History

START_MS = 1_795_424_121_000
S = 1_000_000_000
PENDING, FIRING, RESOLVED = AlertState.PENDING, AlertState.FIRING, AlertState.RESOLVED


def alert_rule(extra: str = "", expr: str = "t > 85") -> AlertRule:
    text = f"groups: [{{name: g, rules: [{{alert: Hot, expr: '{expr}', {extra}}}]}}]"
    rule = parse_rule_file(text, "f.yaml")[0].rules[0]
    assert isinstance(rule, AlertRule)
    return rule


class Node:
    """A history and one rule; time passes by `turn`."""

    def __init__(self, rule: AlertRule, limit: int = 0, hold_scale: float = 1.0) -> None:
        self.history = History()
        self.state = AlertingState(rule, "g", limit, hold_scale)
        self.seconds = 0

    @property
    def at_ms(self) -> int:
        return START_MS + self.seconds * 1000

    def turn(self, values: Mapping[str, float], after: int = 10, wall_step_ms: int = 0) -> Outcome:
        """`after` seconds later: `t` of each `gpu` has these values, and the rule is evaluated."""
        self.seconds += after
        samples = [Sample(SeriesKey("t", [("gpu", gpu)]), value) for gpu, value in values.items()]
        self.history.append("gpus", self.at_ms + wall_step_ms, samples)
        outcome = self.state.evaluate(self.history, self.at_ms + wall_step_ms, self.seconds * S)
        if not outcome.error:
            self.history.append("rule", self.at_ms + wall_step_ms, outcome.samples)
        return outcome

    def states(self) -> dict[str, AlertState]:
        return {dict(a.labels)["gpu"]: a.state for a in self.state.alerts()}


def reasons(outcome: Outcome) -> list[tuple[AlertState | None, AlertState | None, Reason]]:
    return [(t.before, t.after, t.reason) for t in outcome.transitions]


def test_the_whole_life():
    node = Node(alert_rule("for: 20s, annotations: {s: '{{ $value }} on {{ $labels.gpu }}'}"))
    assert reasons(node.turn({"0": 84})) == []
    assert reasons(node.turn({"0": 86})) == [(None, PENDING, Reason.BECAME_TRUE)]
    assert reasons(node.turn({"0": 87})) == []
    assert reasons(node.turn({"0": 88})) == [(PENDING, FIRING, Reason.HELD)]
    (alert,) = node.state.alerts()
    assert alert.labels == (("alertname", "Hot"), ("gpu", "0"))
    assert alert.annotations == (("s", "88 on 0"),)
    assert (alert.value, alert.group, alert.rule) == (88.0, "g", "Hot")
    assert alert.active_at_ns == (START_MS + 20_000) * 1_000_000
    assert alert.fired_at_ns == (START_MS + 40_000) * 1_000_000
    assert reasons(node.turn({"0": 85})) == [(FIRING, RESOLVED, Reason.BECAME_FALSE)]
    assert node.state.alerts()[0].resolved_at_ns == (START_MS + 50_000) * 1_000_000
    # True again: from the beginning, with a new start.
    assert reasons(node.turn({"0": 90})) == [(RESOLVED, PENDING, Reason.BECAME_TRUE)]
    assert node.state.alerts()[0].fired_at_ns is None


def test_without_for_it_fires_at_once():
    node = Node(alert_rule())
    assert reasons(node.turn({"0": 86})) == [(None, PENDING, Reason.BECAME_TRUE), (PENDING, FIRING, Reason.HELD)]


def test_one_false_turn_while_pending_starts_over():
    node = Node(alert_rule("for: 20s"))
    node.turn({"0": 86})
    assert reasons(node.turn({"0": 84})) == [(PENDING, None, Reason.BECAME_FALSE)]
    assert node.states() == {}
    node.turn({"0": 86})
    assert node.states() == {"0": PENDING}


def test_keep_firing_for():
    node = Node(alert_rule("keep_firing_for: 20s"))
    node.turn({"0": 86})
    began = node.state.alerts()[0].fired_at_ns
    assert reasons(node.turn({"0": 80})) == []
    assert node.state.alerts()[0].keep_firing_since_ns == (START_MS + 20_000) * 1_000_000
    node.turn({"0": 86})  # true again: the count starts over
    assert node.state.alerts()[0].keep_firing_since_ns is None
    node.turn({"0": 80})
    node.turn({"0": 80})
    assert node.states() == {"0": FIRING}
    assert node.state.alerts()[0].fired_at_ns == began
    assert reasons(node.turn({"0": 80})) == [(FIRING, RESOLVED, Reason.KEPT_LONG_ENOUGH)]


def test_a_resolved_alert_is_remembered_for_a_quarter_of_an_hour():
    node = Node(alert_rule())
    node.turn({"0": 86})
    node.turn({"0": 80})
    node.turn({"0": 80}, after=RESOLVED_KEPT_NS // S)
    assert node.states() == {"0": RESOLVED}
    node.turn({"0": 80})
    assert node.states() == {}


def test_a_series_that_ends_resolves_its_alert_only():
    node = Node(alert_rule())
    node.turn({"0": 86, "1": 90})
    node.turn({"1": 90})
    assert node.states() == {"0": RESOLVED, "1": FIRING}


def test_nan_is_no_alert_and_infinity_is_one():
    node = Node(alert_rule())
    node.turn({"0": float("nan"), "1": float("inf")})
    assert node.states() == {"1": FIRING}


def test_a_step_of_the_wall_clock_fires_nothing():
    node = Node(alert_rule("for: 5m"))
    node.turn({"0": 86})
    node.turn({"0": 86}, wall_step_ms=3_600_000)
    assert node.states() == {"0": PENDING}


@pytest.mark.parametrize(("scale", "turns"), [(1.0, 12), (0.25, 3), (2.0, 24)])
def test_holds_are_scaled(scale, turns):
    node = Node(alert_rule("for: 2m"), hold_scale=scale)
    for _ in range(turns):
        node.turn({"0": 86})
        assert node.states() == {"0": PENDING}
    node.turn({"0": 86})
    assert node.states() == {"0": FIRING}


def test_duplicate_label_sets_are_an_error_and_freeze_the_state():
    node = Node(alert_rule("labels: {gpu: all}"))
    node.turn({"0": 86})
    before = node.state.alerts()
    outcome = node.turn({"0": 86, "1": 86})
    assert "more than one result with the labels" in outcome.error
    assert node.state.alerts() == before


def test_a_query_error_freezes_the_state_and_is_shown():
    node = Node(alert_rule(expr="t * on () group_left () u > 85"))
    node.history.append("u", START_MS, [Sample(SeriesKey("u"), 1.0)])
    node.turn({"0": 86})
    assert node.states() == {"0": FIRING}
    node.history.append("u", START_MS + 11_000, [Sample(SeriesKey("u", [("x", x)]), 1.0) for x in "ab"])
    outcome = node.turn({"0": 80})
    assert outcome.error
    assert (outcome.samples, outcome.transitions) == ((), ())
    assert node.states() == {"0": FIRING}


def test_the_limit_keeps_the_oldest():
    node = Node(alert_rule(), limit=2)
    node.turn({"5": 86, "6": 86})
    outcome = node.turn({"1": 86, "5": 86, "6": 86})
    assert (outcome.limited, node.states()) == (1, {"5": FIRING, "6": FIRING})
    assert "over the limit of 2" in outcome.error
    node.turn({"1": 86, "6": 86})
    outcome = node.turn({"1": 86, "6": 86})
    assert node.states() == {"5": RESOLVED, "6": FIRING, "1": FIRING}
    assert outcome.error == ""


def test_series_about_alerts():
    node = Node(alert_rule("for: 20s"))
    samples = node.turn({"0": 86}).samples
    labels = [("alertname", "Hot"), ("gpu", "0")]
    assert samples == (
        Sample(SeriesKey("ALERTS", [*labels, ("alertstate", "pending")]), 1.0),
        Sample(SeriesKey("ALERTS_FOR_STATE", labels), float(START_MS // 1000 + 10)),
    )
    node.turn({"0": 86})
    samples = node.turn({"0": 86}).samples
    assert samples[0].key == SeriesKey("ALERTS", [*labels, ("alertstate", "firing")])
    assert samples[1].value == START_MS // 1000 + 10
    # The pending one has ended in the history: only one state at a time.
    found = evaluate(parse("ALERTS"), node.history, node.at_ms)
    assert [dict(s.labels)["alertstate"] for s in found.samples] == ["firing"]
    assert node.turn({"0": 80}).samples == ()
    assert evaluate(parse("ALERTS"), node.history, node.at_ms).samples == []


def test_hysteresis_by_asking_about_itself():
    node = Node(alert_rule(expr='t > 85 or (t > 80 and on (gpu) ALERTS{alertname="Hot", alertstate="firing"})'))
    seen = []
    for value in (82, 86, 82, 84, 81, 80, 82, 86):
        node.turn({"0": value})
        seen.append(node.states().get("0") is FIRING)
    assert seen == [False, True, True, True, True, False, False, True]


def test_a_scalar_is_one_alert_without_labels():
    node = Node(alert_rule(expr="scalar(t) > bool 85"))
    node.turn({"0": 86})
    (alert,) = node.state.alerts()
    assert (alert.labels, alert.value) == ((("alertname", "Hot"),), 1.0)


def test_a_longer_for_takes_back_only_what_is_too_young():
    """Prometheus since 3.11; a `for` made shorter or left alone changes nothing."""
    node = Node(alert_rule("for: 10s"))
    node.turn({"0": 86})
    node.turn({"0": 86, "1": 86}, after=60)
    node.turn({"0": 86, "1": 86})
    assert node.states() == {"0": FIRING, "1": FIRING}
    longer = AlertingState(alert_rule("for: 60s"), "g")
    moved = longer.adopt(node.state, node.seconds * S)
    assert [(dict(t.alert.labels)["gpu"], t.before, t.after, t.reason) for t in moved] == [
        ("1", FIRING, PENDING, Reason.HOLD_RAISED)
    ]
    assert AlertingState(alert_rule("for: 5s"), "g").adopt(longer, node.seconds * S) == ()


def test_a_removed_rule_resolves_what_fires():
    node = Node(alert_rule("for: 10s"))
    node.turn({"0": 86})
    node.turn({"0": 86, "1": 86})
    (ended,) = node.state.close(node.at_ms * 1_000_000)
    assert (ended.alert.state, ended.reason) == (RESOLVED, Reason.RULE_REMOVED)
    assert node.state.alerts() == ()


def recording(expr: str, labels: str = "{}") -> RecordingRule:
    text = f"groups: [{{name: g, rules: [{{record: 'a:b', expr: '{expr}', labels: {labels}}}]}}]"
    rule = parse_rule_file(text, "f.yaml")[0].rules[0]
    assert isinstance(rule, RecordingRule)
    return rule


def test_recording_rules():
    history = History()
    history.append("x", 0, [Sample(SeriesKey("t", [("gpu", gpu)]), float(gpu)) for gpu in "12"])
    named = RecordingState(recording("t", "{kind: k}")).evaluate(history, 0, 0)
    assert set(named.samples) == {Sample(SeriesKey("a:b", [("gpu", gpu), ("kind", "k")]), float(gpu)) for gpu in "12"}
    assert RecordingState(recording("sum(t) > 0")).evaluate(history, 0, 0).samples == (Sample(SeriesKey("a:b"), 3.0),)
    assert RecordingState(recording("1 + 1")).evaluate(history, 0, 0).samples == (Sample(SeriesKey("a:b"), 2.0),)
    assert "more than one result" in RecordingState(recording("t", "{gpu: all}")).evaluate(history, 0, 0).error
    limited = RecordingState(recording("t"), limit=1).evaluate(history, 0, 0)
    assert (limited.samples, limited.error) == ((), "2 results, the limit of the group is 1")
