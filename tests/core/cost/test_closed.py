import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.closed import IN_FLIGHT, Amount, Closed
from agent.core.cost.live import Booking, Live, Parts
from agent.core.requests import Usage
from tests.support.money import NS

T0 = 1_800_000_000 * NS
MINUTE = 60 * NS


def step(number: int = 1) -> Closed:
    return Closed(number, T0, T0 + NS)


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


def test_what_a_request_carries_along_moves_to_its_outcome_when_it_ends() -> None:
    request, closed = live(), step()
    request.provisional = {
        place(IN_FLIGHT): Parts(7, 70, 3, 5, 7),
        place(IN_FLIGHT, "GPU-1", T0 + MINUTE): Parts(1, 10),
    }
    request.last_booking = place(IN_FLIGHT, "GPU-1", T0 + MINUTE)
    request.outcome, request.ended_ns = "client_abort", T0 + MINUTE + NS
    request.usage = Usage(input_tokens=3, input_cached_tokens=4, output_tokens=9)
    closed.finish(request)
    assert closed.entries == {
        place(IN_FLIGHT): Amount(gpu_ns=-7, nano=-70, work_ns=-3, energy_uj=-5, metered_ns=-7),
        place("client_abort"): Amount(gpu_ns=7, nano=70, work_ns=3, energy_uj=5, metered_ns=7),
        place(IN_FLIGHT, "GPU-1", T0 + MINUTE): Amount(-1, -10),
        # Counted where it was booked last.
        place("client_abort", "GPU-1", T0 + MINUTE): Amount(1, 10, 1, 7, 9, input_cached_tokens=4),
    }
    assert request.provisional == {}
    assert (closed.requests, closed.settled) == ({"r": request}, ["r"])


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
