"""Minutes, hours and days: each holds everything that is complete, whatever the zone, the order and the corrections."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from agent.core.cost.calendar import MINUTE_NS
from agent.core.cost.closed import Amount, Closed
from agent.core.cost.live import Booking
from agent.ledger.ledger import Ledger
from agent.ledger.retention import Retention
from agent.ledger.rollup import Eras, set_zone
from agent.ledger.tables import DAY, HOUR, MINUTE, calendars, entries, node_state
from tests.support.ledger import T0, booked, fresh, opened, rows
from tests.support.money import NS

M0 = T0 // MINUTE_NS
PLACE = Booking(T0, "GPU-0", T0, "request", "vllm", "llama", "acme", "ok")
ZONES = ("UTC", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "America/New_York")


def sums(ledger: Ledger, grain: int) -> Counter[str]:
    """By tenant: what a grain and the minutes that are in no bucket yet hold."""
    rolled = rows(ledger, node_state)[0]["rolled_minute"]
    found: Counter[str] = Counter()
    for row in booked(ledger, grain) + [r for r in booked(ledger) if grain != MINUTE and r["minute"] >= rolled]:
        found[row["tenant"]] += row["gpu_ns"]
    return found


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[int, list[tuple[int, str, int]]]]:
    """(length of a step in seconds, [(minutes before its end, tenant, GPU ns)]): corrections reach back."""
    entry = st.tuples(st.integers(0, 4000), st.sampled_from("abc"), st.integers(-50, 50))
    return draw(st.lists(st.tuples(st.sampled_from([1, 20, 59, 60, 61, 900, 7200]), st.lists(entry)), max_size=25))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps(), st.sampled_from(ZONES), st.sampled_from(ZONES), st.integers(0, 25), st.booleans())
async def test_each_grain_holds_everything_that_is_complete(
    tmp_path: Path, told: list[tuple[int, list[tuple[int, str, int]]]], zone: str, other: str, when: int, forget: bool
) -> None:
    wanted: Counter[str] = Counter()
    async with await fresh(tmp_path / "node") as first:
        path = first.path
    ledger = await opened(path, time_zone=zone)
    through = T0 + 4000 * MINUTE_NS
    for number, (seconds, booking) in enumerate(told, 1):
        if number == when:
            ledger.close()
            ledger = await opened(path, time_zone=other)
        begin, through = through, through + seconds * NS
        closed = Closed(number, begin, through)
        for back, tenant, ns in booking:
            minute = (through // MINUTE_NS - back) * MINUTE_NS
            closed.entries.setdefault(PLACE._replace(bucket_ns=minute, tenant=tenant), Amount()).gpu_ns += ns
            wanted[tenant] += ns
        await ledger.settle(closed)
        if forget:
            await ledger.retain(through, Retention(1, 2, 1))
    if told:
        assert rows(ledger, node_state)[0]["rolled_minute"] == through // MINUTE_NS
        for grain in (DAY,) if forget else (MINUTE, HOUR, DAY):
            assert +sums(ledger, grain) == +wanted, grain
            assert -sums(ledger, grain) == -wanted, grain
        nested(ledger)
    ledger.close()


def nested(ledger: Ledger) -> None:
    """Every bucket begins where the zones say, and hours lie in days."""
    eras = ledger.eras
    for row in booked(ledger, HOUR):
        assert eras.hour(row["minute"])[0] == row["minute"]
    for row in booked(ledger, DAY):
        assert eras.day(row["minute"])[0] == row["minute"]


async def test_what_was_taken_back_wholly_is_no_row_of_an_hour(tmp_path: Path) -> None:
    async with await fresh(tmp_path / "node") as ledger:
        gone, stays = PLACE._replace(outcome="in_flight"), PLACE
        await ledger.settle(Closed(1, T0, T0 + NS, {gone: Amount(gpu_ns=5)}))
        await ledger.settle(Closed(2, T0 + NS, T0 + 2 * NS, {gone: Amount(gpu_ns=-5), stays: Amount(gpu_ns=5)}))
        await ledger.settle(Closed(3, T0 + 2 * NS, T0 + 60 * NS))
        assert [row["outcome"] for row in booked(ledger, HOUR)] == ["ok"]
        assert [row["outcome"] for row in booked(ledger, DAY)] == ["ok"]


async def test_a_correction_of_a_minute_that_is_forgotten_is_in_the_days_only(tmp_path: Path) -> None:
    async with await fresh(tmp_path / "node") as ledger:
        end = T0 + 5 * 1440 * MINUTE_NS
        await ledger.settle(Closed(1, T0, end, {PLACE: Amount(gpu_ns=5)}))
        assert await ledger.retain(end, Retention(1, 2, 1)) == 2
        await ledger.settle(Closed(2, end, end + NS, {PLACE: Amount(gpu_ns=2)}))
        assert [[row["gpu_ns"] for row in booked(ledger, grain)] for grain in (MINUTE, HOUR, DAY)] == [[], [], [7]]


async def test_a_changed_zone_counts_from_what_is_rolled_up(tmp_path: Path) -> None:
    async with await fresh(tmp_path / "node") as ledger:
        path, half = ledger.path, T0 + 30 * MINUTE_NS  # 08:30 in UTC
        await ledger.settle(Closed(1, T0, half, {PLACE: Amount(gpu_ns=1)}))
    async with await opened(path, time_zone="Asia/Kathmandu") as ledger:  # 14:15
        later = PLACE._replace(bucket_ns=half)
        await ledger.settle(Closed(2, half, half + 60 * MINUTE_NS, {later: Amount(gpu_ns=2), PLACE: Amount(gpu_ns=4)}))
        assert [(row["minute"] - M0, row["gpu_ns"]) for row in booked(ledger, HOUR)] == [(0, 5), (30, 2)]
        assert [(row["minute"] - M0, row["gpu_ns"]) for row in booked(ledger, DAY)] == [(-480, 5), (30, 2)]
        assert ledger.eras.zones == ((0, "UTC"), (M0 + 30, "Asia/Kathmandu"))
        assert ledger.eras.hour(M0 + 30) == (M0 + 30, M0 + 75)  # until three o'clock there
        assert ledger.eras.day(M0 + 30) == (M0 + 30, M0 + 615)
        assert ledger.eras.hour(M0 + 29) == (M0, M0 + 30)
    async with await opened(path, time_zone="Asia/Kathmandu") as ledger:
        assert len(rows(ledger, calendars)) == 2


async def test_the_same_zone_again_is_no_change_and_one_before_anything_was_booked_is_the_only_one(
    tmp_path: Path,
) -> None:
    async with await fresh(tmp_path / "node") as ledger:
        path = ledger.path
    async with await opened(path, time_zone="Asia/Tokyo") as ledger:
        assert ledger.eras.zones == ((0, "Asia/Tokyo"),)
        with ledger._writer.begin() as connection:
            set_zone(connection, "Asia/Tokyo")
        assert len(rows(ledger, calendars)) == 1


@given(st.lists(st.tuples(st.integers(0, 5000), st.sampled_from(ZONES)), max_size=4), st.integers(-100, 6000))
def test_buckets_of_eras_follow_each_other(changes: list[tuple[int, str]], minute: int) -> None:
    zones = [(M0 + at, zone) for at, zone in sorted(dict(changes).items())]
    eras, minute = Eras([(0, "UTC"), *zones]), M0 + minute
    for of in (eras.hour, eras.day):
        start, end = of(minute)
        assert start <= minute < end
        assert of(start) == of(end - 1) == (start, end)
        assert of(end)[0] == end
    assert eras.day(minute)[0] <= eras.hour(minute)[0] < eras.hour(minute)[1] <= eras.day(minute)[1]


@pytest.mark.parametrize("amount", [2**62, -(2**62)])
async def test_large_amounts_are_exact(tmp_path: Path, amount: int) -> None:
    async with await fresh(tmp_path / "node") as ledger:
        await ledger.settle(Closed(1, T0, T0 + 60 * NS, {PLACE: Amount(gpu_ns=amount, nano=-amount)}))
        found: list[Any] = [(row["gpu_ns"], row["nano"]) for row in booked(ledger, DAY)]
        assert found == [(amount, -amount)]
        with ledger._reader.begin() as connection:
            assert connection.execute(select(entries.c.grain).order_by(entries.c.grain)).scalars().all() == [0, 1, 2]
