import pytest

from agent.api.services import AlertView, GroupView, RuleView
from agent.api.view import alert_cards, rule_chips
from tests.support.api import NOW_NS, NS, rule_group


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
