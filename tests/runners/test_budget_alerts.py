"""The shipped rules on what the desk of budgets publishes: weeks of a service, the last days of them in half hours."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.alerts.alert import AlertState
from agent.core.alerts.rulefile import parse_rule_file
from agent.core.cost.budgets import Budget
from agent.core.metrics.series import History
from agent.runners.budgets import BudgetDesk
from agent.runners.rules import RuleRunner
from tests.support.budgets import HOUR_NS, MINUTE_NS, Clock, FakeLedger, budget, ns

RULES = Path(__file__).resolve().parent.parent.parent / "alert-rules" / "cost.yaml"
MONDAY = ns("2026-11-02T00:00:00+00:00")
STEP_NS = 30 * MINUTE_NS
DAY_NS = 24 * HOUR_NS
Spend = Callable[[int], int]


def by_day(at_ns: int) -> int:
    """Of each half hour: ten times as much by day as at night, a tenth of that on Sundays, some noise."""
    hour, day = (at_ns - MONDAY) // HOUR_NS % 24, (at_ns - MONDAY) // DAY_NS
    noise = 1 + 0.15 * math.sin(at_ns / 7e12) + 0.1 * math.sin(day * 2.3)
    return round((100_000 if 8 <= hour < 20 else 10_000) * (0.1 if day % 7 == 6 else 1) * noise)


def week_of(spend: Spend) -> int:
    return sum(spend(MONDAY + index * STEP_NS) for index in range(7 * 48))


async def lived(made: Budget, spend: Spend, days: int, watched_from: int) -> dict[str, int]:
    """Alert -> when it fired first, in hours after the watching began."""
    ledger, clock = FakeLedger(), Clock(MONDAY + watched_from * DAY_NS)
    at = MONDAY
    while at < clock.at_ns:
        ledger.book(at, spend(at))
        at += STEP_NS
    desk = BudgetDesk([made], ledger, ledger.cost_nano, clock)
    history = History()
    runner = RuleRunner(parse_rule_file(RULES.read_text(), "cost.yaml"), history, lambda _alerts, _now: None, "n")
    for _ in range(31):
        await desk.step()
    fired: dict[str, int] = {}
    began = clock.at_ns
    while clock.at_ns < began + days * DAY_NS:
        ledger.book(clock.at_ns, spend(clock.at_ns))
        await desk.step()
        at_ms = clock.at_ns // 1_000_000
        for sample in desk.samples("n"):
            history.append(repr(sample.key), at_ms, [sample])
        runner.evaluate(at_ms, clock.at_ns)
        for alert in runner.alerts():
            if alert.state is AlertState.FIRING:
                fired.setdefault(alert.rule, (clock.at_ns - began) // HOUR_NS)
        clock.at_ns += STEP_NS
    return fired


@pytest.mark.parametrize(
    ("period", "share"),
    [
        ("week", 1.0),
        pytest.param("7d", 1.0, marks=pytest.mark.long),
        pytest.param("day", 1 / 5.5, marks=pytest.mark.long),
    ],
)
async def test_no_fault_no_alert(period: str, share: float):
    """A service that spends 88 % of its budget, over the end of its periods, with nights and Sundays."""
    amount = round(week_of(by_day) * share / 0.88)
    assert await lived(budget(period=period, nano=amount, counts="requests"), by_day, 3, 26) == {}


@pytest.mark.long
async def test_a_young_ledger_makes_no_alert():
    """What it knows of nights, and not yet of Sundays, is no reason for one."""
    amount = round(week_of(by_day) / 0.88)
    assert await lived(budget(period="week", nano=amount, counts="requests"), by_day, 6, 0) == {}


async def test_a_node_that_costs_its_budget_makes_no_alert_and_one_that_costs_more_does_so_early():
    def even(_at_ns: int) -> int:
        return 1000

    fits = budget(period="week", nano=round(week_of(even) / 0.99))
    assert await lived(fits, even, 3, 5) == {}
    fired = await lived(budget(period="week", nano=round(week_of(even) / 1.4)), even, 7, 7)
    assert fired["BudgetForecastOver"] <= 10
    assert fired["BudgetForecastOver"] < fired["BudgetNearlySpent"] < fired["BudgetSpent"]
    assert fired["BudgetSpent"] < fired["BudgetOverBy20Percent"] == pytest.approx(168 * 1.2 / 1.4, abs=2)


async def test_a_client_that_runs_away():
    """From the third hour of Monday on five times as much is spent: burn first, then what it leads to."""
    began = MONDAY + 21 * DAY_NS + 3 * HOUR_NS

    def runaway(at_ns: int) -> int:
        return by_day(at_ns) + (200_000 if at_ns >= began else 0)

    amount = round(week_of(by_day) / 0.88)
    fired = await lived(budget(period="week", nano=amount, counts="requests"), runaway, 3, 21)
    assert 3 <= fired["BudgetBurnsFast"] <= 5
    assert fired["BudgetBurnsFast"] < fired["BudgetForecastOver"] < fired["BudgetOverBy20Percent"]
