from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.accounts import Account, open_account
from agent.core.cost.closed import IN_FLIGHT, Amount, Closed
from agent.core.cost.live import Booking, Live
from agent.core.requests import Usage
from tests.support.money import MODEL, NS, book

T0 = 1_800_000_000 * NS
MINUTE = 60 * NS


def step(number: int = 1) -> Closed:
    return Closed(number, T0, T0 + NS)


def account(gpu: str = "GPU-0", *, priced: bool = True) -> Account:
    return open_account(book() if priced else None, gpu, MODEL, T0)


SLOT = ("MIG-a", "process", "10.0.0.1:29500")


def live(**fields: object) -> Live:
    return Live("r", "u", "vllm", T0, model="llama", tenant="acme", **fields)  # type: ignore[arg-type]


def place(outcome: str, gpu: str = "GPU-0", at: int = T0) -> Booking:
    return Booking(at, gpu, T0, "request", "vllm", "llama", "acme", outcome, *SLOT)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(-99, 99), st.integers(-99, 99)), max_size=20))
def test_bookings_of_one_entry_add_up(booked: list[tuple[str, int, int]]) -> None:
    closed = step()
    for gpu, ns, nano in booked:
        closed.book(place("ok", gpu), ns, nano)
    assert {b.gpu: (a.gpu_ns, a.nano) for b, a in closed.entries.items()} == {
        gpu: (sum(b[1] for b in booked if b[0] == gpu), sum(b[2] for b in booked if b[0] == gpu))
        for gpu in {b[0] for b in booked}
    }


def test_a_request_that_runs_is_booked_as_in_flight_and_moves_when_it_ends() -> None:
    request, first, second = live(), step(1), step(2)
    first.book_request(request, account(), T0, SLOT, 5, 50)
    first.book_request(request, account(), T0, SLOT, 2, 20)
    first.book_request(request, account("GPU-1"), T0 + MINUTE, SLOT, 1, 10)
    assert {b: astuple(a)[:2] for b, a in first.entries.items()} == {
        place(IN_FLIGHT): (7, 70),
        place(IN_FLIGHT, "GPU-1", T0 + MINUTE): (1, 10),
    }
    assert (first.requests, first.settled) == ({"r": request}, [])
    request.outcome, request.ended_ns = "client_abort", T0 + MINUTE + NS
    request.usage = Usage(input_tokens=3, input_cached_tokens=4, output_tokens=9)
    second.book_request(request, account(), T0 + MINUTE, SLOT, 100, 1000)
    second.finish(request)
    assert second.entries == {
        place("client_abort", at=T0 + MINUTE): Amount(100, 1000, 1, 7, 9),  # counted where it was booked last
        place(IN_FLIGHT): Amount(-7, -70),
        place("client_abort"): Amount(7, 70),
        place(IN_FLIGHT, "GPU-1", T0 + MINUTE): Amount(-1, -10),
        place("client_abort", "GPU-1", T0 + MINUTE): Amount(1, 10),
    }
    assert (request.gpu_ns, request.nano, request.provisional) == (108, 1080, {})
    assert (second.requests, second.settled) == ({"r": request}, ["r"])


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ab"), st.integers(0, 99), st.integers(0, 99)), max_size=12),
    st.integers(0, 12),
)
def test_whenever_its_end_is_known_the_sums_are_the_same(booked: list[tuple[int, str, int, int]], known: int) -> None:
    request, closed = live(), step()
    for number, (minute, gpu, ns, nano) in enumerate(booked):
        if number == known:
            request.outcome = "ok"
        closed.book_request(request, account(gpu), T0 + minute * MINUTE, SLOT, ns, nano)
    request.outcome, request.ended_ns = "ok", T0 + 4 * MINUTE
    closed.finish(request)
    told_at_once, at_once = step(), live(outcome="ok", ended_ns=T0 + 4 * MINUTE)
    for minute, gpu, ns, nano in booked:
        told_at_once.book_request(at_once, account(gpu), T0 + minute * MINUTE, SLOT, ns, nano)
    told_at_once.finish(at_once)
    assert {b: a for b, a in closed.entries.items() if b.outcome == "ok"} == told_at_once.entries
    assert all(astuple(a) == (0, 0, 0, 0, 0) for b, a in closed.entries.items() if b.outcome == IN_FLIGHT)
    assert (request.gpu_ns, request.nano) == (at_once.gpu_ns, at_once.nano)


@pytest.mark.parametrize(
    ("priced", "cost"), [((True,), 10), ((False,), None), ((True, False), None), ((True, True), 20), ((), None)]
)
def test_a_cost_is_known_when_every_gpu_has_a_price(priced: tuple[bool, ...], cost: int | None) -> None:
    request, closed = live(outcome="ok"), step()
    for number, has_price in enumerate(priced):
        closed.book_request(request, account(f"GPU-{number}", priced=has_price), T0, SLOT, 1, 10 if has_price else 0)
    assert request.cost_nano == cost


@pytest.mark.parametrize(
    ("outcome", "ended_ns", "bucket", "booked_as"),
    [("rejected", T0 + 61 * NS, T0 + MINUTE, "rejected"), ("ok", None, T0, "ok"), (None, T0 + NS, T0, "error")],
)
def test_a_request_without_gpu_time_is_counted_at_its_end(
    outcome: str | None, ended_ns: int | None, bucket: int, booked_as: str
) -> None:
    closed = step()
    closed.finish(live(outcome=outcome, ended_ns=ended_ns, usage=Usage(output_tokens=2)))
    where = Booking(bucket, "", 0, "request", "vllm", "llama", "acme", booked_as)
    assert closed.entries == {where: Amount(0, 0, 1, 0, 2)}
