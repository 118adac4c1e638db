from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.cost.budget_periods import span_of
from agent.core.cost.budgets import Budget, Standing, covers
from agent.core.cost.calendar import Calendar
from agent.core.cost.reports import ReportQuery
from agent.core.ports import TryLater
from agent.runners.budgets import REFRESH_NS, BudgetDesk
from tests.support.budgets import HOUR_NS, MINUTE_NS, NS, Clock, FakeLedger, budget, ns, term
from tests.support.ledger import T0, lived, opened
from tests.support.money import HandClock, Sidecar, gpus

NOON = ns("2026-11-23T12:00:00+00:00")
DAY_NS = 24 * HOUR_NS


def desk_of(ledger: FakeLedger, clock: Clock, *budgets: Budget, zone: str = "UTC") -> BudgetDesk:
    return BudgetDesk(budgets, ledger, ledger.cost_nano, clock, time_zone=zone)


async def one(desk: BudgetDesk) -> Standing:
    await desk.step()
    return desk.standings[0]


async def test_spent_comes_from_the_ledger_and_then_from_the_counters():
    ledger, clock = FakeLedger(), Clock(NOON)
    ledger.book(NOON - HOUR_NS, 300)
    ledger.book(NOON - HOUR_NS, 50, state="loaded_idle", tenant="")
    ledger.book(NOON - DAY_NS, 7000)  # the day before
    everything, of_acme = budget(), budget(name="acme", scope=(term("tenant", "acme"),))
    desk = desk_of(ledger, clock, everything, of_acme)
    await desk.step()
    assert [standing.spent_nano for standing in desk.standings] == [350, 300]
    asked = len(ledger.asked)
    clock.at_ns += NS
    ledger.book(clock.at_ns, 25)
    ledger.book(clock.at_ns, 9, tenant="zeta")
    ledger.cost_nano["request", "acme", "m", "USD"] = 10**9
    await desk.step()
    assert [standing.spent_nano for standing in desk.standings] == [384, 325]
    assert [(query.start_ns, query.edges) for query in ledger.asked[asked:] if not query.edges] == []
    assert (desk.left_nano("acme"), desk.left_nano("b"), desk.left_nano("?")) == (675, 616, None)
    assert desk.ends_ns("acme") == ns("2026-11-24T00:00:00+00:00")
    clock.at_ns += REFRESH_NS * 10
    assert (await one(desk)).spent_nano == 384


async def test_budgets_of_one_period_share_one_report():
    ledger, clock = FakeLedger(), Clock(NOON)
    many = [budget(name=f"t{number}", scope=(term("tenant", f"t{number}"),)) for number in range(50)]
    desk = desk_of(ledger, clock, *many, budget(name="month", period="month"))
    await desk.step()
    assert len([query for query in ledger.asked if query.start_ns == NOON - 12 * HOUR_NS and not query.edges]) == 1
    assert len(ledger.asked) == 4  # two periods, the last hours, one day of the history


async def test_labels_that_no_counter_has_are_as_old_as_their_report():
    ledger, clock = FakeLedger(), Clock(NOON)
    desk = desk_of(ledger, clock, budget(scope=(term("namespace", "chat"),)))
    ledger.book(NOON, 10, namespace="chat")
    ledger.book(NOON, 20, namespace="other")
    assert (await one(desk)).spent_nano == 10
    ledger.book(NOON + NS, 5, namespace="chat")
    clock.at_ns += NS
    found = await one(desk)
    assert (found.spent_nano, found.as_of_ns) == (10, NOON)
    clock.at_ns += REFRESH_NS
    assert (await one(desk)).spent_nano == 15


async def test_a_new_period_begins_at_nothing_and_the_last_seconds_of_the_old_one_are_its_own():
    end = ns("2026-11-24T00:00:00+00:00")
    ledger, clock = FakeLedger(), Clock(end - 1)
    desk = desk_of(ledger, clock, budget())
    ledger.book(end - HOUR_NS, 1300)
    found = await one(desk)
    assert (found.levels, found.over_nano, found.over()["actual"]) == ((80, 100, 120), 300, True)
    clock.at_ns = end + NS
    assert (await one(desk)).spent_nano == 0
    clock.at_ns += NS
    ledger.book(end - MINUTE_NS, 40)  # settled late: of yesterday
    await desk.step()
    ledger.book(end, 2)
    clock.at_ns += REFRESH_NS
    assert (await one(desk)).spent_nano == 2


async def test_a_rolling_window_loses_what_is_old():
    ledger, clock = FakeLedger(), Clock(NOON)
    desk = desk_of(ledger, clock, budget(period="24h"))
    ledger.book(NOON - 23 * HOUR_NS, 100)
    ledger.book(NOON - HOUR_NS, 10)
    found = await one(desk)
    assert (found.spent_nano, found.ends_ns, desk.ends_ns("b")) == (110, None, None)
    clock.at_ns += HOUR_NS + MINUTE_NS
    assert (await one(desk)).spent_nano == 10


async def test_a_budget_that_begins_later_or_in_the_middle():
    ledger, clock = FakeLedger(), Clock(NOON)
    ledger.book(NOON - 2 * HOUR_NS, 100)
    ledger.book(NOON - HOUR_NS // 2, 10)
    desk = desk_of(ledger, clock, budget(begins_ns=NOON - HOUR_NS), budget(name="later", begins_ns=NOON + HOUR_NS),
                   budget(name="much-later", begins_ns=NOON + 9 * DAY_NS))  # fmt: skip
    await desk.step()
    assert [standing.spent_nano for standing in desk.standings] == [10, None, None]
    assert "future" in desk.standings[1].notes[0]
    assert desk.left_nano("later") is None
    clock.at_ns += 2 * HOUR_NS
    ledger.book(clock.at_ns, 1)
    await desk.step()
    assert desk.standings[1].spent_nano == 1


async def test_a_changed_budget_counts_the_period_that_runs():
    ledger, clock = FakeLedger(), Clock(NOON)
    ledger.book(NOON - HOUR_NS, 300)
    ledger.book(NOON - HOUR_NS, 60, tenant="zeta")
    before = await one(desk_of(ledger, clock, budget(scope=(term("tenant", "acme"),))))
    after = await one(desk_of(ledger, clock, budget(nano=100, scope=(term("tenant", "acme", "zeta"),))))
    assert (before.spent_nano, after.spent_nano) == (300, 360)
    assert after.levels == (80, 100, 120)


async def test_another_currency_and_no_price_at_all_are_not_zero():
    ledger, clock = FakeLedger(currency="USD"), Clock(NOON)
    ledger.book(NOON - HOUR_NS, 300)
    found = await one(desk_of(ledger, clock, budget()))
    assert (found.spent_nano, found.levels, found.burns) == (None, (), ())
    assert "counts in USD" in found.notes[0]
    ledger = FakeLedger(currency=None)
    ledger.book(NOON - HOUR_NS, None, gpu_ns=HOUR_NS)
    desk = desk_of(ledger, clock, budget())
    found = await one(desk)
    assert (found.spent_nano, found.unpriced_ns) == (None, HOUR_NS)
    assert "nothing that has a price" in found.notes[0]
    assert {sample.key.name for sample in desk.samples("n")} == {"engineroom_budget_limit"}


async def test_time_without_a_price_is_told():
    ledger, clock = FakeLedger(), Clock(NOON)
    ledger.book(NOON - HOUR_NS, 300)
    ledger.book(NOON - HOUR_NS, None, gpu_ns=2 * HOUR_NS, model="unpriced")
    found = await one(desk_of(ledger, clock, budget()))
    assert found.spent_nano == 300
    assert any("2.0 GPU hours" in note for note in found.notes)


async def test_who_spends_most():
    ledger, clock = FakeLedger(), Clock(NOON)
    for number in range(9):
        ledger.book(NOON - HOUR_NS, number, tenant=f"t{number}")
    ledger.book(NOON - HOUR_NS, 100, state="unallocated", tenant="", model="")
    found = await one(desk_of(ledger, clock, budget()))
    assert [(spender.state, spender.tenant, spender.nano) for spender in found.top] == [
        ("unallocated", "", 100), ("request", "t8", 8), ("request", "t7", 7), ("request", "t6", 6), ("request", "t5", 5)
    ]  # fmt: skip


async def test_who_spends_is_looked_up_soon_where_only_the_counters_told_of_it_and_it_refers_to_something():
    ledger, clock = FakeLedger(), Clock(NOON)
    desk = desk_of(ledger, clock, budget(scope=(term("tenant", "acme"),)))
    await filled(desk)
    assert [feature.name for feature in desk.features()] == ["budget b"]
    ledger.book(clock.at_ns, 25)
    found = await one(desk)
    assert (found.spent_nano, found.top) == (25, ())
    assert list(desk.features()) == []
    clock.at_ns += REFRESH_NS
    assert [spender.tenant for spender in (await one(desk)).top] == ["acme"]


async def test_a_ledger_that_cannot_answer_leaves_what_was_known():
    ledger, clock = FakeLedger(), Clock(NOON)
    desk = desk_of(ledger, clock, budget())
    ledger.fail = TryLater("no")
    with pytest.raises(TryLater):
        await desk.step()
    assert (desk.standings[0].spent_nano, desk.standings[0].notes) == (None, ("not read yet",))
    ledger.fail = None
    ledger.book(NOON, 5)
    assert (await one(desk)).spent_nano == 5
    ledger.fail = TryLater("no")
    clock.at_ns += REFRESH_NS * 11
    with pytest.raises(TryLater):
        await desk.step()
    assert desk.standings[0].spent_nano == 5


async def filled(desk: BudgetDesk) -> Standing:
    for _ in range(31):
        await desk.step()
    return desk.standings[0]


async def test_forecast_and_burn_of_a_node_that_costs_the_same_every_hour():
    """Committed: whatever the share of requests, the whole is price x time."""
    ledger, clock = FakeLedger(), Clock(NOON + HOUR_NS // 2)
    at = NOON - 10 * DAY_NS
    while at < clock.at_ns:
        work = at // HOUR_NS % 7 * 100
        ledger.book(at, work)
        ledger.book(at, 1000 - work, state="loaded_idle", tenant="")
        at += HOUR_NS // 2
    desk = desk_of(ledger, clock, budget(nano=48_000), budget(name="m", period="month", nano=2_000 * 24 * 30))
    found = await filled(desk)
    assert found.forecast
    assert found.forecast.nano == pytest.approx(48_000, rel=0.025)
    assert found.forecast.high_nano - found.forecast.low_nano <= 2
    assert {burn.hours: round(burn.ratio, 1) for burn in found.burns} == {1: 1.0, 6: 1.0}
    assert [round(burn.usual or 0, 1) for burn in found.burns] == [1.0, 1.0]
    month = desk.standings[1]
    # The ledger is ten days old: of the month so far it knows only these.
    assert month.forecast
    assert month.forecast.nano == pytest.approx((10 * 24 + 7.5 * 24) * 2000, rel=0.01)


async def test_time_in_which_nobody_watched_is_no_history():
    ledger, clock = FakeLedger(), Clock(NOON)
    for hour in range(24 * 5):
        at = NOON - (24 * 5 - hour) * HOUR_NS
        if hour // 24 % 2:
            ledger.book(at, 1000, state="gap", tenant="")
        else:
            ledger.book(at, 500)
    found = await filled(desk_of(ledger, clock, budget(counts="requests", period="24h")))
    assert found.forecast
    assert found.forecast.nano == pytest.approx(12_000, rel=0.01)


async def test_no_forecast_without_a_day_of_history():
    ledger, clock = FakeLedger(), Clock(NOON)
    for hour in range(20):
        ledger.book(NOON - hour * HOUR_NS, 10)
    found = await filled(desk_of(ledger, clock, budget(counts="requests")))
    assert found.forecast is None
    assert "too short" in found.notes[0]


async def test_a_budget_that_refers_to_nothing_is_told_to_the_doctor():
    ledger, clock = FakeLedger(), Clock(NOON)
    ledger.book(NOON - 40 * HOUR_NS, 10)
    desk = desk_of(
        ledger, clock, budget(scope=(term("tenant", "acme"),)), budget(name="x", scope=(term("model", "y"),))
    )
    assert list(desk.features()) == []
    await filled(desk)
    (found,) = desk.features()
    assert (found.name, found.enabled) == ("budget x", False)
    assert "model is y" in found.reason


async def test_samples():
    ledger, clock = FakeLedger(), Clock(NOON)
    ledger.book(NOON - HOUR_NS // 2, 1_100)
    desk = desk_of(ledger, clock, budget(nano=1000))
    await desk.step()
    found = {sample.key.name + dict(sample.key.labels).get("window", ""): sample.value for sample in desk.samples("n")}
    prefix = "engineroom_budget_"
    assert found[prefix + "spent_ratio"] == 1.1
    assert (found[prefix + "level_ratio"], found[prefix + "elapsed_ratio"]) == (1.0, 0.5)
    assert found[prefix + "burn_ratio1h"] == pytest.approx(1.1 * 24)
    assert found[prefix + "burn_ratio6h"] == pytest.approx(1.1 * 4)
    assert not any("forecast" in name or "usual" in name for name in found)


async def test_nothing_to_do_without_budgets():
    ledger = FakeLedger()
    desk = desk_of(ledger, Clock(NOON))
    await desk.step()
    assert (desk.standings, ledger.asked, list(desk.samples("n"))) == ((), [], [])


zones = st.sampled_from(["UTC", "Asia/Shanghai", "Europe/Berlin", "America/Havana", "Asia/Kolkata"])
periods = st.sampled_from(["day", "week", "month", "quarter", "year", "1h", "24h", "7d", "30d"])
# Around the days of 2026 on which clocks in Berlin and Havana are changed, and the turn of a year.
instants = st.sampled_from(["2026-03-29T02:30", "2026-10-25T02:30", "2026-03-08T06:00", "2026-12-31T23:59"]).flatmap(
    lambda text: st.integers(-30 * HOUR_NS, 30 * HOUR_NS).map(lambda by: ns(text + "+00:00") + by)
)
booked = st.tuples(
    st.integers(-40 * 24 * 60, 0),  # minutes before now
    st.integers(0, 10**12),
    st.sampled_from(["request", "unattributed", "loaded_idle", "unallocated", "gap", "other_workload"]),
    st.sampled_from(["a", "b", ""]),
    st.sampled_from(["m", "n"]),
)
scopes = st.lists(
    st.one_of(
        st.builds(lambda v, op: term("tenant", *v, op=op), st.lists(st.sampled_from(["a", "b", ""]), min_size=1),
                  st.sampled_from(["is", "is_not", "starts", "contains_not"])),
        st.builds(lambda v: term("model", v), st.sampled_from(["m", "n"])),
    ),
    max_size=2,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(booked, max_size=40), st.lists(booked, max_size=10), periods, zones, instants, scopes,
       st.sampled_from(["requests", "requests_and_idle", "everything"]))  # fmt: skip
async def test_spent_is_the_sum_of_the_report(before, after, period, zone, now, scope, counts):  # type: ignore[no-untyped-def]
    """Whatever was booked before the first reading, and whatever after it, in every period, zone and scope."""
    ledger, clock = FakeLedger(), Clock(now)
    for minutes, nano, state, tenant, model in before:
        ledger.book(now + minutes * MINUTE_NS, nano, state=state, tenant=tenant, model=model)
    made = budget(period=period, time_zone=zone, scope=tuple(scope), counts=counts)
    desk = desk_of(ledger, clock, made)
    await desk.step()
    for _, nano, state, tenant, model in after:
        ledger.book(now, nano, state=state, tenant=tenant, model=model)
    await desk.step()
    span = span_of(period, Calendar(zone), now)
    truth = await ledger.report(
        ReportQuery(start_ns=span.start_ns, end_ns=span.end_ns, aggregate=("state", "tenant", "model"))
    )
    expected = sum(row.cost_nano or 0 for row in truth.rows if covers(made, row.group))
    assert (await one(desk)).spent_nano == expected
    assert desk.left_nano("b") == max(0, made.nano - expected)


async def test_a_real_ledger(tmp_path: Path):
    """Spent is what the ledger booked, everything is the bill, and it is followed without asking."""
    clock = HandClock(T0)
    async with await opened(tmp_path / "ledger.sqlite") as ledger:
        settlement = await lived(ledger, clock, 6, Sidecar())
        budgets = (
            budget(period="month", nano=10**15),
            budget(name="acme", period="24h", nano=10**15, scope=(term("tenant", "acme"),)),
            budget(name="engine", period="quarter", nano=10**15, scope=(term("engine", "vllm"),)),
        )
        desk = BudgetDesk(budgets, ledger, settlement.cost_nano, clock.now_ns)
        await desk.step()
        spent = [standing.spent_nano for standing in desk.standings]
        assert spent[0] == (await ledger.reconcile()).bill_nano == sum(settlement.cost_nano.values())
        assert spent[1] == sum(nano for key, nano in settlement.cost_nano.items() if key[1] == "acme")
        assert 0 < (spent[2] or 0) < spent[0]
        assert desk.standings[0].burns[0].ratio > 0


async def test_a_real_ledger_over_days_and_after_a_restart(tmp_path: Path):
    """Rolled up into hours and days of one zone, asked for in others: spent is the report's sum, and all the bill."""
    clock = HandClock(T0)
    zones = ("UTC", "Asia/Kolkata", "America/Havana")
    budgets = [
        budget(name=f"{period}-{zone[:3]}", period=period, time_zone=zone, nano=10**15)
        for period in ("day", "week", "year", "24h")
        for zone in zones
    ]
    async with await opened(tmp_path / "ledger.sqlite") as ledger:
        settlement = await lived(ledger, clock, 3, Sidecar())
        desk = BudgetDesk(budgets, ledger, settlement.cost_nano, clock.now_ns)
        for _ in range(30):
            clock.at_ns += 2 * HOUR_NS
            settlement.observe_gpus(gpus(clock.at_ns, 2))
            while (settlement.settled_through_ns or 0) < clock.at_ns:
                await settlement.settle_to(clock.at_ns)
            await desk.step()
        again = BudgetDesk(budgets, ledger, settlement.cost_nano, clock.now_ns)
        await again.step()
        bill = (await ledger.reconcile()).bill_nano
        for standing, fresh in zip(desk.standings, again.standings, strict=True):
            query = ReportQuery(start_ns=standing.span.start_ns, end_ns=standing.span.end_ns)
            assert standing.spent_nano == fresh.spent_nano == (await ledger.report(query)).total_cost_nano
            if standing.budget.period == "year":
                assert standing.spent_nano == bill
            assert standing.notes[:-1] == ()
