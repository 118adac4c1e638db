import pytest

from agent.api.charts import Frame
from agent.api.history_view import QUERIES
from agent.api.services import AlertView, GroupView, RuleView
from agent.api.view import alert_cards, engine_cards, gpu_notice, gpu_rows, memory_ratio, rule_chips
from agent.core.board import Board
from agent.core.gpu_readings import GpuSnapshot
from tests.support.api import NOW_NS, NS, engine, gpu, gpus, node, rule_group

FRAME = Frame(0, 600_000, 5_000)
NO_CHARTS = {name: {} for name in QUERIES}


def test_a_row_per_gpu_in_order_of_index():
    snapshot = GpuSnapshot(read_at_ns=NOW_NS, driver="ok", gpus=(gpu(2), gpu(0), gpu(1)))
    assert [row.index for row in gpu_rows(snapshot, NO_CHARTS, FRAME)] == [0, 1, 2]
    assert gpu_rows(None, NO_CHARTS, FRAME) == []


def test_what_a_gpu_does_not_report_is_a_dash():
    lost = gpu_rows(gpus(8), NO_CHARTS, FRAME)[3]
    assert [cell.value for cell in lost.cells] == ["—"] * 4
    assert lost.state == "lost"
    assert memory_ratio(gpu(0, memory_total_bytes=0)) is None


def test_a_gpu_that_reports_zero_shows_zero():
    row = gpu_rows(GpuSnapshot(read_at_ns=1, driver="ok", gpus=(gpu(0, utilization_ratio=0.0),)), NO_CHARTS, FRAME)[0]
    assert row.cells[0].value == "0\u202f%"


def test_hot_full_and_throttled_stand_out():
    rows = gpu_rows(gpus(8), NO_CHARTS, FRAME)
    assert rows[1].cells[2].tone == "bad"
    assert rows[2].cells[1].tone == "warn"
    assert rows[1].throttled == ["hw thermal slowdown"]
    calm = GpuSnapshot(read_at_ns=1, driver="ok", gpus=(gpu(0, throttle_reasons=("gpu_idle",)),))
    assert gpu_rows(calm, NO_CHARTS, FRAME)[0].throttled == []


@pytest.mark.parametrize(
    ("snapshot", "says"),
    [
        (None, "No reading"),
        (GpuSnapshot(read_at_ns=NOW_NS, driver="ok", gpus=(gpu(0),)), ""),
        (GpuSnapshot(read_at_ns=NOW_NS - 60 * NS, driver="ok", gpus=(gpu(0),)), "60\u202fs old"),
        (GpuSnapshot(read_at_ns=NOW_NS, driver="no_driver", message="Install the driver."), "Install the driver."),
        (GpuSnapshot(read_at_ns=NOW_NS, driver="no_library"), "no library"),
    ],
)
def test_the_notice_above_the_gpus(snapshot: GpuSnapshot | None, says: str):
    notice = gpu_notice(node(board=Board("a", snapshot)))
    assert says in notice
    assert bool(notice) == bool(says)


def test_engines_are_shown_when_watched_and_when_only_seen_by_the_sidecar():
    charts = {**NO_CHARTS, "requests": {("seen",): [(600_000, 2.0)]}}
    cards = engine_cards({"chat": engine("chat")}, charts, FRAME)
    assert [(card.name, card.state) for card in cards] == [("chat", "ready"), ("seen", "seen by the sidecar")]
    assert [fact.value for fact in cards[0].facts] == ["14", "2", "62\u202f%"]
    assert [fact.value for fact in cards[1].facts] == ["—", "—", "—"]
    assert cards[0].charts[0].note == "no data yet"
    assert cards[1].charts[0].note == ""


def test_failures_are_drawn_only_when_there_are_any():
    both = {"requests": {("e",): [(600_000, 2.0)]}, "failures": {("e",): [(600_000, 0.0)]}}
    assert len(engine_cards({}, {**NO_CHARTS, **both}, FRAME)[0].charts[0].legend) == 1
    both["failures"]["e",] = [(600_000, 1.0)]
    assert len(engine_cards({}, {**NO_CHARTS, **both}, FRAME)[0].charts[0].legend) == 2


def test_firing_comes_first_and_the_worst_of_it():
    def alert(name: str, state: str, severity: str) -> AlertView:
        return AlertView(
            name=name, state=state, labels={"severity": severity}, annotations={}, active_at_ns=NOW_NS - 60 * NS
        )

    alerts = (alert("c", "pending", "critical"), alert("b", "firing", "warning"), alert("a", "firing", "critical"))
    rule = RuleView(kind="alerting", name="r", query="x", alerts=alerts)
    cards = alert_cards([GroupView(name="g", file="f", interval_seconds=1, rules=(rule,))], NOW_NS)
    assert [card.name for card in cards] == ["a", "b", "c"]
    assert cards[0].since == "firing for 60\u202fs"


@pytest.mark.parametrize(("url", "kept"), [("https://x/y", True), ("/docs", True), ("javascript:alert(1)", False)])
def test_only_web_addresses_become_links(url: str, kept: bool):
    alert = AlertView(name="a", state="firing", labels={}, annotations={"runbook_url": url}, active_at_ns=1)
    rule = RuleView(kind="alerting", name="r", query="x", alerts=(alert,))
    (card,) = alert_cards([GroupView(name="g", file="f", interval_seconds=1, rules=(rule,))], NOW_NS)
    assert bool(card.runbook) is kept


def test_every_alert_rule_has_a_chip():
    broken = RuleView(kind="alerting", name="Broken", query="x", health="err", error="many-to-many")
    chips = rule_chips([rule_group(), GroupView(name="g", file="f", interval_seconds=1, rules=(broken,))])
    assert [chip.state for chip in chips] == ["firing", "pending", *["quiet"] * 5, "broken"]
    assert chips[-1].note == "many-to-many"
