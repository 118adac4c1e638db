from itertools import pairwise

import pytest

from agent.core.cost.calendar import Calendar
from agent.core.cost.forecast import HISTORY_DAYS
from agent.runners.budget_history import REREAD_NS, History, Matching
from tests.support.budgets import HOUR_NS, MINUTE_NS, NS, FakeLedger, budget, ns, term

NOON = ns("2026-11-23T12:20:30+00:00")
DAY_NS = 24 * HOUR_NS
BUDGETS = (budget(), budget(name="acme", scope=(term("tenant", "acme"),), time_zone="Asia/Kolkata"))


def history(ledger: FakeLedger, zone: str = "UTC") -> History:
    return History(BUDGETS, ledger, Calendar(zone))


async def fill(made: History, at_ns: int) -> int:
    """Steps of a second until it is filled."""
    steps = 0
    while not made.is_filled:
        await made.read(at_ns + steps * NS)
        steps += 1
        assert steps < 60
    return steps


async def test_it_fills_a_day_a_step_and_then_only_the_last_hours_are_read():
    ledger = FakeLedger()
    made = history(ledger)
    assert await fill(made, NOON) == HISTORY_DAYS + 2
    asked = len(ledger.asked)
    assert not await made.read(NOON + 45 * NS)
    assert await made.read(NOON + 60 * NS)
    assert len(ledger.asked) == asked + 1
    assert ledger.asked[-1].end_ns - ledger.asked[-1].start_ns <= 8 * HOUR_NS


async def test_days_are_read_again_a_day_later_one_at_a_time():
    """Corrections reach back."""
    ledger = FakeLedger()
    made = history(ledger)
    await fill(made, NOON)
    starts = set()
    for minute in range(40):
        del ledger.asked[:]
        await made.read(NOON + REREAD_NS + minute * MINUTE_NS)
        assert len(ledger.asked) <= 2
        starts |= {query.start_ns for query in ledger.asked if query.end_ns - query.start_ns > 8 * HOUR_NS}
    assert len(starts) >= HISTORY_DAYS - 1


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/Havana", "Australia/Lord_Howe"])
async def test_every_hour_is_counted_once_on_days_of_any_length(zone: str):
    """30 days around the change of clocks, something in each quarter of an hour; hours are those of the zone."""
    now = ns("2026-11-10T12:20:30+00:00")
    ledger = FakeLedger()
    at = now - 20 * DAY_NS
    while at <= now:
        ledger.book(at, 1)
        at += HOUR_NS // 4
    made = history(ledger, zone)
    await fill(made, now)
    found = made.hours(0)
    assert [hour.nano for hour in found] == [round(hour.length_ns / (HOUR_NS / 4)) for hour in found]
    assert all(a.start_ns + a.length_ns == b.start_ns for a, b in pairwise(found))
    assert 20 * 24 - 2 <= len(found) <= 20 * 24 + 2
    assert found[-1].start_ns + found[-1].length_ns <= now


async def test_the_last_hours_go_on_where_the_days_ended():
    ledger = FakeLedger()
    made = history(ledger)
    for step in range(40):
        at = NOON + step * 10 * MINUTE_NS
        for minute in range(10):
            ledger.book(at - minute * MINUTE_NS, 1)
        await made.read(at)
    found = made.hours(0)
    assert [hour.nano for hour in found] == [60] * len(found)
    assert len(found) >= 5
    nano, start, end = made.lately(0, 1)
    assert (nano, start) == (61, at - at % MINUTE_NS - HOUR_NS)
    assert end == at
    assert made.lately(1, 6)[0] == made.lately(0, 6)[0]
    assert made.covers(1)


def test_what_labels_count_towards_is_remembered():
    matching = Matching(dict(enumerate(BUDGETS)))
    for _ in range(2):
        assert matching.of({"state": "request", "tenant": "acme"}) == (0, 1)
        assert matching.of({"state": "gap", "tenant": ""}) == (0,)
