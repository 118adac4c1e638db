"""The tariff on random histories: parts are the time and the bill, whatever happened and however it was told."""

import random
from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.cost.closed import IN_FLIGHT, Closed
from agent.core.cost.live import Live
from agent.core.cost.prices import PriceBook
from agent.core.cost.tariff import Tariff
from agent.core.cost.work import Constants
from agent.core.gpu_readings import GpuSnapshot
from agent.core.readings import EngineSnapshot
from agent.core.requests import Usage
from tests.support.money import NS, UPSTREAM, book, engine, expected_bill, gpus

T0 = 1_800_000_000 * NS
ENGINES = ("a", "b")
STATES = ("starting", "ready", "not_ready", "down", "unknown_format")


@dataclass(frozen=True)
class History:
    """Everything that can be told about a stretch of time, in seconds from T0 in milliseconds' precision."""

    sights: list[tuple[int, GpuSnapshot | EngineSnapshot]]
    requests: list[tuple[str, str, int, int | None, int, str]]  # id, engine, start, end, tokens, outcome
    cuts: list[int]
    end: int


@st.composite
def histories(draw: st.DrawFn) -> History:
    seconds = draw(st.integers(2, 12))
    dice = random.Random(draw(st.integers(0, 2**32)))  # many small choices: cheaper than drawing each
    length = seconds * NS + dice.choice((0, 1, dice.randrange(NS)))
    sights: list[tuple[int, GpuSnapshot | EngineSnapshot]] = [(T0, gpus(T0, 1))]
    at = T0
    while (at := at + dice.choice((NS, NS, NS, dice.randrange(1, 6 * NS)))) < T0 + length:
        pids = dice.choice(((), (7,), (8,), (7, 8)))
        driver = dice.choice(("ok",) * 12 + ("no_driver", "hung", "restarting"))
        state = dice.choice(("ok",) * 8 + ("lost", "error"))
        seen = gpus(at, dice.choice((0, 1, 2, 3, 3, 3)), pids, state=state)
        sights.append((at, GpuSnapshot(read_at_ns=at, driver=driver, gpus=seen.gpus if driver == "ok" else ())))
    tokens = dict.fromkeys(ENGINES, 0.0)
    for name in ENGINES:
        at = T0
        while (at := at + dice.choice((NS, dice.randrange(1, 4 * NS)))) < T0 + length:
            tokens[name] = 0.0 if dice.random() < 0.1 else tokens[name] + dice.randrange(200)
            owns = dice.choice((("GPU-0",), ("GPU-0", "1"), ("GPU-2",), ()))
            state = dice.choice((*STATES, "ready", "ready", "ready"))
            running = dice.choice((None, 0.0, 2.0))
            output = dice.choice((None, tokens[name], tokens[name]))
            pid = {"a": 7, "b": 8}[name]
            sight = engine(at, name=name, state=state, pids=(pid,), owns=owns, output=output, running=running)
            sights.append((at, sight))
    requests = []
    for number in range(dice.randrange(12)):
        start = T0 - NS + dice.randrange(length + NS)
        end = None if dice.random() < 0.2 else start + dice.choice((0, 1, dice.randrange(3 * NS)))
        outcome = dice.choice(("ok", "error", "rejected"))
        requests.append((f"r{number}", dice.choice((*ENGINES, "nowhere")), start, end, dice.randrange(100), outcome))
    cuts = sorted(T0 + dice.randrange(length) for _ in range(dice.randrange(5)))
    return History(sorted(sights, key=lambda sight: sight[0]), requests, cuts, T0 + length)


def tell(history: History, prices: PriceBook | None, cuts: list[int], order: random.Random) -> list[Closed]:
    """All events, then the closing; requests are told in the order that `order` gives."""
    tariff = Tariff(prices)
    for at, sight in history.sights:
        if isinstance(sight, GpuSnapshot):
            tariff.see_gpus(at, sight)
        else:
            tariff.see_engine(at, sight)
    shuffled = list(history.requests)
    order.shuffle(shuffled)
    for id_, name, start, end, tokens, outcome in shuffled:
        live = Live(id_, UPSTREAM, name, start, model="llama", tenant="acme")
        if end is not None:
            live.ended_ns, live.outcome, live.usage = end, outcome, Usage(output_tokens=tokens)
        tariff.add(live)
    found = [closed for until in [*cuts, history.end] if (closed := tariff.close(until)) is not None]
    assert tariff.through_ns == history.end
    return found


def sums(steps: list[Closed]) -> tuple[dict[tuple[str, int], list[int]], dict[tuple[str, int], int]]:
    """(gpu, account) -> [ns, nano] and -> closed up to."""
    slots: dict[tuple[str, int], list[int]] = {}
    through: dict[tuple[str, int], int] = {}
    for closed in steps:
        for booking, amount in closed.entries.items():
            total = slots.setdefault((booking.gpu, booking.account_ns), [0, 0])
            total[0] += amount.gpu_ns
            total[1] += amount.nano
        through |= closed.accounts_through
    return slots, through


@settings(max_examples=300, deadline=None)
@given(histories())
def test_the_parts_of_every_slot_are_its_time_and_its_bill(history: History) -> None:
    steps = tell(history, book(), history.cuts, random.Random(1))
    slots, through = sums(steps)
    for (gpu, from_ns), to_ns in through.items():
        ns, nano = slots.get((gpu, from_ns), (0, 0))
        assert ns == to_ns - from_ns
        assert nano == expected_bill(from_ns, to_ns)
    entries = [(b, a) for closed in steps for b, a in closed.entries.items()]
    per_request = {r.id: r for closed in steps for r in closed.requests.values()}
    booked = [(a.gpu_ns, a.nano) for b, a in entries if b.state == "request"]
    assert sum(ns for ns, _ in booked) == sum(r.gpu_ns for r in per_request.values())
    assert sum(nano for _, nano in booked) == sum(r.nano for r in per_request.values())
    final: dict[object, int] = {}
    for b, a in entries:
        final[b] = final.get(b, 0) + a.gpu_ns
    assert all(ns >= 0 for ns in final.values())
    settled = [id_ for closed in steps for id_ in closed.settled]
    assert sorted(settled) == sorted(r[0] for r in history.requests if r[3] is not None and r[3] <= history.end)
    assert sum(a.requests for _, a in entries) == len(settled)


@settings(max_examples=150, deadline=None)
@given(histories(), st.integers())
def test_the_order_in_which_requests_are_told_does_not_matter(history: History, seed: int) -> None:
    def amounts(order: random.Random) -> dict[object, tuple[int, ...]]:
        steps = tell(history, book(), history.cuts, order)
        return {
            (i, b): (a.gpu_ns, a.nano, a.requests) for i, closed in enumerate(steps) for b, a in closed.entries.items()
        }

    assert amounts(random.Random(seed)) == amounts(random.Random(0))


@settings(max_examples=50, deadline=None)
@given(histories())
def test_without_a_price_time_is_exact_and_money_unknown(history: History) -> None:
    steps = tell(history, None, history.cuts, random.Random(1))
    slots, through = sums(steps)
    for key, to_ns in through.items():
        assert slots.get(key, [0, 0]) == [to_ns - key[1], 0]
    for closed in steps:
        assert all(account.currency is None for account in closed.changed_accounts)
        assert all(request.cost_nano is None for request in closed.requests.values())


def states(tariff: Tariff, until: int) -> dict[str, int]:
    closed = tariff.close(until)
    assert closed is not None
    found: dict[str, int] = {}
    for booking, amount in closed.entries.items():
        found[booking.state] = found.get(booking.state, 0) + amount.gpu_ns
    return {state: ns for state, ns in found.items() if ns}


def watched(seconds: int, *, pids: tuple[int, ...] = (7,), count: int = 1, **fields: object) -> Tariff:
    tariff = Tariff(book())
    for second in range(seconds + 1):
        tariff.see_gpus(T0 + second * NS, gpus(T0 + second * NS, count, pids, **fields))
    return tariff


@pytest.mark.parametrize(
    ("pids", "fields", "state"),
    [
        ((), {}, "unallocated"),
        ((7,), {}, "other_workload"),
        ((7,), {"state": "lost"}, "broken"),
        ((7,), {"state": "hung"}, "broken"),
        ((7,), {"state": "reset_required"}, "broken"),
        ((7,), {"state": "error"}, "gap"),
        ((), {"processes": None, "memory_used_bytes": 2**30}, "other_workload"),
        ((), {"processes": None, "utilization_ratio": 1.0}, "unallocated"),  # alone it says nothing
        ((), {"processes": None}, "unallocated"),
    ],
)
def test_states_without_an_engine(pids: tuple[int, ...], fields: dict[str, object], state: str) -> None:
    assert states(watched(10, pids=pids, **fields), T0 + 10 * NS) == {state: 10 * NS}


@pytest.mark.parametrize(
    ("engine_state", "owns", "engine_pids", "gpu_pids", "state"),
    [
        ("ready", ("GPU-0",), (), (), "loaded_idle"),
        ("ready", ("0",), (), (), "loaded_idle"),
        ("ready", (), (7,), (7, 9), "loaded_idle"),
        ("ready", (), (8,), (7,), "other_workload"),
        ("ready", ("GPU-9",), (7,), (7,), "other_workload"),  # the configuration says which GPU it is
        ("unknown_format", ("GPU-0",), (), (), "loaded_idle"),
        ("starting", ("GPU-0",), (), (), "warmup"),
        ("not_ready", ("GPU-0",), (), (), "warmup"),
        ("down", ("GPU-0",), (), (7,), "warmup"),  # loads its model, the port is not open yet
        ("down", ("GPU-0",), (), (), "unallocated"),
        ("down", (), (), (7,), "other_workload"),
    ],
)
def test_states_with_an_engine(
    engine_state: str, owns: tuple[str, ...], engine_pids: tuple[int, ...], gpu_pids: tuple[int, ...], state: str
) -> None:
    tariff = watched(10, pids=gpu_pids)
    tariff.see_engine(T0 + NS, engine(T0 + NS, state=engine_state, owns=owns, pids=engine_pids))
    assert states(tariff, T0 + 10 * NS) == {state: 10 * NS}


def test_what_nobody_watched_is_a_gap() -> None:
    tariff = Tariff(book(), hold_ns=3 * NS)
    tariff.see_gpus(T0, gpus(T0))
    tariff.see_gpus(T0 + 10 * NS, gpus(T0 + 10 * NS))
    assert states(tariff, T0 + 12 * NS) == {"unallocated": 5 * NS, "gap": 7 * NS}


def test_a_gpu_that_fell_off_is_broken() -> None:
    tariff = watched(3, count=2, pids=())
    tariff.see_gpus(T0 + 4 * NS, gpus(T0 + 4 * NS, 1))
    assert states(tariff, T0 + 6 * NS) == {"unallocated": 10 * NS, "broken": 2 * NS}


def test_active_time_is_shared_by_time_in_flight() -> None:
    tariff = watched(10)
    tariff.see_engine(T0, engine(T0))
    alone = Live("a", UPSTREAM, "vllm", T0 + 2 * NS, ended_ns=T0 + 4 * NS, outcome="ok")
    beside = Live("b", UPSTREAM, "vllm", T0 + 3 * NS, ended_ns=T0 + 4 * NS, outcome="ok")
    refused = Live("c", UPSTREAM, "vllm", T0 + 3 * NS, ended_ns=T0 + 4 * NS, outcome="rejected")
    for live in (alone, beside, refused):
        tariff.add(live)
    assert states(tariff, T0 + 10 * NS) == {"request": 2 * NS, "loaded_idle": 8 * NS}
    assert (alone.gpu_ns, beside.gpu_ns, refused.gpu_ns) == (3 * NS // 2, NS // 2, 0)


def test_a_group_of_gpus_works_for_each_request() -> None:
    tariff = watched(4, count=4)
    tariff.see_engine(T0, engine(T0, owns=("0", "1", "2", "3")))
    live = Live("a", UPSTREAM, "vllm", T0, ended_ns=T0 + NS // 2, outcome="ok")
    tariff.add(live)
    assert states(tariff, T0 + 4 * NS) == {"request": 2 * NS, "loaded_idle": 14 * NS}
    assert live.gpu_ns == 4 * NS // 2
    assert abs(live.nano - Fraction(expected_bill(0, 2 * NS))) <= 4


def test_two_engines_share_a_gpu() -> None:
    tariff = watched(4)
    for name in ENGINES:
        tariff.see_engine(T0, engine(T0, name=name, state="ready" if name == "a" else "starting"))
    live = Live("r", UPSTREAM, "a", T0, ended_ns=T0 + NS, outcome="ok")
    tariff.add(live)
    assert states(tariff, T0 + 4 * NS) == {"request": NS, "loaded_idle": 3 * NS // 2, "warmup": 3 * NS // 2}


def test_a_request_gets_its_outcome_when_it_ends() -> None:
    tariff = watched(10)
    tariff.see_engine(T0, engine(T0))
    live = Live("a", UPSTREAM, "vllm", T0)
    tariff.add(live)
    first = tariff.close(T0 + 2 * NS)
    assert first is not None
    assert {b.outcome for b in first.entries if b.state == "request"} == {IN_FLIGHT}
    live.ended_ns, live.outcome = T0 + 3 * NS, "client_abort"
    second = tariff.close(T0 + 10 * NS)
    assert second is not None
    moved = {b.outcome: a.gpu_ns for b, a in second.entries.items() if b.state == "request"}
    assert moved == {IN_FLIGHT: -2 * NS, "client_abort": 3 * NS}
    assert second.settled == ["a"]


def test_a_price_that_begins_later_begins_a_new_account() -> None:
    from agent.core.cost.prices import Part, PriceRow

    begins = T0 + 5 * NS
    tariff = Tariff(book(PriceRow("*", (Part("rent", Fraction(3600)),), begins)))
    for second in range(11):
        tariff.see_gpus(T0 + second * NS, gpus(T0 + second * NS))
    slots, through = sums([c for c in [tariff.close(T0 + 10 * NS)] if c])
    assert slots == {("GPU-0", T0): [5 * NS, 0], ("GPU-0", begins): [5 * NS, 5 * NS]}
    assert through == {("GPU-0", T0): begins, ("GPU-0", begins): T0 + 10 * NS}


def test_an_engine_that_is_no_target_any_more_owns_nothing() -> None:
    tariff = Tariff(book())
    for second in range(11):
        at = T0 + second * NS
        tariff.see_gpus(at, gpus(at, 1, (7,)))
        if second < 5:
            tariff.see_engine(at, engine(at))
        elif second == 5:
            tariff.timeline.forget_engine(at, "vllm")
    assert states(tariff, T0 + 10 * NS) == {"loaded_idle": 5 * NS, "other_workload": 5 * NS}


def test_long_quiet_stretches_end_at_quarters_of_an_hour() -> None:
    """Nobody's hour or day begins within one; each is booked under the minute in which it starts."""
    minute, quarter = 60 * NS, 15 * 60 * NS
    begin = T0 - T0 % quarter + 7 * minute + 13 * NS
    tariff = Tariff(book())
    tariff.see_gpus(begin, gpus(begin))
    closed = tariff.close(begin + 3 * 3600 * NS + 5 * minute)
    assert closed is not None
    found = sorted((b.bucket_ns - begin, b.state, a.gpu_ns) for b, a in closed.entries.items() if a.gpu_ns)
    assert sum(ns for _, _, ns in found) == 3 * 3600 * NS + 5 * minute
    starts = sorted({start + begin for start, _, _ in found})
    assert all(start % minute == 0 for start in starts)
    for state_start, _, ns in found:
        start = max(begin, state_start + begin)
        assert start // quarter == (start + ns - 1) // quarter
    assert len(found) <= 20


def test_a_quiet_stretch_of_seconds_is_cut_at_the_minute() -> None:
    begin = T0 - T0 % (60 * NS) + 58 * NS
    tariff = Tariff(book())
    tariff.see_gpus(begin, gpus(begin))
    for second in range(1, 6):
        tariff.see_gpus(begin + second * NS, gpus(begin + second * NS))
    closed = tariff.close(begin + 5 * NS)
    assert closed is not None
    assert sorted((b.bucket_ns - begin, a.gpu_ns) for b, a in closed.entries.items()) == [
        (-58 * NS, 2 * NS),
        (2 * NS, 3 * NS),
    ]


def test_energy_goes_with_the_time_and_to_the_requests() -> None:
    tariff = Tariff(book())
    for second in range(6):
        at = T0 + second * NS
        joules = {"energy_joules": 1000.0 + 400 * second, "energy_source": "counter"} if second < 4 else {}
        tariff.see_gpus(at, gpus(at, 1, (7,), **joules))
    tariff.see_engine(T0, engine(T0))
    live = Live("r", UPSTREAM, "vllm", T0, ended_ns=T0 + NS // 2, outcome="ok")
    tariff.add(live)
    closed = tariff.close(T0 + 5 * NS)
    assert closed is not None
    assert closed.energy == {("GPU-0", T0): 1200 * 10**6}
    assert (live.energy_uj, live.metered_ns) == (200 * 10**6, NS // 2)
    assert {b.state: (a.energy_uj, a.metered_ns) for b, a in closed.entries.items()} == {
        "request": (200 * 10**6, NS // 2),
        "loaded_idle": (1000 * 10**6, 5 * NS // 2),
    }
    assert closed.meters["GPU-0"].total_uj == 2200 * 10**6


def test_own_work_is_charged_first_where_the_shape_is_known() -> None:
    """Both are in flight all the time; one reads a long prompt."""
    usages = {"long": Usage(input_tokens=6000, output_tokens=1), "short": Usage(input_tokens=100, output_tokens=1)}
    for constants, expected in ((Constants(100_000.0, 0.0), (795, 205)), (None, (500, 500))):
        tariff = Tariff(book(), constants_of=lambda _engine, _model, found=constants: found)
        for second in range(3):
            tariff.see_gpus(T0 + second * NS, gpus(T0 + second * NS, 1, (7,)))
        tariff.see_engine(T0, engine(T0))
        lives = [Live(id_, UPSTREAM, "vllm", T0, ended_ns=T0 + NS, outcome="ok") for id_ in usages]
        for live in lives:
            live.usage, live.first_token_ns = usages[live.id], T0 + NS
            tariff.add(live)
        closed = tariff.close(T0 + 2 * NS)
        assert closed is not None
        assert tuple(live.gpu_ns // 10**6 for live in lives) == expected
        assert [live.work_ns for live in lives] == ([600_000_000, 10_000_000] if constants else [0, 0])
        booked = next(a for b, a in closed.entries.items() if b.state == "request")
        assert booked.work_ns == sum(live.work_ns for live in lives)


def test_a_request_of_more_than_a_day_stays_exact_and_small() -> None:
    """It streams for 26 hours; the agent hears of it every second of the first and last minutes, else every minute."""
    tariff = watched(1)
    tariff.see_engine(T0, engine(T0))
    live = Live("r", UPSTREAM, "vllm", T0)
    tariff.add(live)
    end, booked, through = T0 + 26 * 3600 * NS, {}, T0
    for step in (*range(1, 200), *range(260, 26 * 3600, 900), 26 * 3600):
        at = T0 + step * NS
        tariff.see_gpus(at, gpus(at, 1, (7,)))
        live.points.append((at, step))
        if at >= end:
            live.ended_ns, live.outcome = end, "ok"
        while through < at:
            closed = tariff.close(at)
            assert closed is not None
            through = closed.through_ns
            for booking, amount in closed.entries.items():
                key = booking.state, booking.outcome
                booked[key] = booked.get(key, 0) + amount.gpu_ns
    assert booked["request", IN_FLIGHT] == 0
    assert booked["request", "ok"] == live.gpu_ns
    assert sum(booked.values()) == end - T0
    assert len(live.points) < 250
