"""The ledger file: accepting, settling, asking, and opening it again under all circumstances."""

from pathlib import Path

import pytest

from agent.core.cost.reports import ReportQuery
from agent.core.cost.tariff import Tariff
from agent.core.ports import ConfigError
from agent.core.requests import RequestProgressed
from agent.ledger.retention import DAY_NS, Retention
from agent.ledger.tables import DAY, HOUR, MINUTE
from agent.runners.settlement import Settlement
from tests.support.ledger import T0, booked, lived, opened
from tests.support.money import NS, HandClock, Sidecar, book, engine, expected_bill, gpus, record

EVER = ReportQuery(start_ns=0, end_ns=2**62)


async def test_the_clock_goes_on_within_a_boot(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    async with await opened(path) as ledger:
        first = ledger.clock
    async with await opened(path, unix=T0 + 500 * NS, boot=2000) as ledger:  # the wall clock stepped: no matter
        assert (ledger.clock.anchor_unix_ns, ledger.clock.anchor_boot_ns) == (T0, 1000)
        assert (first.anchor_unix_ns, first.anchor_boot_ns) == (T0, 1000)


@pytest.mark.parametrize(("wall", "anchor"), [(T0 + 500 * NS, T0 + 500 * NS), (T0 - 500 * NS, T0 + 20 * NS)])
async def test_after_a_reboot_the_clock_is_never_before_what_is_booked(tmp_path: Path, wall: int, anchor: int) -> None:
    path = tmp_path / "ledger.sqlite"
    async with await opened(path) as ledger:
        await lived(ledger, HandClock(T0), 20)
    async with await opened(path, unix=wall, boot=5, boot_name="boot-2") as ledger:
        assert (ledger.clock.anchor_unix_ns, ledger.clock.anchor_boot_ns) == (anchor, 5)


async def test_a_newer_schema_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    async with await opened(path) as ledger:
        with ledger._writer.begin() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match=r"newer engineroom.*install that version"):
        await opened(path)


async def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database, by far" * 100)
    with pytest.raises(ConfigError, match="cannot be opened"):
        await opened(path)


async def test_totals_and_sums_survive_a_restart(tmp_path: Path) -> None:
    path, clock = tmp_path / "ledger.sqlite", HandClock(T0)
    async with await opened(path) as ledger:
        before = await lived(ledger, clock, 30, Sidecar())
    async with await opened(path) as ledger:
        after = Settlement(ledger, book(), "node-a", clock)
        assert after.cost_nano == {k: v for k, v in before.cost_nano.items() if v or k in after.cost_nano}
        assert after.slot_ns == before.slot_ns
        assert sum(after.cost_nano.values()) == 2 * expected_bill(T0, clock.at_ns)
        assert sum(after.slot_ns.values()) == 2 * (clock.at_ns - T0)


async def test_reports_group_and_sum_to_the_bill(tmp_path: Path) -> None:
    clock = HandClock(T0)
    async with await opened(tmp_path / "ledger.sqlite") as ledger:
        await lived(ledger, clock, 150, Sidecar())
        bill = 2 * expected_bill(T0, clock.at_ns)
        for aggregate in (("state",), ("tenant", "state"), ("gpu",), ("model", "outcome"), ("node", "engine"), ()):
            for basis in ("usage", "allocation"):
                query = ReportQuery(start_ns=T0, end_ns=clock.at_ns, aggregate=aggregate, basis=basis)
                report = await ledger.report(query)
                assert (report.total_cost_nano, report.total_gpu_ns) == (bill, 300 * NS)
                assert sum(row.cost_nano or 0 for row in report.rows) == bill
                assert sum(row.requests for row in report.rows) == 150
        minutes = await ledger.report(
            ReportQuery(start_ns=T0, end_ns=clock.at_ns, aggregate=("gpu",), edges=(T0 + 60 * NS, T0 + 120 * NS))
        )
        booked = [row for row in minutes.rows if row.group["gpu"]]  # the first request ended before a GPU was seen
        assert [(row.start_ns - T0) // NS for row in booked] == [0, 0, 60, 60, 120, 120]
        assert [row.gpu_ns // NS for row in booked] == [60, 60, 60, 60, 30, 30]
        usage = await ledger.report(ReportQuery(start_ns=T0, end_ns=clock.at_ns, aggregate=("tenant", "state")))
        named = {(row.group["tenant"], row.group["state"]): row for row in usage.rows}
        assert named["acme", "request"].requests == named["zeta", "request"].requests == 75
        assert named["acme", "request"].output_tokens == 750
        spread = await ledger.report(
            ReportQuery(start_ns=T0, end_ns=clock.at_ns, aggregate=("gpu", "state"), basis="allocation")
        )
        # The idle time of the engine's GPU is on its requests; the other GPU had none and keeps its state.
        assert {(r.group["gpu"], r.group["state"]): r.gpu_ns // NS for r in spread.rows if r.group["gpu"]} == {
            ("GPU-0", "request"): 150,
            ("GPU-1", "unallocated"): 150,
        }


async def test_an_unpriced_gpu_has_time_and_no_cost(tmp_path: Path) -> None:
    clock = HandClock(T0)
    async with await opened(tmp_path / "ledger.sqlite") as ledger:
        settlement = Settlement(ledger, None, "node-a", clock)
        settlement.observe_gpus(gpus(T0))
        settlement.observe_engine(engine(T0))
        sidecar = Sidecar()
        await settlement.accept(sidecar.batch(T0, sidecar.end(record("r", T0, T0 + NS))))
        clock.at_ns += 3 * NS
        await settlement.drain()
        report, found = await ledger.report(EVER), await ledger.reconcile()
        assert (report.total_gpu_ns, report.total_cost_nano, report.currency) == (3 * NS, None, None)
        assert (found.reconciles, found.bill_nano, found.slots[0].bill_nano) == (True, None, None)
        cost = await ledger.request_cost("r")
        assert cost is not None
        assert (cost.gpu_ns, cost.cost_nano, cost.settled) == (NS, None, True)
        assert settlement.cost_nano == {}


async def test_a_request_of_an_unknown_engine_is_counted_without_cost(tmp_path: Path) -> None:
    clock, sidecar = HandClock(T0), Sidecar()
    async with await opened(tmp_path / "ledger.sqlite") as ledger:
        settlement = Settlement(ledger, book(), "node-a", clock)
        settlement.observe_gpus(gpus(T0))
        stray = record("r", T0, T0 + NS, upstream="10.9.9.9:8000")
        await settlement.accept(sidecar.batch(T0, sidecar.end(stray)))
        clock.at_ns += 10 * NS
        await settlement.drain()
        cost, report = await ledger.request_cost("r"), await ledger.report(EVER)
        assert cost is not None
        assert (cost.engine, cost.gpu_ns, cost.cost_nano, cost.settled) == ("10.9.9.9:8000", 0, None, True)
        assert {row.group["state"]: row.requests for row in report.rows}["request"] == 1
        assert (await ledger.reconcile()).reconciles
        assert await ledger.request_cost("unheard") is None


async def test_requests_of_a_sidecar_that_died_end_when_it_was_last_heard(tmp_path: Path) -> None:
    clock, first, second = HandClock(T0), Sidecar(epoch=1), Sidecar(epoch=2)
    async with await opened(tmp_path / "ledger.sqlite") as ledger:
        settlement = Settlement(ledger, book(), "node-a", clock)
        settlement.observe_engine(engine(T0))
        for at in range(12):
            clock.at_ns = T0 + at * NS
            settlement.observe_gpus(gpus(clock.at_ns))
            if at == 1:
                await settlement.accept(first.batch(clock.at_ns, first.start("r", clock.at_ns)))
            if at == 3:
                told = RequestProgressed(sequence=first.next(), id="r", at_ns=clock.at_ns, output_tokens=9)
                await settlement.accept(first.batch(clock.at_ns, told))
            if at == 6:
                await settlement.accept(second.batch(clock.at_ns, second.start("s", clock.at_ns)))
        await settlement.drain()
        lost = await ledger.request_cost("r")
        assert lost is not None
        assert (lost.outcome, lost.ended_at_ns, lost.gpu_ns, lost.settled) == ("lost", T0 + 3 * NS, 2 * NS, True)
        # Its end comes after all, from the old sidecar's spool: the outcome and the tokens are known then, once.
        told = record("r", T0 + NS, T0 + 3 * NS)
        await settlement.accept(first.batch(clock.at_ns, first.end(told)))
        clock.at_ns += NS
        await settlement.drain()
        known = await ledger.request_cost("r")
        assert known is not None
        assert (known.outcome, known.output_tokens, known.gpu_ns) == ("ok", 10, 2 * NS)
        assert (await ledger.reconcile()).reconciles


async def test_a_record_that_comes_too_late_is_counted_and_costs_nothing(tmp_path: Path) -> None:
    clock, sidecar = HandClock(T0), Sidecar()
    async with await opened(tmp_path / "ledger.sqlite") as ledger:
        settlement = await lived(ledger, clock, 30)
        await settlement.accept(sidecar.batch(clock.at_ns, sidecar.end(record("late", T0 + NS, T0 + 2 * NS))))
        clock.at_ns += NS
        await settlement.drain()
        cost = await ledger.request_cost("late")
        assert cost is not None
        assert (cost.gpu_ns, cost.settled) == (0, True)
        assert (await ledger.report(EVER)).total_gpu_ns == 2 * 31 * NS
        assert (await ledger.reconcile()).reconciles


async def test_a_sidecars_clock_is_corrected(tmp_path: Path) -> None:
    clock, sidecar, ahead = HandClock(T0), Sidecar(), 3600 * NS
    async with await opened(tmp_path / "ledger.sqlite") as ledger:
        settlement = Settlement(ledger, book(), "node-a", clock)
        settlement.observe_gpus(gpus(T0))
        settlement.observe_engine(engine(T0))
        clock.at_ns += 2 * NS
        skewed = record("r", T0 + NS + ahead, T0 + 2 * NS + ahead)
        await settlement.accept(sidecar.batch(clock.at_ns + ahead, sidecar.end(skewed)))
        await settlement.drain()
        cost = await ledger.request_cost("r")
        assert cost is not None
        assert (cost.started_at_ns, cost.gpu_ns) == (T0 + NS, NS)


async def test_a_retired_gpu_has_no_more_bill(tmp_path: Path) -> None:
    path, clock = tmp_path / "ledger.sqlite", HandClock(T0)
    async with await opened(path) as ledger:
        settlement = await lived(ledger, clock, 10)
        assert settlement.retire("GPU-1")
        assert not settlement.retire("GPU-1")
        clock.at_ns += 10 * NS
        await settlement.drain()
    async with await opened(path) as ledger:
        clock.at_ns += 10 * NS
        await Settlement(ledger, book(), "node-a", clock).drain()
        found = await ledger.reconcile()
        assert found.reconciles
        assert {slot.gpu: slot.wall_ns // NS for slot in found.slots} == {"GPU-0": 30, "GPU-1": 10}


async def test_a_long_absence_is_few_rows(tmp_path: Path) -> None:
    path, clock = tmp_path / "ledger.sqlite", HandClock(T0)
    async with await opened(path) as ledger:
        await lived(ledger, clock, 10)
    clock.at_ns += 90 * 24 * 3600 * NS
    async with await opened(path) as ledger:
        await lived(ledger, clock, 10)
        found = await ledger.reconcile()
        assert found.reconciles
        assert found.slots[0].bill_nano == expected_bill(T0, clock.at_ns)
        counts = [len(booked(ledger, grain)) // 2 for grain in (MINUTE, HOUR, DAY)]
        assert counts[0] < 90 * 96 + 10
        assert counts[1] < 90 * 24 + 10
        assert counts[2] < 90 + 10
        await ledger.retain(clock.at_ns, Retention())
        assert len(booked(ledger, MINUTE)) < 2 * 5 * 96
        again = await ledger.reconcile()
        assert (again.reconciles, again.bill_nano) == (True, found.bill_nano)


async def test_another_currency_begins_a_new_account(tmp_path: Path) -> None:
    path, clock = tmp_path / "ledger.sqlite", HandClock(T0)
    async with await opened(path) as ledger:
        await lived(ledger, clock, 10)
    changed = clock.at_ns
    async with await opened(path) as ledger:
        settlement = Settlement(ledger, book(currency="USD"), "node-a", clock)
        for _ in range(10):
            settlement.observe_gpus(gpus(clock.at_ns, 2))
            clock.at_ns += NS
        await settlement.drain()
        found, report = await ledger.reconcile(), await ledger.report(EVER)
        assert found.reconciles
        assert found.currency == report.currency == "USD"
        assert found.bill_nano == report.total_cost_nano == 2 * expected_bill(changed, clock.at_ns)
        assert report.total_gpu_ns == 2 * 20 * NS
        assert [(slot.from_ns, slot.to_ns) for slot in found.slots if slot.gpu == "GPU-0"] == [
            (T0, changed),
            (changed, clock.at_ns),
        ]


async def test_old_requests_can_be_forgotten(tmp_path: Path) -> None:
    clock = HandClock(T0)
    async with await opened(tmp_path / "ledger.sqlite") as ledger:
        await lived(ledger, clock, 30, Sidecar())
        before = await ledger.report(EVER)
        assert await ledger.retain(T0 + 14 * DAY_NS + 10 * NS, Retention()) == 10
        assert await ledger.request_cost("1-9") is None
        assert await ledger.request_cost("1-10") is not None
        assert await ledger.report(EVER) == before


async def test_a_step_offered_again_is_written_once(tmp_path: Path) -> None:
    async with await opened(tmp_path / "ledger.sqlite") as ledger:
        tariff = Tariff(book())
        tariff.see_gpus(T0, gpus(T0))
        first = tariff.close(T0 + 2 * NS)
        assert first is not None
        await ledger.settle(first)
        await ledger.settle(first)  # the first answer was lost: cancelled while the thread committed
        assert (await ledger.report(EVER)).total_gpu_ns == 2 * NS
        assert (await ledger.reconcile()).reconciles
        tariff.number += 5
        stranger = tariff.close(T0 + 3 * NS)
        assert stranger is not None
        with pytest.raises(RuntimeError, match="two writers"):
            await ledger.settle(stranger)
        assert (await ledger.report(EVER)).total_gpu_ns == 2 * NS
