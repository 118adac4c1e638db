"""What spans take out of unattributed time is never more than is there, and the sums stay, to the last unit."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.closed import Amount, Closed
from agent.core.cost.live import Booking, Live
from agent.core.cost.reassign import book, is_due, is_open_to, minutes_of, reassign
from agent.core.cost.work import Constants
from agent.core.requests import Usage
from tests.support.money import NS

T0 = 1_800_000_000 * NS
MINUTE = 60 * NS
QUANTITIES = ("gpu_ns", "nano", "work_ns", "energy_uj", "metered_ns")
USAGE = Usage(input_tokens=100, output_tokens=50)


def nobody_knows(_engine: str, _model: str) -> Constants | None:
    return None


def span(name: str = "s", start: float = 0, end: float = 10, engine: str = "vllm", **fields: object) -> Live:
    found = Live(name, "u", engine, T0 + int(start * NS), model="m", tenant=f"of {name}", seen_by="span", usage=USAGE)
    found.ended_ns, found.outcome = T0 + int(end * NS), "ok"
    for field, value in fields.items():
        setattr(found, field, value)
    return found


def place(minute: int = 0, gpu: str = "GPU-0", **fields: object) -> Booking:
    found = Booking(T0 + minute * MINUTE, gpu, T0, "unattributed", "vllm", "m", "", "", gpu, "process", "", "ns", "pod")
    return found._replace(**fields)  # type: ignore[arg-type]


def amount(seconds: float, nano: int = 0, **fields: int) -> Amount:
    return Amount(gpu_ns=int(seconds * NS), nano=nano or int(seconds * 1000), **fields)


def test_one_span_gets_what_was_booked_past_the_sidecar() -> None:
    booked = {place(): amount(8, energy_uj=500, metered_ns=8 * NS), place(gpu="GPU-1"): amount(8)}
    closed, request = Closed(1, T0, T0), span()
    found = book(closed, [request], booked, nobody_knows, {("GPU-0", T0): "CNY", ("GPU-1", T0): "CNY"})
    assert found.unpriced == {}
    assert (request.gpu_ns, request.cost_nano, request.energy_uj) == (16 * NS, 16_000, 500)
    mine = place()._replace(state="request", tenant="of s", outcome="ok")
    assert closed.entries[mine].gpu_ns == 8 * NS
    assert closed.entries[place()].gpu_ns == -8 * NS
    assert closed.settled == ["s"]
    assert sum(a.requests for a in closed.entries.values()) == 1
    assert (mine.namespace, mine.pod) == ("ns", "pod")


def test_a_span_does_not_take_more_than_it_was_in_flight() -> None:
    found = reassign([span(start=0, end=2)], {place(): amount(8)}, nobody_knows)
    assert found.moves[place()].gpu_ns == -2 * NS
    assert found.moves[place()].nano == -2000


def test_spans_share_by_time_or_by_work_first() -> None:
    spans = [span("long", 0, 30), span("short", 0, 10, usage=Usage(input_tokens=9000, output_tokens=50))]
    by_time = reassign(spans, {place(): amount(8, work_ns=4 * NS)}, nobody_knows)
    assert {id_: sum(p.gpu_ns for p in parts.values()) for id_, parts in by_time.parts.items()} == {
        "long": 6 * NS,
        "short": 2 * NS,
    }
    assert all(not part.work_ns for parts in by_time.parts.values() for part in parts.values())
    by_work = reassign(spans, {place(): amount(8, work_ns=4 * NS)}, lambda _e, _m: Constants(1e6, 0.0))
    ns = {id_: sum(p.gpu_ns for p in parts.values()) for id_, parts in by_work.parts.items()}
    assert sum(ns.values()) == 8 * NS
    assert ns["short"] > ns["long"]
    assert sum(part.work_ns for parts in by_work.parts.values() for part in parts.values()) == 4 * NS


@pytest.mark.parametrize(
    ("spans", "booked", "reasons"),
    [
        ([span()], {}, {"s": "not_booked"}),
        ([span()], {place(engine="other"): amount(5)}, {"s": "not_booked"}),
        ([span()], {place(1): amount(5)}, {"s": "not_booked"}),
        ([span()], {place(reason="group_worker"): amount(5)}, {"s": "not_booked"}),
        ([span()], {place(state="loaded_idle"): amount(5)}, {"s": "not_booked"}),
        ([span()], {place(): Amount()}, {"s": "not_booked"}),
        ([span(end=0)], {place(): amount(5)}, {"s": "no_time"}),
        ([span(outcome="rejected")], {place(): amount(5)}, {"s": "no_time"}),
        # One nanosecond for two of equal length: it cannot be divided.
        ([span("a"), span("b")], {place(): Amount(gpu_ns=1, nano=1)}, {"b": "all_taken"}),
    ],
)
def test_what_is_not_found_is_not_priced_for_a_reason(
    spans: list[Live], booked: dict[Booking, Amount], reasons: dict[str, str]
) -> None:
    closed = Closed(1, T0, T0)
    assert book(closed, spans, booked, nobody_knows, {}).unpriced == reasons
    assert sorted(closed.settled) == sorted(span.id for span in spans)
    for one in spans:  # the same values serve every case of the table
        if one.id in reasons:
            assert (one.gpu_ns, one.cost_nano) == (0, None)


def test_it_waits_until_all_of_its_time_is_closed() -> None:
    assert not is_due(span(end=10), T0 + 9 * NS)
    assert is_due(span(end=10), T0 + 10 * NS)
    assert not is_due(span(ended_ns=None), T0 + 99 * NS)
    assert list(minutes_of(span(start=59, end=120))) == [T0, T0 + MINUTE]
    assert list(minutes_of(span(start=59, end=120.5))) == [T0, T0 + MINUTE, T0 + 2 * MINUTE]


def test_what_the_step_itself_books_is_there_too() -> None:
    closed = Closed(1, T0, T0)
    closed.book(place(), 3 * NS, 30)
    closed.book(place(gpu="GPU-1"), 4 * NS, 40)
    request = span(start=0, end=9)
    book(closed, [request], {place(): amount(2, nano=20)}, nobody_knows, {("GPU-0", T0): "CNY"})
    assert (request.gpu_ns, request.nano, request.unpriced) == (9 * NS, 90, True)  # GPU-1 has no price
    assert closed.entries[place()].gpu_ns == -2 * NS  # with the 2 s of before: nothing is left


@given(st.integers(0, 2**32), st.booleans())
def test_the_sums_stay(seed: int, knows: bool) -> None:
    dice = random.Random(seed)
    booked: dict[Booking, Amount] = {}
    for minute in range(3):
        for gpu in ("GPU-0", "GPU-1"):
            for pod in dice.sample(("a", "b", "c"), dice.randrange(3)):
                ns = dice.choice((0, 1, dice.randrange(60 * NS)))
                metered = dice.randrange(ns + 1)
                more = {"work_ns": dice.randrange(ns + 1), "energy_uj": dice.randrange(10**9) if metered else 0}
                found = Amount(gpu_ns=ns, nano=dice.randrange(10**9), metered_ns=metered, **more)
                booked[place(minute, gpu, pod=pod, engine=dice.choice(("vllm", "other")))] = found
    spans = []
    for number in range(dice.randrange(6)):
        start = dice.random() * 150
        length = dice.choice((0, dice.random(), dice.random() * 90))
        spans.append(span(f"s{number}", start, start + length, dice.choice(("vllm", "other", "unknown"))))
    closed = Closed(1, T0, T0)
    constants = Constants(1e6, 1e4) if knows else None
    found_ = book(closed, spans, booked, lambda _e, _m: constants, {("GPU-0", T0): "CNY", ("GPU-1", T0): "CNY"})
    sums: Counter[str] = Counter()
    for booking, parts in closed.entries.items():
        for name in QUANTITIES:
            sums[name] += getattr(parts, name)
            left = getattr(booked.get(booking, Amount()), name) + getattr(parts, name)
            assert left >= 0
            if booking.state == "request":
                assert parts.work_ns <= parts.gpu_ns
                assert parts.metered_ns <= parts.gpu_ns
        assert booking.state == "request" or is_open_to(booking, booking.engine)
    assert not any(sums.values())
    for name in QUANTITIES:
        mine = sum(getattr(a, name) for b, a in closed.entries.items() if b.state == "request")
        assert mine == sum(getattr(one, name) for one in spans)
    for one in spans:
        length = (one.ended_ns or 0) - one.started_ns
        assert (one.gpu_ns == 0) == (one.id in found_.unpriced)
        assert one.gpu_ns == 0 or length > 0
    assert len(closed.settled) == len(spans)
