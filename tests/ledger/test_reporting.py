"""Questions to real tables: minutes booked by hand, and every sum known or found again by brute force."""

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from agent.core.cost.allocating import Owner
from agent.core.cost.calendar import HOUR_NS, Calendar
from agent.core.cost.closed import Amount
from agent.core.cost.filters import passes_all, tenant_term, waste_of
from agent.core.cost.prices import Part, PriceRow
from agent.core.cost.reports import Basis, Dimension, IdlePolicy, Report, ReportQuery, Term
from agent.ledger.pastdays import PastDays
from agent.ledger.reporting import report
from tests.support.booked import (
    M0,
    MINUTE_NS,
    NAMES,
    T0,
    Booked,
    Place,
    account,
    booked,
    forget,
    place,
    random_rows,
)
from tests.support.money import MODEL, NS
from tests.support.money import book as prices

OTHER_MODEL = "NVIDIA A100-SXM4-80GB"
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
POLICIES: tuple[IdlePolicy, ...] = get_args(IdlePolicy)
OWNERS = (Owner("zeta", gpus=("GPU-1",)), Owner("acme", model="m1"), Owner("100%", namespace="prod"))
SERVING = {"engine": "e1", "model": "llama"}
TWO_GPUS: Booked = (
    (M0, place("request", tenant="acme", outcome="ok", **SERVING), Amount(30 * NS, 300, 2, 20, 10)),
    (M0 + 1, place("request", tenant="zeta", outcome="error", **SERVING), Amount(10 * NS, 100, 1, 4, 0)),
    (M0 + 1, place("loaded_idle", **SERVING), Amount(20 * NS, 200)),
    (M0, place("unallocated", "GPU-1", reason="free"), Amount(60 * NS)),
)
ACCOUNTS = (account(prices=prices()), account("GPU-1", gpu_model=OTHER_MODEL))


def two_gpus(**more: Any) -> Any:
    """A priced GPU with an engine for two minutes, and one without a price."""
    return booked(TWO_GPUS, ACCOUNTS, through_ns=T0 + 2 * MINUTE_NS, **more)


def ask(connection: Connection, owners: Sequence[Owner] = (), **query: Any) -> Report:
    window = {"start_ns": T0, "end_ns": T0 + 2 * MINUTE_NS}
    return report(connection, ReportQuery(**{**window, **query}), "node-a", owners)


def by(found: Report, *names: str) -> dict[Any, tuple[int, int | None]]:
    """Group -> (GPU seconds, nano-units)."""
    return {
        tuple(row.group[name] for name in names) if len(names) > 1 else row.group[names[0]]: (
            row.gpu_ns // NS,
            row.cost_nano,
        )
        for row in found.rows
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
        ("waste", {"": (110, 500), "error": (10, 100)}),
        ("slot", {"GPU-0": (60, 600), "GPU-1": (60, None)}),
        ("reason", {"": (60, 600), "free": (60, None)}),
        ("namespace", {"": (120, 600)}),
    ],
)
@pytest.mark.parametrize("rolled", [None, M0 + 1, M0 + 2, M0 + 60])
def test_report_by_dimension(dimension: Dimension, groups: dict[str, Any], rolled: int | None) -> None:
    with two_gpus(rolled=rolled) as connection:
        found = ask(connection, aggregate=(dimension,))
    assert by(found, dimension) == groups
    assert (found.currency, found.total_gpu_ns, found.total_cost_nano) == ("CNY", 120 * NS, 600)
    assert {(row.start_ns, row.end_ns) for row in found.rows} == {(T0, T0 + 2 * MINUTE_NS)}
    assert [sum(getattr(r, name) for r in found.rows) for name in ("requests", "input_tokens", "output_tokens")] == [
        3,
        24,
        10,
    ]
    assert found.total_energy_uj is None
    assert any(OTHER_MODEL in note for note in found.notes)


@pytest.mark.parametrize(
    ("start", "end", "edges", "rows"),
    [  # seconds from T0; rows of (start, end, GPU seconds)
        (0, 120, (), [(0, 120, 120)]),
        (0, 120, (60,), [(0, 60, 90), (60, 120, 30)]),
        (0, 100, (60,), [(0, 60, 90), (60, 100, 30)]),  # the last row ends with the window
        (0, 60, (60,), [(0, 60, 90)]),  # the end is not part of it
        (60, 120, (), [(60, 120, 30)]),
        (1, 120, (61,), [(1, 61, 30)]),  # a minute belongs where it begins
        (-60, 120, (30, 120, -60, -90, 500), [(-60, 30, 90), (30, 120, 30)]),
        (-3600, 3600, (), [(-3600, 3600, 120)]),
        (-3600, 3600, (0, 10, 59), [(0, 10, 90), (59, 3600, 30)]),  # nothing begins in between
        (500, 900, (560,), []),
        (-900, -500, (), []),
        (100, 0, (), []),
        (0, 0, (), []),
    ],
)
@pytest.mark.parametrize("rolled", [None, M0 + 1, M0 + 2, M0 + 600])
def test_the_window_and_its_steps(
    start: int, end: int, edges: tuple[int, ...], rows: list[tuple[int, int, int]], rolled: int | None
) -> None:
    at = {"start_ns": T0 + start * NS, "end_ns": T0 + end * NS, "edges": tuple(T0 + edge * NS for edge in edges)}
    with two_gpus(rolled=rolled) as connection:
        found = ask(connection, aggregate=(), **at)
    assert [((r.start_ns - T0) // NS, (r.end_ns - T0) // NS, r.gpu_ns // NS) for r in found.rows] == rows
    assert found.total_gpu_ns == sum(row[2] for row in rows) * NS
    assert (found.start_ns, found.end_ns) == (at["start_ns"], max(at["start_ns"], at["end_ns"]))
    if not rows:
        assert found.total_cost_nano is None


def test_rows_are_in_order_of_time_and_group() -> None:
    with two_gpus() as connection:
        found = ask(connection, aggregate=("state", "tenant"), edges=(T0 + MINUTE_NS,))
    assert [((r.start_ns - T0) // MINUTE_NS, *r.group.values()) for r in found.rows] == [
        (0, "request", "acme"),
        (0, "unallocated", ""),
        (1, "loaded_idle", ""),
        (1, "request", "zeta"),
    ]


def test_what_was_taken_back_is_no_row() -> None:
    rows = [
        (M0, place("request", outcome="in_flight"), Amount(9, 90)),
        (M0, place("request", outcome="in_flight"), Amount(-9, -90)),
        (M0, place("request", outcome="ok"), Amount(9, 90, 1)),
    ]
    with booked(rows, [account(prices=prices())]) as connection:
        found = ask(connection, aggregate=("outcome",))
    assert [(row.group, row.gpu_ns, row.cost_nano, row.requests) for row in found.rows] == [
        ({"outcome": "ok"}, 9, 90, 1)
    ]


def test_a_correction_that_stands_alone_is_a_row_below_zero() -> None:
    rows = [(M0, place("request", tenant="acme"), Amount(-9, -90)), (M0, place("gap"), Amount(9, 90))]
    with booked(rows, [account(prices=prices())]) as connection:
        for policy in POLICIES:
            found = ask(connection, OWNERS, aggregate=("state",), basis="allocation", idle=policy)
            assert by(found, "state")["request"] == (-1, -90)  # -9 ns, rounded down to seconds
            assert (found.total_gpu_ns, found.total_cost_nano) == (0, 0)


def test_cached_tokens_work_and_energy_are_told_and_energy_only_where_there_is_a_meter() -> None:
    served = Amount(10, 5, 1, 100, 7, input_cached_tokens=60, work_ns=4, energy_uj=2000, metered_ns=8)
    rows = [
        (M0, place("request", tenant="acme", outcome="ok"), served),
        (M0, place("gap"), Amount(50, 50)),
        (M0, place("broken"), Amount(5, 5, metered_ns=5)),
    ]
    with booked(rows, [account(prices=prices())]) as connection:
        found = ask(connection, aggregate=("state",))
    told = {r.group["state"]: (r.input_cached_tokens, r.work_ns, r.energy_uj, r.metered_ns) for r in found.rows}
    assert told == {"request": (60, 4, 2000, 8), "gap": (0, 0, None, 0), "broken": (0, 0, 0, 5)}
    assert found.total_energy_uj == 2000


def test_another_currency_is_left_out_and_that_is_said() -> None:
    dollars = prices(PriceRow("*", (Part("rent", 1),)), currency="USD")  # type: ignore[arg-type]
    later = account(prices=dollars, from_ns=T0 + MINUTE_NS)
    rows = [
        (M0, place("gap"), Amount(MINUTE_NS, 111)),
        (M0 + 1, place("gap", account_ns=T0 + MINUTE_NS), Amount(MINUTE_NS, 222)),
    ]
    with booked(rows, [account(prices=prices()), later], through_ns=T0 + 2 * MINUTE_NS) as connection:
        found = ask(connection, edges=(T0 + MINUTE_NS,))
        by_gpu_model = ask(connection, aggregate=("gpu_model",))
        late = ask(connection, start_ns=T0 + 2 * MINUTE_NS, end_ns=T0 + 3 * MINUTE_NS)
    assert [(row.gpu_ns, row.cost_nano) for row in found.rows] == [(MINUTE_NS, None), (MINUTE_NS, 222)]
    assert (found.currency, found.total_gpu_ns, found.total_cost_nano) == ("USD", 2 * MINUTE_NS, 222)
    assert found.notes == ("The report is in USD: of what cost CNY the time is here, not the money.",)
    assert by(by_gpu_model, "gpu_model") == {MODEL: (120, 222)}
    assert late.rows == ()


def test_an_empty_ledger_knows_nothing_and_says_so() -> None:
    with booked() as connection:
        for basis in ("usage", "allocation"):
            found = ask(connection, start_ns=0, end_ns=2**62, basis=basis, edges=(5, T0))
            assert (found.rows, found.currency, found.total_gpu_ns, found.total_cost_nano) == ((), None, 0, None)
            assert (found.notes, found.total_energy_uj) == ((), None)


@pytest.mark.parametrize("basis", ["usage", "allocation"])
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_a_tenants_report_is_its_part_of_the_whole_and_of_nobody_elses(dimension: Dimension, basis: Basis) -> None:
    dice = random.Random(dimension)
    both: tuple[Dimension, ...] = ("tenant",) if dimension == "tenant" else (dimension, "tenant")
    more: dict[str, Any] = {"basis": basis, "edges": (T0 + MINUTE_NS,)}
    with booked(random_rows(dice, 60, 2), ACCOUNTS, through_ns=T0 + 2 * MINUTE_NS, rolled=M0 + 1) as connection:
        whole = ask(connection, OWNERS, aggregate=both, **more)
        for tenant in (*NAMES, "nobody", "' OR 1=1 --", "\ud800"):
            own = ask(connection, OWNERS, aggregate=(dimension,), tenant=tenant, **more)
            wanted = [row for row in whole.rows if row.group["tenant"] == tenant]
            assert [(r.start_ns, r.group[dimension], *_figures(r)) for r in own.rows] == [
                (r.start_ns, r.group[dimension], *_figures(r)) for r in wanted
            ]
            assert own.total_gpu_ns == sum(row.gpu_ns for row in wanted)


def _figures(row: Any) -> tuple[int | None, ...]:
    return (
        row.gpu_ns, row.cost_nano, row.requests, row.input_tokens, row.input_cached_tokens, row.output_tokens,
        row.work_ns, row.energy_uj, row.metered_ns,
    )  # fmt: skip


_terms = st.builds(
    Term,
    dimension=st.sampled_from(DIMENSIONS),
    op=st.sampled_from(get_args(Term.__annotations__["op"])),
    values=st.lists(
        st.sampled_from(
            (*NAMES, "A", "e", "%", "_", "request", "gap", "m1", "GPU-0", "GPU", "H100", "error", "node", "", "o")
        ),
        max_size=3,
    ).map(tuple),
)


def brute(rows: Booked, query: ReportQuery, start_ns: int, end_ns: int) -> dict[tuple[str, ...], Amount]:
    """Sums by group, from the minutes themselves. Money of the third GPU and of none has no price."""
    found: dict[tuple[str, ...], Amount] = {}
    terms = (*query.filter, *([tenant_term(query.tenant)] if query.tenant is not None else ()))
    for minute, where, amount in rows:
        names = named(where)
        if start_ns <= minute * MINUTE_NS < end_ns and passes_all(terms, names):
            total = found.setdefault(tuple(names[d] for d in query.aggregate), Amount())
            for name in Amount.__slots__:
                setattr(total, name, getattr(total, name) + getattr(amount, name))
    return found


def named(where: Place) -> dict[str, str]:
    names = {key: value for key, value in where._asdict().items() if isinstance(value, str)}
    names["group"] = names.pop("engine_group")
    model = {"GPU-0": MODEL, "GPU-1": OTHER_MODEL, "GPU-2": "unknown card"}.get(where.gpu, "")
    return {**names, "waste": waste_of(where.outcome), "node": "node-a", "gpu_model": model}


THREE = (
    account(prices=prices()),
    account("GPU-1", prices(), gpu_model=OTHER_MODEL),
    account("GPU-2", gpu_model="unknown card"),
)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_report_is_what_brute_force_finds(data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**32))
    dice = random.Random(seed)
    span = data.draw(st.sampled_from((5, 200, 3000, 6000)))
    rows = random_rows(dice, dice.randrange(1, 120), span)
    zone = data.draw(st.sampled_from(("UTC", "Asia/Kolkata", "America/New_York", "Australia/Lord_Howe")))
    rolled = M0 + data.draw(st.sampled_from((0, span // 2, span - 30, span, span + 100)))
    at = st.integers(-2000 * 60, (span + 2000) * 60).map(lambda second: T0 + second * NS)
    query = ReportQuery(
        start_ns=data.draw(at),
        end_ns=data.draw(at),
        aggregate=tuple(data.draw(st.lists(st.sampled_from(DIMENSIONS), unique=True, max_size=4))),
        edges=tuple(sorted(data.draw(st.lists(at, max_size=6)))),
        tenant=data.draw(st.sampled_from((None, None, *NAMES))),
        filter=tuple(data.draw(st.lists(_terms, max_size=2))),
    )
    with booked(rows, THREE, zones=((0, zone),), rolled=rolled) as connection:
        minutes_from = min(rolled, M0 + data.draw(st.sampled_from((-10, 61, span // 2))))
        hours_from = min(minutes_from, M0 + data.draw(st.sampled_from((-10, span // 4))))
        if data.draw(st.booleans()):
            forget(connection, minutes_from, hours_from)
        past = PastDays()
        if data.draw(st.booleans()):
            look = past.look()
            past.keep(look, past.fill(connection, data.draw(st.integers(0, 5))))
        if data.draw(st.booleans()):
            with past.changing(M0 + dice.randrange(span)):
                pass
        found = report(connection, query, "node-a", (), past)
    steps = sorted({(row.start_ns, row.end_ns) for row in found.rows})
    assert all(a[1] <= b[0] for a, b in pairwise(steps))
    if not found.notes or "kept" not in " ".join(found.notes):
        assert (found.start_ns, found.end_ns) == (query.start_ns, max(query.start_ns, query.end_ns))
    assert found.start_ns <= query.start_ns or found.end_ns == found.start_ns
    assert found.end_ns >= query.end_ns
    everything = brute(rows, query, found.start_ns, found.end_ns)
    assert found.total_gpu_ns == sum(amount.gpu_ns for amount in everything.values())
    assert (found.total_cost_nano or 0) == sum(amount.nano for amount in everything.values())
    assert (found.total_energy_uj or 0) == sum(amount.energy_uj for amount in everything.values())
    for start, end in steps:
        wanted = {key: a for key, a in brute(rows, query, start, end).items() if any(_sums(a))}
        got = {tuple(row.group.values()): row for row in found.rows if row.start_ns == start}
        assert got.keys() == wanted.keys()
        for key, row in got.items():
            figures = [value or 0 for value in _figures(row)]
            amount = wanted[key]
            assert figures == [
                amount.gpu_ns, amount.nano, amount.requests, amount.input_tokens, amount.input_cached_tokens,
                amount.output_tokens, amount.work_ns, amount.energy_uj, amount.metered_ns,
            ]  # fmt: skip


def _sums(amount: Amount) -> list[int]:
    return [getattr(amount, name) for name in Amount.__slots__]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.sampled_from(POLICIES), st.data())
def test_who_pays_for_idle_time_changes_no_sum(seed: int, count: int, policy: IdlePolicy, data: st.DataObject) -> None:
    dice = random.Random(seed)
    rows = random_rows(dice, count, 200)
    edges = (T0 + HOUR_NS,)
    aggregate = tuple(data.draw(st.lists(st.sampled_from(DIMENSIONS), unique=True, max_size=3)))
    more: dict[str, Any] = {"edges": edges, "end_ns": T0 + 4 * HOUR_NS}
    spread: dict[str, Any] = {**more, "basis": "allocation", "idle": policy}
    with booked(rows, THREE, rolled=M0 + 150) as connection:
        usage = ask(connection, OWNERS, aggregate=(), **more)
        found = ask(connection, OWNERS, aggregate=aggregate, **spread)
        finest = ask(connection, OWNERS, aggregate=DIMENSIONS, **spread)
        tenant = dice.choice(NAMES)
        filtered = ask(connection, OWNERS, aggregate=aggregate, tenant=tenant, **spread)
    for one in (found, finest):
        assert (one.total_gpu_ns, one.total_cost_nano or 0, one.total_energy_uj or 0) == (
            usage.total_gpu_ns,
            usage.total_cost_nano or 0,
            usage.total_energy_uj or 0,
        )
    for start in {row.start_ns for row in finest.rows} | {row.start_ns for row in usage.rows}:
        sums = [
            [sum(_figures(row)[place] or 0 for row in one.rows if row.start_ns == start) for place in range(9)]
            for one in (usage, found, finest)
        ]
        assert sums[0] == sums[1] == sums[2]
    # A coarse report is the sum of the finest one, and a tenant's is its part of that.
    for one, tenants in ((found, None), (filtered, tenant)):
        wanted: dict[tuple[Any, ...], list[int]] = {}
        for row in finest.rows:
            if tenants in (None, row.group["tenant"]):
                total = wanted.setdefault((row.start_ns, *(row.group[d] for d in aggregate)), [0] * 9)
                wanted[(row.start_ns, *(row.group[d] for d in aggregate))] = [
                    a + (b or 0) for a, b in zip(total, _figures(row), strict=True)
                ]
        assert {(r.start_ns, *r.group.values()): [f or 0 for f in _figures(r)] for r in one.rows} == {
            key: total for key, total in wanted.items() if any(total)
        }


def test_idle_time_is_paid_step_by_step() -> None:
    edges = {"edges": (T0 + MINUTE_NS,), "basis": "allocation", "aggregate": ("tenant", "state")}
    with two_gpus() as connection:
        # The only idle time of a model is in the second minute, when zeta alone used it.
        found = ask(connection, **edges)
        assert by(found, "tenant", "state") == {
            ("", "unallocated"): (60, None),
            ("acme", "request"): (30, 300),
            ("zeta", "request"): (30, 300),
        }
        whole = ask(connection, aggregate=("tenant", "state"), basis="allocation")
        assert by(whole, "tenant", "state")["acme", "request"] == (45, 450)
        owned = ask(connection, (Owner("zeta", gpus=("GPU-1",)),), idle="owner", **edges)
        assert by(owned, "tenant", "state")["zeta", "unallocated"] == (60, None)


@pytest.mark.parametrize(
    ("start", "end", "edges", "minutes_from", "hours_from", "wanted"),
    [  # in minutes from local midnight; steps that have rows
        (65, 185, (), 0, 0, [(65, 185)]),
        (65, 185, (), 180, 0, [(60, 185)]),  # the start moves to the hour, the end is among the minutes that are kept
        (65, 185, (), 240, 0, [(60, 240)]),
        (65, 185, (70, 130), 1440, 0, [(60, 120), (120, 180), (180, 240)]),
        (60, 180, (120,), 1440, 0, [(60, 120), (120, 180)]),  # nothing to move
        (65, 185, (100,), 2880, 1440, [(0, 1440)]),
        (1439, 1441, (1440,), 1440, 1440, [(0, 1440), (1440, 1441)]),
        (-600, 65, (), 2880, 1440, [(-600, 1440)]),  # nothing was booked before: nothing to move there
    ],
)
def test_where_minutes_or_hours_are_forgotten_the_window_grows_and_says_so(
    start: int, end: int, edges: tuple[int, ...], minutes_from: int, hours_from: int, wanted: list[tuple[int, int]]
) -> None:
    midnight = M0 + 16 * 60  # 2027-01-16 00:00 UTC
    rows = [(midnight + minute, place("gap"), Amount(minute + 1, 1)) for minute in range(2880)]
    query = ReportQuery(
        start_ns=(midnight + start) * MINUTE_NS,
        end_ns=(midnight + end) * MINUTE_NS,
        edges=tuple((midnight + edge) * MINUTE_NS for edge in edges),
    )
    with booked(rows, [account(prices=prices(), from_ns=T0)], rolled=midnight + 2880) as connection:
        forget(connection, midnight + minutes_from, midnight + hours_from)
        found = report(connection, query, "node-a")
    at = [((row.start_ns // MINUTE_NS) - midnight, (row.end_ns // MINUTE_NS) - midnight) for row in found.rows]
    assert at == wanted
    assert (found.start_ns, found.end_ns) == (found.rows[0].start_ns, found.rows[-1].end_ns)
    assert [row.gpu_ns for row in found.rows] == [sum(range(max(0, a) + 1, b + 1)) for a, b in at]
    moved = (start, *edges, end) != tuple(dict.fromkeys(bound for pair in wanted for bound in pair))
    assert bool(found.notes) is moved


def test_days_are_those_of_the_zone_they_were_booked_in() -> None:
    berlin, tokyo = Calendar("Europe/Berlin"), Calendar("Asia/Tokyo")
    change = M0 + 3 * 1440 + 17
    rows = [(M0 + 10 * hour, place("gap"), Amount(hour + 1)) for hour in range(6 * 144)]
    zones = ((0, "Europe/Berlin"), (change, "Asia/Tokyo"))
    with booked(rows, [account(prices=prices())], zones=zones, rolled=M0 + 8640) as connection:
        forget(connection, M0 + 8640, M0 + 8640)
        start, end = berlin.day_bounds(T0)[1], tokyo.day_bounds(T0 + 5 * 24 * HOUR_NS)[1]
        edges = (
            *berlin.edges(start, change * MINUTE_NS, "day"),
            change * MINUTE_NS,
            *tokyo.edges(change * MINUTE_NS, end, "day"),
        )
        found = report(connection, ReportQuery(start_ns=start, end_ns=end, edges=edges), "node-a")
    assert found.notes == ()
    assert [(row.start_ns, row.end_ns) for row in found.rows] == list(pairwise((start, *edges, end)))
    for row in found.rows:
        inside = range(row.start_ns // MINUTE_NS, row.end_ns // MINUTE_NS)
        assert row.gpu_ns == sum(amount.gpu_ns for minute, _, amount in rows if minute in inside)
