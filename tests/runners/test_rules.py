"""The runner on a history of our own: order, intervals, what is handed over, changes of configuration."""

from collections.abc import Sequence
from pathlib import Path

import aiohttp
import anyio
import pytest

from agent.clock import NS, unix_ns
from agent.core.alerts.alert import Alert, AlertState
from agent.core.alerts.rulefile import RuleFileError, parse_rule_file
from agent.core.metrics.promql import evaluate, parse
from agent.core.metrics.samples import Sample, SeriesKey
from agent.core.metrics.series import History
from agent.delivery.latest import LatestDelivery
from agent.runners.rules import RuleRunner, load_rules
from exporters.alertmanager import AlertmanagerExporter
from tests.support.alertmanager import alertmanagers
from tests.support.components import need

START_MS = 1_795_424_121_000
CHAIN = """
groups:
- name: chain
  rules:
  - {record: 'a:double', expr: 2 * t}
  - {record: 'a:quad', expr: '2 * a:double'}
  - {alert: Big, expr: 'a:quad > 10', labels: {severity: info}, annotations: {s: 'is {{ $value }}'}}
"""


class Node:
    def __init__(self, text: str, hold_scale: float = 1.0) -> None:
        self.history = History()
        self.handed: list[tuple[list[Alert], int]] = []
        self.runner = RuleRunner(parse_rule_file(text, "f.yaml"), self.history, self.take, "n1", hold_scale)
        self.seconds = 0.0

    def take(self, alerts: Sequence[Alert], now_ns: int) -> None:
        self.handed.append((list(alerts), now_ns))

    @property
    def at_ms(self) -> int:
        return START_MS + int(self.seconds * 1000)

    def turn(self, value: float | None, after: float = 5.0) -> list[Alert]:
        """`t` has this value now; answers the alerts handed over."""
        self.seconds += after
        self.handed.clear()
        samples = [] if value is None else [Sample(SeriesKey("t", [("gpu", "0")]), value)]
        self.history.append("gpus", self.at_ms, samples)
        self.runner.evaluate(self.at_ms, int(self.seconds * NS))
        return [alert for alerts, _ in self.handed for alert in alerts]

    def ask(self, query: str) -> list[float]:
        return [sample.value for sample in evaluate(parse(query), self.history, self.at_ms).samples]


def test_rules_see_what_the_rules_before_them_made():
    node = Node(CHAIN)
    node.turn(3)
    assert node.ask("a:quad") == [12.0]
    assert [a.state for a in node.runner.alerts()] == [AlertState.FIRING]
    assert [(s.name, s.kind, s.health, s.samples) for s in node.runner.statuses()] == [
        ("a:double", "recording", "ok", 1),
        ("a:quad", "recording", "ok", 1),
        ("Big", "alerting", "ok", 2),
    ]
    assert node.runner.counts.evaluations == 3
    assert node.runner.counts.transitions == {"became_true": 1, "held": 1}


def test_what_is_handed_over():
    node = Node(CHAIN)
    assert node.turn(1) == []
    (firing,) = node.turn(3)
    assert dict(firing.labels) == {
        "alertname": "Big",
        "evaluator": "node",
        "gpu": "0",
        "node": "n1",
        "product": "engineroom",
        "severity": "info",
    }
    assert node.handed[0][1] == node.at_ms * 1_000_000
    assert [a.annotations for a in node.turn(4)] == [(("s", "is 16"),)]  # repeated with the newest text
    (resolved,) = node.turn(1)
    assert (resolved.state, resolved.fingerprint) == (AlertState.RESOLVED, firing.fingerprint)
    assert resolved.resolved_at_ns == node.at_ms * 1_000_000
    assert node.turn(1) == []  # once; repeating is the business of delivery
    assert len(node.runner.alerts()) == 1  # still shown


def test_the_nodes_own_name_in_the_series_wins():
    node = Node("groups: [{name: g, rules: [{alert: A, expr: t, labels: {node: other, evaluator: x}}]}]")
    (alert,) = node.turn(1)
    assert (dict(alert.labels)["node"], dict(alert.labels)["evaluator"]) == ("other", "node")


def test_recorded_series_end_with_their_source():
    node = Node(CHAIN)
    node.turn(3)
    node.turn(None)
    assert (node.ask("a:double"), node.ask("a:quad"), node.ask("ALERTS")) == ([], [], [])


def test_a_group_keeps_its_own_interval_on_a_grid_that_trembles():
    node = Node(
        "groups: [{name: slow, interval: 15s, rules: [{record: x, expr: t}]}, {name: g, rules: [{record: y, expr: t}]}]"
    )
    for after in (5, 4.99, 5.02, 4.98, 5.0, 5.01, 4.99):
        node.turn(1, after)
    slow, fast = node.runner.statuses()
    assert (slow.evaluations, fast.evaluations) == (3, 7)


def test_one_failing_rule_leaves_the_others_running():
    node = Node(
        """groups: [{name: g, rules: [
        {record: bad, expr: 't * on () group_left () u'}, {record: good, expr: t}]}]"""
    )
    node.history.append("u", START_MS, [Sample(SeriesKey("u", [("x", x)]), 1.0) for x in "ab"])
    node.turn(1)
    bad, good = node.runner.statuses()
    assert (bad.health, bad.failures, good.health) == ("err", 1, "ok")
    assert bad.error
    assert node.ask("good") == [1.0]
    assert node.runner.counts.failures == 1


def test_a_change_of_rules_keeps_known_alerts_and_resolves_orphans():
    text = """
groups:
- name: g
  rules:
  - {alert: Kept, expr: 't > 1', for: 10s}
  - {alert: Gone, expr: 't > 1'}
  - {record: gone, expr: t}
"""
    node = Node(text)
    for _ in range(3):
        node.turn(5)
    kept = {a.rule: a for a in node.runner.alerts()}["Kept"]
    assert kept.state is AlertState.FIRING
    node.handed.clear()
    changed = text.replace("alert: Gone", "alert: New").replace("record: gone", "record: new").replace("> 1'", "> 2'")
    node.seconds += 1
    node.runner.replace(parse_rule_file(changed, "f.yaml"), node.at_ms, int(node.seconds * NS))
    ((ended,), _), *rest = node.handed
    assert (ended.rule, ended.state, rest) == ("Gone", AlertState.RESOLVED, [])
    assert dict(ended.labels)["evaluator"] == "node"
    assert node.ask("gone") == []
    assert node.ask('ALERTS{alertname="Gone"}') == []
    node.turn(5)
    after = {a.rule: a for a in node.runner.alerts()}
    assert after["Kept"].fired_at_ns == kept.fired_at_ns
    assert after["New"].state is AlertState.FIRING
    assert node.ask('ALERTS{alertname="Kept"}') == [1.0]


def test_an_alert_that_goes_back_to_pending_is_over_for_others():
    text = "groups: [{name: g, rules: [{alert: A, expr: 't > 1', for: 5s}]}]"
    node = Node(text)
    node.turn(5)
    (firing,) = node.turn(5)
    node.handed.clear()
    node.runner.replace(parse_rule_file(text.replace("5s", "1m"), "f.yaml"), node.at_ms, int(node.seconds * NS))
    ((over,), _) = node.handed[0]
    assert (over.state, over.fingerprint) == (AlertState.RESOLVED, firing.fingerprint)
    assert [a.state for a in node.runner.alerts()] == [AlertState.PENDING]


def test_holds_are_scaled():
    node = Node("groups: [{name: g, rules: [{alert: A, expr: 't > 1', for: 10m}]}]", hold_scale=0.01)
    node.turn(5)
    node.turn(5)
    assert [a.state for a in node.runner.alerts()] == [AlertState.PENDING]
    node.turn(5)
    assert [a.state for a in node.runner.alerts()] == [AlertState.FIRING]


@pytest.mark.component("prometheus-alertmanager")
async def test_from_a_hot_gpu_to_a_real_alertmanager_and_back(tmp_path: Path):
    """The shipped rules, the delivery and Alertmanager together; the hold is waited for on paper."""
    with alertmanagers(need("prometheus-alertmanager"), tmp_path) as (manager,):
        manager.start()
        await manager.ready()
        async with aiohttp.ClientSession() as session, anyio.create_task_group() as group:
            delivery = LatestDelivery[Alert](
                [AlertmanagerExporter(manager.url, session, unix_ns)],
                state_of=lambda alert: (alert.closed, alert.fired_at_ns),
                is_closed=lambda alert: alert.closed,
            )
            group.start_soon(delivery.run)

            def deliver(alerts: Sequence[Alert], _now_ns: int) -> None:
                for alert in alerts:
                    delivery.offer(alert.fingerprint, alert)

            history = History()
            runner = RuleRunner(load_rules([]), history, deliver, "n1")
            labels = [("node", "n1"), ("gpu", "0"), ("uuid", "GPU-a"), ("gpu_model", "H100")]
            hot = SeriesKey("engineroom_gpu_temperature_celsius", labels)
            before_ms = unix_ns() // 1_000_000 - 600_000
            for turn in range(25):
                history.append("gpus", before_ms + turn * 5000, [Sample(hot, 88.0)])
                runner.evaluate(before_ms + turn * 5000, turn * 5 * NS)
            (found,) = await manager.until(lambda alerts: len(alerts) == 1)
            assert found["labels"] == dict(labels) | {
                "alertname": "GPUTemperatureHigh",
                "evaluator": "node",
                "product": "engineroom",
                "severity": "warning",
            }
            assert found["annotations"]["summary"] == "GPU 0 of n1 is at 88.0 °C"
            history.append("gpus", before_ms + 125_000, [Sample(hot, 79.0)])
            runner.evaluate(before_ms + 125_000, 125 * NS)
            await manager.until(lambda alerts: alerts == [])
            group.cancel_scope.cancel()


async def test_a_step_reads_the_clocks_itself():
    node = Node("groups: [{name: g, rules: [{record: one, expr: '1'}]}]")
    await node.runner.step()
    assert node.runner.statuses()[0].health == "ok"


async def test_others_run_between_two_rules_and_new_rules_end_the_turn_of_the_old_ones():
    text = "groups: [{name: g, rules: [{record: one, expr: '1'}, {record: two, expr: '2'}]}]"
    node = Node(text)

    async def reload() -> None:
        assert [status.health for status in node.runner.statuses()] == ["ok", "unknown"]
        node.runner.replace(parse_rule_file(text.replace("two", "three"), "f.yaml"), node.at_ms, 0)

    async with anyio.create_task_group() as group:
        group.start_soon(reload)
        await node.runner.step()
    assert [(status.name, status.health) for status in node.runner.statuses()] == [
        ("one", "unknown"),
        ("three", "unknown"),
    ]


def test_the_shipped_rules_load():
    assert {group.name for group in load_rules([])} >= {"gpu", "llm"}


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(RuleFileError, match=r"gone\.yaml: cannot be read"):
        load_rules([tmp_path / "gone.yaml"])
    (tmp_path / "latin.yaml").write_bytes(b"# \xff")
    with pytest.raises(RuleFileError, match=r"latin\.yaml: cannot be read"):
        load_rules([tmp_path / "latin.yaml"])
