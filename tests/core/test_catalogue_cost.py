from agent.core.catalogue_cost import COST
from agent.runners.budgets import BudgetDesk
from tests.support.budgets import HOUR_NS, Clock, FakeLedger, budget, ns

NOON = ns("2026-11-23T12:00:00+00:00")


async def test_what_is_said_of_a_budget_is_in_the_catalogue():
    ledger = FakeLedger()
    for hour in range(24 * 8):
        ledger.book(NOON - hour * HOUR_NS, 100)
    desk = BudgetDesk([budget()], ledger, ledger.cost_nano, Clock(NOON))
    for _ in range(31):
        await desk.step()
    found = {sample.key.name: {name for name, _ in sample.key.labels} for sample in desk.samples("n")}
    assert found == {metric.name: set(metric.labels) for metric in COST}


def test_units_are_in_the_names():
    assert all(metric.name.endswith(metric.unit) for metric in COST)
