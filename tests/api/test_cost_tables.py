"""Budgets, who spent most, and the proof, as text."""

from msgspec.structs import replace

from agent.api.cost_tables import MOST_LINES, BudgetFigures, budget_lines, energy, no_budgets, proof, top
from agent.core.cost.budget_periods import Span
from agent.core.cost.budgets import Budget
from agent.core.cost.budgets import Standing as Kept
from agent.core.cost.forecast import Forecast
from agent.core.cost.reports import Report, ReportQuery
from tests.support.api import CannedLedger
from tests.support.money_page import RichLedger, Standing, budgets
from tests.support.savings import outcome, place


def plain(text: str) -> str:
    return text.replace("\u202f", " ")


def test_budgets_the_fullest_first() -> None:
    lines = budget_lines(budgets())
    assert [(line.name, plain(line.ratio), plain(line.forecast), line.tone) for line in lines] == [
        ("acme", "127 %", "200 %", "bad"),
        ("everything", "86 %", "122 %", "warn"),
        ("team-search", "30 %", "70 %", ""),
        ("new", "—", "—", ""),
    ]
    assert (lines[0].spent, lines[0].limit, lines[0].period) == ("¥1,270.00", "¥1,000.00", "day")
    assert 'width="100.0%"' in lines[0].bar
    assert budget_lines(no_budgets()) == []


def test_a_budget_as_its_runner_keeps_it() -> None:
    unit = 10**9
    budget = Budget(name="all", nano=100 * unit, currency="USD", period="month")
    standing = Kept(budget=budget, as_of_ns=5, span=Span(0, 10, 10), spent_nano=50 * unit, notes=("no history",))
    forecast = Forecast(nano=130 * unit, low_nano=110 * unit, high_nano=150 * unit, method="pace", hours=9)
    before, after = (BudgetFigures.of(one) for one in (standing, replace(standing, forecast=forecast)))
    assert before == BudgetFigures("all", "month", "USD", 100 * unit, 50 * unit, None, ("no history",))
    (line,) = budget_lines([after])
    assert (plain(line.ratio), plain(line.forecast), line.tone) == ("50 %", "130 %", "warn")
    assert line.note == "no history"


def test_a_budget_of_nothing_has_no_ratio() -> None:
    (line,) = budget_lines([Standing("zero", "day", 0, 5, 5)])
    assert (line.ratio, line.forecast, line.tone) == ("—", "—", "")


async def today() -> Report:
    query = ReportQuery(start_ns=0, end_ns=1, aggregate=("state", "tenant", "model", "outcome"))
    return await RichLedger().report(query)


async def test_who_spent_most_with_energy_and_waste() -> None:
    tenants = top("Tenants today", await today(), "tenant", "no tenant")
    assert [line.name for line in tenants.lines] == ["no tenant", "acme", "zeta", "<script>alert(1)</script>"]
    acme = tenants.lines[1]
    assert (acme.cost, plain(acme.share), acme.requests, plain(acme.waste), acme.tone) == (
        "¥263.33", "33 %", "3,799", "11 %", "warn",
    )  # fmt: skip
    assert plain(acme.energy) == "15.8 kWh"
    assert (plain(tenants.lines[3].waste), plain(tenants.lines[0].waste)) == ("100 %", "0 %")
    assert top("Models", await today(), "model", "no model").lines[0].name == "bge-m3"


def test_many_tenants_are_counted() -> None:
    rows = tuple(outcome("ok", 9 - at / 10, 1, tenant=f"t{at}") for at in range(MOST_LINES + 4))
    report = Report(
        query=ReportQuery(start_ns=0, end_ns=1), currency="CNY", rows=rows, total_gpu_ns=1, total_cost_nano=1
    )
    told = top("Tenants", report, "tenant", "")
    assert ([line.name for line in told.lines], told.more) == ([f"t{at}" for at in range(MOST_LINES)], 4)


def test_without_prices_waste_is_of_time() -> None:
    rows = tuple(replace(outcome(of, 1, 1), cost_nano=None) for of in ("ok", "error", "ok", "ok"))
    report = Report(
        query=ReportQuery(start_ns=0, end_ns=1), currency=None, rows=rows, total_gpu_ns=4, total_cost_nano=None
    )
    (line,) = top("Tenants", report, "tenant", "").lines
    assert (line.cost, plain(line.waste), line.energy) == ("—", "25 %", "—")
    assert top("Tenants", replace(report, rows=(place("unallocated", 1),)), "tenant", "").lines == []


def test_energy_that_was_not_metered_is_not_nothing() -> None:
    row = outcome("ok", 1, 1)
    assert energy([row]) == "—"
    assert plain(energy([row, replace(row, energy_uj=5_400_000_000)])) == "1.50 Wh"
    assert plain(energy([replace(row, energy_uj=0)])) == "0 Wh"
    assert plain(energy([replace(row, energy_uj=3_600_000_000_000)])) == "1 kWh"


async def test_the_proof_in_one_sentence() -> None:
    found = await CannedLedger().reconcile()
    holds = proof(found)
    assert holds is not None
    assert holds.holds
    assert plain(holds.text) == "Parts = bill, to the last nano-unit: ¥0.000000030 for 10.0 GPU s of 1 GPU."
    unpriced = proof(replace(found, bill_nano=None))
    assert unpriced is not None
    assert unpriced.text.startswith("Parts = wall time, to the last nanosecond")
    broken = proof(replace(found, slots=(replace(found.slots[0], reconciles=False),), reconciles=False))
    assert broken is not None
    assert not broken.holds
    assert "GPU-5c9f1a2e-0000" in broken.text
    assert proof(replace(found, slots=())) is None
