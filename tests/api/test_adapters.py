import pytest

from agent.api.adapters import HistoryQueries, runner_groups
from agent.api.rules_json import alerts_data
from agent.api.services import QueryRefused
from agent.core.alerts.rulefile import parse_rule_file
from agent.core.metrics.samples import Sample, SeriesKey
from agent.core.metrics.series import History
from agent.runners.rules import RuleRunner

START_MS = 1_763_894_400_000
END_MS = START_MS + 60_000
NS = 1_000_000_000

RULES = """
groups:
  - name: node
    interval: 15s
    limit: 9
    rules:
      - record: room:temperature:max
        expr: max(room_celsius)
        labels: {place: here}
      - alert: Hot
        expr: room_celsius > 80
        for: 10s
        keep_firing_for: 1m
        labels: {severity: critical}
        annotations: {summary: "{{ $labels.room }} is at {{ $value }}"}
      - alert: Cold
        expr: room_celsius < 0
"""


@pytest.fixture
def history() -> History:
    found = History()
    for second in range(61):
        rooms = (("a", 20.0), ("b", 90.0))
        samples = [Sample(SeriesKey("room_celsius", [("room", room)]), value) for room, value in rooms]
        samples.append(Sample(SeriesKey("turns_total"), 2.0 * second))
        found.append("scrape", START_MS + second * 1000, samples)
    return found


def test_every_kind_of_answer(history: History):
    queries = HistoryQueries(history)
    assert queries.instant("1 + 1", END_MS).lines == [({}, [(END_MS, 2.0)])]
    assert queries.instant('"x"', END_MS) == ("string", [], "x")
    vector = queries.instant('room_celsius{room="a"}', END_MS)
    assert vector == ("vector", [({"__name__": "room_celsius", "room": "a"}, [(END_MS, 20.0)])], "")
    matrix = queries.instant("turns_total[3s]", END_MS)
    assert matrix.kind == "matrix"
    assert matrix.lines[0].points == [(END_MS - 2000, 116.0), (END_MS - 1000, 118.0), (END_MS, 120.0)]


def test_a_range(history: History):
    (line,) = HistoryQueries(history).range("rate(turns_total[20s])", START_MS + 30_000, END_MS, 15_000)
    assert line == ({}, [(START_MS + 30_000, 2.0), (START_MS + 45_000, 2.0), (END_MS, 2.0)])


def test_series_by_selector(history: History):
    queries = HistoryQueries(history)
    assert len(queries.series(None, 0, 2**62)) == 3
    assert queries.series('{room=~"b|c"}', 0, 2**62) == [{"__name__": "room_celsius", "room": "b"}]
    assert queries.series("turns_total", END_MS + 1, 2**62) == []
    assert queries.series("turns_total", END_MS, END_MS)
    with pytest.raises(QueryRefused, match="not a series selector"):
        queries.series("1 + 1", 0, 2**62)


@pytest.mark.parametrize(
    ("query", "kind"),
    [("room_celsius{", "bad_data"), ("room_celsius * on() turns_total * on() room_celsius", "execution")],
)
def test_refusals_say_whether_the_text_or_the_data_is_wrong(history: History, query: str, kind: str):
    with pytest.raises(QueryRefused) as refused:
        HistoryQueries(history).instant(query, END_MS)
    assert refused.value.kind == kind
    assert refused.value.reason


def test_a_range_of_something_that_is_no_number_is_refused(history: History):
    with pytest.raises(QueryRefused):
        HistoryQueries(history).range('"x"', START_MS, END_MS, 1000)


def test_rules_and_their_alerts(history: History):
    runner = RuleRunner(parse_rule_file(RULES, "rules.yaml"), history, lambda alerts, now_ns: None, "node-a")
    groups = runner_groups(runner, 5.0)
    (before,) = groups()
    assert (before.name, before.file, before.interval_seconds, before.limit) == ("node", "rules.yaml", 15.0, 9)
    assert before.evaluated_at_ns is None
    assert {rule.health for rule in before.rules} == {"unknown"}

    runner.evaluate(END_MS, 100 * NS)
    recorded, hot, cold = groups()[0].rules
    assert (recorded.kind, recorded.labels, recorded.health) == ("recording", {"place": "here"}, "ok")
    assert (hot.for_seconds, hot.keep_firing_for_seconds, hot.labels) == (10.0, 60.0, {"severity": "critical"})
    assert hot.annotations == {"summary": "{{ $labels.room }} is at {{ $value }}"}
    assert [alert.state for alert in hot.alerts] == ["pending"]
    assert cold.alerts == ()

    runner.evaluate(END_MS + 15_000, 115 * NS)
    group = groups()[0]
    (alert,) = group.rules[1].alerts
    assert (alert.state, alert.value, alert.labels["room"]) == ("firing", 90.0, "b")
    assert alert.annotations == {"summary": "b is at 90"}
    assert group.evaluated_at_ns == (END_MS + 15_000) * 1_000_000
    assert [a["state"] for a in alerts_data([group])] == ["firing"]


def test_an_alert_that_is_over_is_not_shown(history: History):
    runner = RuleRunner(
        parse_rule_file(RULES.replace("keep_firing_for: 1m", ""), "r"), history, lambda alerts, now_ns: None, "n"
    )
    groups = runner_groups(runner, 5.0)
    runner.evaluate(END_MS, 100 * NS)
    runner.evaluate(END_MS + 15_000, 115 * NS)
    assert groups()[0].rules[1].alerts
    history.append("scrape", END_MS + 20_000, [Sample(SeriesKey("room_celsius", [("room", "b")]), 20.0)])
    runner.evaluate(END_MS + 30_000, 130 * NS)
    assert groups()[0].rules[1].alerts == ()
