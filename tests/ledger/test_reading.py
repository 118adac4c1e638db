"""Questions to a real file: entries booked by hand, and every sum known."""

import dataclasses
import random
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.cost.accounts import Account, open_account
from agent.core.cost.closed import Amount, Closed
from agent.core.cost.live import Booking, Live
from agent.core.cost.prices import PriceBook
from agent.core.cost.reports import Basis, Dimension, Report, ReportQuery
from agent.core.requests import Usage
from agent.ledger.ledger import Ledger
from agent.ledger.reading import ACTIVE
from tests.support.ledger import T0, fresh
from tests.support.money import MODEL, NS, UPSTREAM, Sidecar, book, expected_bill, record

MINUTE = 60 * NS
OTHER_MODEL = "NVIDIA A100-SXM4-80GB"
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)


@pytest.fixture
async def ledger(tmp_path: Path) -> Any:
    async with await fresh(tmp_path / "node") as made:
        yield made


def place(state: str, minute: int = 0, gpu: str = "GPU-0", **fields: Any) -> Booking:
    return Booking(T0 + minute * MINUTE, gpu, T0, state, "", "", "", "", slot=gpu)._replace(**fields)


def account(gpu: str = "GPU-0", prices: PriceBook | None = None, **fields: Any) -> Account:
    return dataclasses.replace(open_account(prices, gpu, MODEL, T0), **fields)


async def write(ledger: Ledger, found: list[Account], entries: dict[Booking, Amount], to_ns: int, n: int = 1) -> None:
    through = {(a.gpu, a.from_ns): to_ns for a in found}
    await ledger.settle(Closed(n, T0, to_ns, entries=entries, changed_accounts=found, accounts_through=through))


async def two_gpus(ledger: Ledger) -> None:
    """A priced GPU with an engine for two minutes, and one without a price."""
    serving = {"engine": "e1", "model": "llama"}
    entries = {
        place("request", 0, tenant="acme", outcome="ok", **serving): Amount(30 * NS, 300, 2, 20, 10),
        place("request", 1, tenant="zeta", outcome="error", **serving): Amount(10 * NS, 100, 1, 4, 0),
        place("loaded_idle", 1, **serving): Amount(20 * NS, 200),
        place("unallocated", 0, "GPU-1", reason="free"): Amount(60 * NS),
    }
    await write(ledger, [account(prices=book()), account("GPU-1", gpu_model=OTHER_MODEL)], entries, T0 + 2 * MINUTE)


def by(report: Report, *names: str) -> dict[Any, tuple[int, int | None]]:
    """Group -> (GPU seconds, nano-units)."""
    return {
        tuple(row.group[name] for name in names) if len(names) > 1 else row.group[names[0]]: (
            row.gpu_ns // NS,
            row.cost_nano,
        )
        for row in report.rows
    }


@pytest.mark.parametrize(
    ("dimension", "groups"),
    [
        ("tenant", {"": (80, 200), "acme": (30, 300), "zeta": (10, 100)}),
        ("model", {"": (60, None), "llama": (60, 600)}),
        ("engine", {"": (60, None), "e1": (60, 600)}),
        ("gpu", {"GPU-0": (60, 600), "GPU-1": (60, None)}),
        ("gpu_model", {MODEL: (60, 600), OTHER_MODEL: (60, None)}),
        ("node", {"node-a": (120, 600)}),
        ("state", {"loaded_idle": (20, 200), "request": (40, 400), "unallocated": (60, None)}),
        ("outcome", {"": (80, 200), "error": (10, 100), "ok": (30, 300)}),
        ("slot", {"GPU-0": (60, 600), "GPU-1": (60, None)}),
        ("reason", {"": (60, 600), "free": (60, None)}),
    ],
)
async def test_report_by_dimension(ledger: Ledger, dimension: Dimension, groups: dict[str, Any]) -> None:
    await two_gpus(ledger)
    report = await ledger.report(ReportQuery(start_ns=T0, end_ns=T0 + 2 * MINUTE, aggregate=(dimension,)))
    assert by(report, dimension) == groups
    assert (report.currency, report.total_gpu_ns, report.total_cost_nano) == ("CNY", 120 * NS, 600)
    assert {(row.start_ns, row.end_ns) for row in report.rows} == {(T0, T0 + 2 * MINUTE)}
    assert [sum(getattr(r, name) for r in report.rows) for name in ("requests", "input_tokens", "output_tokens")] == [
        3,
        24,
        10,
    ]


@pytest.mark.parametrize(
    ("start", "end", "step", "rows"),
    [  # seconds from T0; rows of (start, end, GPU seconds)
        (0, 120, None, [(0, 120, 120)]),
        (0, 120, 60, [(0, 60, 90), (60, 120, 30)]),
        (0, 120, 120, [(0, 120, 120)]),
        (0, 100, 60, [(0, 60, 90), (60, 100, 30)]),  # the last row ends with the window
        (0, 60, 60, [(0, 60, 90)]),  # the end is not part of it
        (60, 120, None, [(60, 120, 30)]),
        (1, 120, 60, [(1, 61, 30)]),  # a minute belongs where it begins
        (-60, 120, 90, [(-60, 30, 90), (30, 120, 30)]),  # steps count from the window's start
        (-3600, 3600, 3600, [(0, 3600, 120)]),
        (500, 900, 60, []),
    ],
)
async def test_the_window_and_its_steps(
    ledger: Ledger, start: int, end: int, step: int | None, rows: list[tuple[int, int, int]]
) -> None:
    await two_gpus(ledger)
    query = ReportQuery(start_ns=T0 + start * NS, end_ns=T0 + end * NS, aggregate=(), step_seconds=step)
    report = await ledger.report(query)
    found = [((r.start_ns - T0) // NS, (r.end_ns - T0) // NS, r.gpu_ns // NS) for r in report.rows]
    assert found == rows
    assert report.total_gpu_ns == sum(row[2] for row in rows) * NS
    if not rows:
        assert report.total_cost_nano is None


async def test_rows_are_in_order_of_time_and_group(ledger: Ledger) -> None:
    await two_gpus(ledger)
    query = ReportQuery(start_ns=T0, end_ns=T0 + 2 * MINUTE, aggregate=("state", "tenant"), step_seconds=60)
    report = await ledger.report(query)
    assert [((r.start_ns - T0) // MINUTE, *r.group.values()) for r in report.rows] == [
        (0, "request", "acme"),
        (0, "unallocated", ""),
        (1, "loaded_idle", ""),
        (1, "request", "zeta"),
    ]


@pytest.mark.parametrize("basis", ["usage", "allocation"])
@pytest.mark.parametrize("dimension", DIMENSIONS)
async def test_a_tenants_report_is_its_part_of_the_whole_and_of_nobody_elses(
    ledger: Ledger, dimension: Dimension, basis: Basis
) -> None:
    await two_gpus(ledger)
    window = {"start_ns": T0, "end_ns": T0 + 2 * MINUTE, "basis": basis, "step_seconds": 60}
    both: tuple[Dimension, ...] = ("tenant",) if dimension == "tenant" else (dimension, "tenant")
    whole = await ledger.report(ReportQuery(aggregate=both, **window))
    for tenant in ("acme", "zeta", "nobody", "' OR 1=1 --"):
        own = await ledger.report(ReportQuery(aggregate=(dimension,), tenant=tenant, **window))
        wanted = [
            (row.start_ns, row.group[dimension], row.gpu_ns, row.cost_nano, row.requests, row.input_tokens)
            for row in whole.rows
            if row.group["tenant"] == tenant
        ]
        assert [
            (row.start_ns, row.group[dimension], row.gpu_ns, row.cost_nano, row.requests, row.input_tokens)
            for row in own.rows
        ] == wanted
        assert own.total_gpu_ns == sum(row[2] for row in wanted)
        assert own.total_cost_nano == (sum(row[3] or 0 for row in wanted) if wanted else None)


async def test_what_was_taken_back_is_no_row(ledger: Ledger) -> None:
    running, ended = place("request", outcome="in_flight"), place("request", outcome="ok")
    await write(ledger, [account(prices=book())], {running: Amount(9, 90)}, T0 + 9)
    await write(ledger, [], {running: Amount(-9, -90), ended: Amount(9, 90, 1)}, T0 + 9, 2)
    report = await ledger.report(ReportQuery(start_ns=T0, end_ns=T0 + MINUTE, aggregate=("outcome",)))
    assert [(row.group, row.gpu_ns, row.cost_nano, row.requests) for row in report.rows] == [
        ({"outcome": "ok"}, 9, 90, 1)
    ]


async def test_idle_time_goes_to_what_was_active_on_the_same_gpu_in_the_same_step(ledger: Ledger) -> None:
    await two_gpus(ledger)
    window = {"start_ns": T0, "end_ns": T0 + 2 * MINUTE, "aggregate": ("tenant", "state")}
    whole = await ledger.report(ReportQuery(**window, basis="allocation"))
    # 20 s idle of GPU-0 over 30 s and 10 s; GPU-1 had no requests and keeps its state.
    assert by(whole, "tenant", "state") == {
        ("", "unallocated"): (60, None),
        ("acme", "request"): (45, 450),
        ("zeta", "request"): (15, 150),
    }
    minutes = await ledger.report(ReportQuery(**window, basis="allocation", step_seconds=60))
    assert by(minutes, "tenant", "state") == {
        ("", "unallocated"): (60, None),
        ("acme", "request"): (30, 300),
        ("zeta", "request"): (30, 300),  # the idle seconds were in its minute
    }


async def test_idle_time_of_a_part_of_a_gpu_stays_with_that_part(ledger: Ledger) -> None:
    rest = {"slot": "GPU-0", "reason": "mig_unpartitioned"}
    entries = {
        place("request", slot="MIG-a", tenant="acme", outcome="ok"): Amount(10 * NS, 100, 1),
        place("loaded_idle", slot="MIG-a"): Amount(20 * NS, 200),
        place("allocated_idle", slot="MIG-b", reason="held_no_process"): Amount(20 * NS, 200),
        place("unallocated", **rest): Amount(10 * NS, 100),
    }
    await write(ledger, [account(prices=book())], entries, T0 + MINUTE)
    window = {"start_ns": T0, "end_ns": T0 + MINUTE, "aggregate": ("slot", "state", "reason")}
    usage = await ledger.report(ReportQuery(**window))
    spread = await ledger.report(ReportQuery(**window, basis="allocation"))
    stays = {
        ("GPU-0", "unallocated", "mig_unpartitioned"): (10, 100),
        ("MIG-b", "allocated_idle", "held_no_process"): (20, 200),
    }
    names = ("slot", "state", "reason")
    assert by(usage, *names) == stays | {("MIG-a", "request", ""): (10, 100), ("MIG-a", "loaded_idle", ""): (20, 200)}
    assert by(spread, *names) == stays | {("MIG-a", "request", ""): (30, 300)}


async def test_a_report_by_group_holds_every_engine_of_it(ledger: Ledger) -> None:
    group = {"group": "10.0.0.1:29500"}
    entries = {
        place("request", engine="leader", tenant="acme", outcome="ok", **group): Amount(30 * NS, 300, 1),
        place("unattributed", gpu="GPU-1", engine="worker", reason="group_worker", **group): Amount(40 * NS, 400),
        place("loaded_idle", gpu="GPU-1", engine="worker", reason="group_idle", **group): Amount(20 * NS, 200),
        place("other_workload", reason="process"): Amount(30 * NS, 300),
    }
    await write(ledger, [account(prices=book()), account("GPU-1", book())], entries, T0 + MINUTE)
    window = {"start_ns": T0, "end_ns": T0 + MINUTE}
    assert by(await ledger.report(ReportQuery(**window, aggregate=("group",))), "group") == {
        "10.0.0.1:29500": (90, 900),
        "": (30, 300),
    }
    found = await ledger.report(ReportQuery(**window, aggregate=("group", "state"), basis="allocation"))
    assert by(found, "group", "state") == {
        ("10.0.0.1:29500", "request"): (60, 600),
        ("10.0.0.1:29500", "unattributed"): (60, 600),  # what a worker was idle is spread over what it worked
    }


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.integers(1, 40), st.sampled_from([None, 60, 120, 180]))
async def test_allocation_moves_everything_and_loses_nothing(
    tmp_path: Path, seed: int, count: int, step: int | None
) -> None:
    dice = random.Random(seed)
    entries: dict[Booking, Amount] = {}
    for _ in range(count):
        state = dice.choice(("request", "request", "unattributed", "loaded_idle", "warmup", "gap", "broken"))
        names = {"tenant": dice.choice(("acme", "zeta")), "outcome": dice.choice(("ok", "error"))}
        where = place(state, dice.randrange(5), dice.choice(("GPU-0", "GPU-1", "GPU-2")), engine=dice.choice("ab"))
        where = where._replace(**names) if state == "request" else where
        amount = Amount(dice.choice((0, 1, dice.randrange(10**18))), dice.choice((0, 1, dice.randrange(10**16))))
        if where.gpu == "GPU-2":
            amount.nano = 0
        if state == "request":
            amount.requests, amount.input_tokens, amount.output_tokens = 1, dice.randrange(99), dice.randrange(99)
        entries[where] = amount
    found = [account("GPU-0", book()), account("GPU-1", book()), account("GPU-2")]
    async with await fresh(tmp_path / "node") as ledger:
        await write(ledger, found, entries, T0 + MINUTE)

        async def asked(basis: Basis, *aggregate: Dimension) -> Report:
            window = {"start_ns": T0, "end_ns": T0 + 5 * MINUTE}
            return await ledger.report(
                ReportQuery(**window, aggregate=aggregate, basis=basis, step_seconds=step)  # type: ignore[arg-type]
            )

        usage, spread = await asked("usage", "gpu"), await asked("allocation", "gpu")
        assert usage.rows == spread.rows  # not a nanosecond leaves its GPU or its step
        assert usage.total_gpu_ns == spread.total_gpu_ns == sum(a.gpu_ns for a in entries.values())
        assert (spread.total_cost_nano or 0) == sum(a.nano for a in entries.values())
        detail: Report = await asked("allocation", *DIMENSIONS)
        assert (detail.total_gpu_ns, detail.total_cost_nano) == (spread.total_gpu_ns, spread.total_cost_nano)
        assert [sum(r.requests for r in x.rows) for x in (detail, usage)] == [
            sum(a.requests for a in entries.values())
        ] * 2
        active = Counter[tuple[int, str]]()
        for row in (await asked("usage", "gpu", "state")).rows:
            if row.group["state"] in ACTIVE:
                active[row.start_ns, row.group["gpu"]] += row.gpu_ns
        for row in detail.rows:
            assert row.gpu_ns >= 0
            if active[row.start_ns, row.group["gpu"]]:
                assert row.group["state"] in ACTIVE


async def test_the_proof_of_a_gpu_that_is_booked_exactly(ledger: Ledger) -> None:
    bill = expected_bill(T0, T0 + MINUTE)
    entries = {
        place("request", outcome="ok"): Amount(40 * NS, bill - 7, 1),
        place("request", outcome="error"): Amount(5 * NS, 4, 1),
        place("gap"): Amount(15 * NS, 3),
        place("unallocated", gpu="GPU-1"): Amount(MINUTE),
        place("request", gpu="", account_ns=0): Amount(requests=1),  # of an engine whose GPUs are unknown
    }
    await write(ledger, [account(prices=book()), account("GPU-1")], entries, T0 + MINUTE)
    proof = await ledger.reconcile()
    assert (proof.node, proof.currency, proof.bill_nano, proof.reconciles) == ("node-a", "CNY", bill, True)
    assert proof.parts_nano == {"request": bill - 3, "gap": 3}
    first, second = proof.slots
    assert (first.gpu, first.from_ns, first.to_ns, first.wall_ns) == ("GPU-0", T0, T0 + MINUTE, MINUTE)
    assert (first.parts_ns, first.bill_nano) == ({"gap": 15 * NS, "request": 45 * NS}, bill)
    assert (second.parts_ns, second.bill_nano, second.parts_nano) == ({"unallocated": MINUTE}, None, {})


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({place("gap"): Amount(1, 0)}, ["GPU-0"]),
        ({place("gap"): Amount(-1, 0)}, ["GPU-0"]),
        ({place("gap"): Amount(0, 1)}, ["GPU-0"]),
        ({place("gap"): Amount(0, -1)}, ["GPU-0"]),
        ({place("gap", gpu="GPU-1"): Amount(1, 0)}, ["GPU-1"]),
        ({place("gap", gpu="GPU-9"): Amount(1, 0)}, []),  # of no account at all
        ({place("gap", account_ns=T0 + 1): Amount(0, 1)}, []),
    ],
)
async def test_a_single_unit_too_many_or_too_few_is_seen(
    ledger: Ledger, wrong: dict[Booking, Amount], named: list[str]
) -> None:
    found = [account(prices=book()), account("GPU-1")]
    right = {
        place("unallocated"): Amount(MINUTE, expected_bill(T0, T0 + MINUTE)),
        place("unallocated", gpu="GPU-1"): Amount(MINUTE),
    }
    await write(ledger, found, right, T0 + MINUTE)
    assert (await ledger.reconcile()).reconciles
    await write(ledger, [], wrong, T0 + MINUTE, 2)
    proof = await ledger.reconcile()
    assert not proof.reconciles
    assert [slot.gpu for slot in proof.slots if not slot.reconciles] == named


async def test_another_currency_is_in_its_slot_only(ledger: Ledger) -> None:
    old, new = account(prices=book()), open_account(book(currency="USD"), "GPU-0", MODEL, T0 + MINUTE)
    entries = {
        place("gap"): Amount(MINUTE, expected_bill(T0, T0 + MINUTE)),
        place("gap", 1, account_ns=T0 + MINUTE): Amount(MINUTE, expected_bill(T0, T0 + MINUTE)),
    }
    await write(ledger, [old], {}, T0 + MINUTE)
    await write(ledger, [new], entries, T0 + 2 * MINUTE, 2)
    proof = await ledger.reconcile()
    bill = expected_bill(T0, T0 + MINUTE)
    assert (proof.currency, proof.bill_nano, proof.reconciles) == ("USD", bill, True)
    assert [slot.bill_nano for slot in proof.slots] == [bill, bill]
    report = await ledger.report(ReportQuery(start_ns=T0, end_ns=T0 + 2 * MINUTE, step_seconds=60))
    assert [(row.gpu_ns, row.cost_nano) for row in report.rows] == [(MINUTE, None), (MINUTE, bill)]
    assert (report.currency, report.total_gpu_ns, report.total_cost_nano) == ("USD", 2 * MINUTE, bill)


async def test_an_empty_ledger_knows_nothing_and_says_so(ledger: Ledger) -> None:
    report, proof = await ledger.report(ReportQuery(start_ns=0, end_ns=2**62)), await ledger.reconcile()
    assert (report.rows, report.currency, report.total_gpu_ns, report.total_cost_nano) == ((), None, 0, None)
    assert (proof.slots, proof.currency, proof.bill_nano, proof.parts_nano) == ((), None, None, {})
    assert proof.reconciles
    assert await ledger.request_cost("a") is None


@pytest.mark.parametrize(
    ("fields", "cost", "currency"),
    [
        ({}, None, None),
        ({"gpu_ns": 5, "nano": 50, "currency": "CNY"}, 50, "CNY"),
        ({"gpu_ns": 5, "nano": 0, "currency": "CNY"}, 0, "CNY"),  # a price of 0 is a price
        ({"gpu_ns": 5, "nano": 50, "currency": "CNY", "unpriced": True}, None, None),
    ],
)
async def test_request_cost(ledger: Ledger, fields: dict[str, Any], cost: int | None, currency: str | None) -> None:
    sidecar, usage = Sidecar(), Usage(input_tokens=3, output_tokens=0)
    ended = sidecar.end(record("a", T0, T0 + NS, usage=usage, tenant=None))
    await ledger.accept(sidecar.batch(T0, ended, sidecar.start("open", T0)))
    live = Live("a", UPSTREAM, "vllm", T0, **fields)
    closed = Closed(1, T0, T0 + NS, requests={"a": live}, settled=["a"])
    await ledger.settle(closed)
    found = await ledger.request_cost("a")
    assert found is not None
    assert (found.cost_nano, found.currency, found.gpu_ns) == (cost, currency, fields.get("gpu_ns", 0))
    assert (found.engine, found.model, found.tenant, found.outcome) == ("vllm", "llama", None, "ok")
    assert (found.input_tokens, found.input_cached_tokens, found.output_tokens) == (3, None, 0)
    assert (found.started_at_ns, found.ended_at_ns, found.settled) == (T0, T0 + NS, True)
    still = await ledger.request_cost("open")
    assert still is not None
    assert (still.outcome, still.ended_at_ns, still.settled, still.cost_nano) == (None, None, False, None)
