"""What must not upset the bill: odd numbers, odd names, requests of days, and a database that takes its time."""

import csv
import io
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, event

from agent.core.admission import MAX_TENANT, sifted
from agent.core.cost.report_forms import report_csv
from agent.core.cost.reports import ReportQuery, Term
from agent.core.requests import RequestEnded
from agent.ledger.ledger import Ledger
from agent.ledger.schema import Where
from agent.runners.settlement import Settlement
from tests.support.ledger import fresh, opened
from tests.support.money import NS, HandClock, Sidecar, book, engine, expected_bill, gpus, record
from tests.support.postgres import new_database, server

T0 = 1_800_000_000 * NS
HOUR_NS = 3600 * NS
EVER = {"start_ns": 0, "end_ns": 2 * T0}


class Bench:
    """A settlement on a hand-turned clock."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.clock = HandClock(T0)
        self.settlement = Settlement(ledger, book(), "node-a", self.clock)

    def see(self, **counters: Any) -> None:
        self.settlement.observe_gpus(gpus(self.clock.at_ns))
        self.settlement.observe_engine(engine(self.clock.at_ns, **counters))

    async def run(self, seconds: int, each: Callable[[], None] | None = None) -> None:
        for _ in range(seconds):
            (each or self.see)()
            await self.settlement.step()
            self.clock.at_ns += NS

    async def proven(self) -> dict[str, int]:
        """GPU ns by state, which are the wall time, and cost what the price says."""
        await self.settlement.drain()
        found = await self.ledger.reconcile()
        assert found.reconciles
        (slot,) = found.slots
        assert sum(slot.parts_ns.values()) == self.clock.at_ns - T0
        assert sum(slot.parts_nano.values()) == found.bill_nano == expected_bill(T0, self.clock.at_ns)
        return dict(slot.parts_ns)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with await opened(tmp_path / "ledger.sqlite") as ledger:
        yield Bench(ledger)


# Counters


@pytest.mark.parametrize(
    "readings",
    [
        [float("nan")] * 30,
        [float("inf")] * 30,
        [-1.0 * number for number in range(30)],
        [0.0, float("nan"), float("-inf"), float("inf"), -5.0, 0.0] * 5,
        [0.0] * 10 + [1e308] + [0.0] * 19,  # one reading is nonsense, and its reset is no traffic either
    ],
    ids=["nan", "infinite", "negative", "some of each", "a spike"],
)
@pytest.mark.parametrize("gauge", [None, 0.0, float("nan"), float("inf"), -3.0])
async def test_counters_that_are_no_numbers_invent_no_traffic(
    bench: Bench, readings: list[float], gauge: float | None
) -> None:
    left = iter(readings)
    sidecar = Sidecar()
    await bench.run(2)
    begun = bench.clock.at_ns
    await bench.settlement.accept(sidecar.batch(begun, sidecar.end(record("r", begun, begun + NS))))
    await bench.run(28, lambda: bench.see(output=next(left), running=gauge))
    times = await bench.proven()
    assert times["request"] == NS
    assert times.get("unattributed", 0) <= NS * (1e308 in readings)
    cost = await bench.ledger.request_cost("r")
    assert cost is not None
    assert (cost.settled, cost.gpu_ns) == (True, NS)


# Requests of days


async def test_a_request_of_three_days_costs_what_it_took(bench: Bench) -> None:
    sidecar = Sidecar()
    await bench.run(2)
    begun = bench.clock.at_ns
    await bench.settlement.accept(sidecar.batch(begun, sidecar.start("long", begun)))
    for _ in range(3 * 24 * 4):
        bench.see()
        bench.clock.at_ns += 900 * NS
        await bench.settlement.accept(sidecar.batch(bench.clock.at_ns))  # a heartbeat
        bench.see()
        while (bench.settlement.settled_through_ns or 0) < bench.clock.at_ns - 6 * NS:
            await bench.settlement.step()
    ended = bench.clock.at_ns
    told = sidecar.end(record("long", begun, ended, tokens=5))
    (kept,), refused = sifted([told], ended)
    assert refused == ()
    await bench.settlement.accept(sidecar.batch(ended, kept))
    await bench.run(10)
    times = await bench.proven()
    cost = await bench.ledger.request_cost("long")
    assert cost is not None
    assert cost.settled
    assert cost.gpu_ns == times["request"] > 0
    in_days = await bench.ledger.report(
        ReportQuery(**EVER, aggregate=("outcome",), filter=(Term("state", "is", ("request",)),))
    )
    assert {row.group["outcome"]: row.gpu_ns for row in in_days.rows if row.gpu_ns} == {"ok": cost.gpu_ns}


# Names

ODD = [
    "'; DROP TABLE places; --", '"', "\\", "%", "_", "a%b", "a_b", "axb", "acme", "Acme", "ACME", " acme", "acme ",
    "=1+1", "+1", "-1", "@SUM(A1)", "＝1", "\u00e9", "e\u0301", "ß", "ss", "東京", "🦙" * 64, "x" * MAX_TENANT, "null",
    "None", "NaN", "0", "a,b;c", "{}", "$(id)", "<script>", "../..", "in_flight",
]  # fmt: skip


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.component("postgres"))])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Where]:
    if request.param == "sqlite":
        yield tmp_path / "ledger.sqlite"
    else:
        with server() as url:
            yield new_database(url, "ledger")


async def told_by_tenant(bench: Bench, tenants: list[str]) -> dict[str, int]:
    """One second for each tenant, one after the other, as the agent takes them; what each has in the report."""
    sidecar = Sidecar()
    await bench.run(1)
    ends: list[RequestEnded] = []
    for number, tenant in enumerate(tenants):
        at = bench.clock.at_ns + number * NS
        ends.append(sidecar.end(record(f"r{number}", at, at + NS, tenant=tenant)))
    kept, refused = sifted(ends, bench.clock.at_ns + len(tenants) * NS)
    assert refused == ()
    await bench.settlement.accept(sidecar.batch(bench.clock.at_ns, *kept))
    await bench.run(len(tenants))
    await bench.proven()
    query = ReportQuery(**EVER, aggregate=("tenant",), filter=(Term("state", "is", ("request",)),))
    return {row.group["tenant"]: row.gpu_ns for row in (await bench.ledger.report(query)).rows}


async def test_tenants_with_odd_names_are_tenants_of_their_own(place: Where) -> None:
    async with await opened(place) as ledger:
        bench = Bench(ledger)
        assert await told_by_tenant(bench, ODD) == dict.fromkeys(ODD, NS)
        for name in ODD:  # asked for one by one, none is another's
            (row,) = (await ledger.report(ReportQuery(**EVER, aggregate=("tenant",), tenant=name))).rows
            assert (row.group["tenant"], row.gpu_ns) == (name, NS)
        for op, part, who in (
            ("contains", "%", {"%", "a%b"}),
            ("contains", "_", {"_", "a_b", "in_flight"}),
            ("starts", "a_", {"a_b"}),
            ("is", "acme", {"acme"}),
            ("ends", "\\", {"\\"}),
        ):
            query = ReportQuery(**EVER, aggregate=("tenant",), filter=(Term("tenant", op, (part,)),))  # type: ignore[arg-type]
            assert {row.group["tenant"] for row in (await ledger.report(query)).rows} == who
        whole = await ledger.report(ReportQuery(**EVER, aggregate=("tenant",)))
        cells = [row["tenant"] for row in csv.DictReader(io.StringIO(report_csv(whole), newline=""))]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "＝"))]
        assert {cell.removeprefix("'") for cell in cells} - {""} == {name.removeprefix("'") for name in ODD}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(st.characters(exclude_categories=()).filter(str.isprintable), min_size=1, max_size=MAX_TENANT),
        min_size=1,
        max_size=8,
        unique=True,
    )
)
async def test_any_name_that_admission_takes_comes_back(tmp_path: Path, tenants: list[str]) -> None:
    async with await fresh(tmp_path / "node") as ledger:
        assert await told_by_tenant(Bench(ledger), tenants) == dict.fromkeys(tenants, NS)


# A slow database


@contextmanager
def held_commits(ledger: Ledger) -> Iterator[tuple[threading.Semaphore, threading.Event]]:
    """Each commit waits for a permit, and says that it waits."""
    permits, waits = threading.Semaphore(0), threading.Event()

    def wait(_: Connection) -> None:
        waits.set()
        assert permits.acquire(timeout=30)

    event.listen(ledger._writer, "commit", wait)
    try:
        yield permits, waits
    finally:
        event.remove(ledger._writer, "commit", wait)


async def test_a_database_that_is_slow_delays_answers_and_loses_nothing(bench: Bench) -> None:
    """While a commit hangs, GPUs are watched on and sidecars wait; each is answered when its own commit is done."""
    await bench.run(10)
    numbers = itertools.count()
    answered: list[str] = []

    async def tell(name: str) -> None:
        sidecar, now = Sidecar(name), bench.clock.at_ns
        id_ = f"{name}-{next(numbers)}"
        receipt = await bench.settlement.accept(sidecar.batch(now, sidecar.end(record(id_, now - NS, now))))
        assert (receipt.accepted_through, receipt.repeated) == (1, 0)
        answered.append(id_)

    with held_commits(bench.ledger) as (permits, waits):
        for round_ in range(6):
            before = len(answered)
            waits.clear()
            async with anyio.create_task_group() as group:
                for name in range(4):
                    group.start_soon(tell, f"sidecar-{round_}-{name}")
                group.start_soon(bench.settlement.step)
                with anyio.fail_after(10):
                    while not waits.is_set():
                        await anyio.lowlevel.checkpoint()
                for _ in range(5):  # five seconds pass within one commit
                    bench.see()
                    bench.clock.at_ns += NS
                    await anyio.lowlevel.checkpoint()
                assert len(answered) == before, "nothing is acknowledged that is not on disk"
                found = await bench.ledger.reconcile()
                assert found.reconciles, "and who reads is not kept waiting"
                permits.release(10)
            assert len(answered) == before + 4
            while permits.acquire(blocking=False):
                pass
        permits.release(1000)
        await bench.run(10)
        times = await bench.proven()
    assert "gap" not in times
    assert set(times) == {"loaded_idle", "request"}
    assert len(answered) == 24
    for request_id in answered:
        cost = await bench.ledger.request_cost(request_id)
        assert cost is not None
        assert (cost.settled, cost.outcome) == (True, "ok")
    report = await bench.ledger.report(ReportQuery(**EVER))
    assert sum(row.requests for row in report.rows) == 24


async def test_what_was_not_committed_was_not_answered_and_is_told_again(tmp_path: Path) -> None:
    """It counts once."""
    path, sidecar = tmp_path / "ledger.sqlite", Sidecar()
    ledger = await opened(path)
    bench = Bench(ledger)
    await bench.run(3)
    await bench.settlement.drain()
    batch = sidecar.batch(bench.clock.at_ns, sidecar.end(record("r", T0, T0 + NS)))

    def fail(_: Connection) -> None:
        raise OSError("the disk went away")

    event.listen(ledger._writer, "commit", fail)
    with pytest.raises(OSError, match="went away"):
        await bench.settlement.accept(batch)
    ledger.close()
    async with await opened(path) as again:
        after = Bench(again)
        after.clock = bench.clock
        after.settlement = Settlement(again, book(), "node-a", bench.clock)
        receipt = await after.settlement.accept(batch)
        assert (receipt.accepted_through, receipt.repeated) == (1, 0)
        await after.run(10)
        await after.proven()
        report = await again.report(ReportQuery(**EVER))
        assert sum(row.requests for row in report.rows) == 1
