"""Whatever is booked of requests while they run, and whenever their ends are told: sums stay, outcomes are right."""

import random
from dataclasses import astuple, dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.cost.closed import IN_FLIGHT, Amount, Closed
from agent.core.cost.in_flight import KEPT_NS, InFlight
from agent.core.cost.live import Booking, Live, Parts
from tests.support.money import NS

T0 = 1_800_000_000 * NS
MINUTE = 60 * NS


@dataclass
class Desk:
    """Books requests one by one, as a tick books them all at once."""

    closed: Closed = field(default_factory=lambda: Closed(1, T0, T0 + NS))
    in_flight: InFlight = field(default_factory=InFlight)

    def book(self, request: Live, where: Booking, parts: Parts) -> None:
        outcome = request.outcome or IN_FLIGHT
        place = where._replace(model=request.model, tenant=request.tenant, outcome=outcome)
        self.closed.book(place, *parts)
        request.last_booking = place
        request.gpu_ns += parts.gpu_ns
        if request.outcome is None:
            amounts = [np.array([part], dtype=np.int64) for part in parts]
            self.in_flight.add(where, self.in_flight.rows([request]), amounts)

    def finish(self, *requests: Live) -> None:
        self.in_flight.move(self.closed, requests)
        for request in requests:
            self.closed.finish(request)


def where(gpu: str = "GPU-0", at: int = T0) -> Booking:
    return Booking(at, gpu, T0, "request", "vllm", "", "", IN_FLIGHT, gpu, "process", "", "ns", "pod")


def some_parts(dice: random.Random) -> Parts:
    return Parts(*(dice.randrange(1, 100) for _ in Parts._fields))


@settings(max_examples=200)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_whenever_ends_are_told_the_sums_are_the_same(seed: int, count: int) -> None:
    """Told late, in any order, some after hours; some change their engine on the way: as if known from the start."""
    dice = random.Random(seed)
    late, known = Desk(), Desk()
    requests = [Live(f"r{i}", "u", "vllm", T0, model=dice.choice("mn"), tenant=dice.choice("st")) for i in range(count)]
    twins = {r.id: Live(r.id, "u", "vllm", T0, model=r.model, tenant=r.tenant, outcome="ok") for r in requests}
    for live in requests:
        twins[live.id].outcome = dice.choice(("ok", "timeout"))
    running = list(requests)
    at = T0
    while running:
        at += dice.choice((0, MINUTE, 2 * KEPT_NS))
        for live in running:
            for gpu in ("GPU-0", "GPU-1"):
                parts = some_parts(dice)
                late.book(live, where(gpu, at), parts)
                known.book(twins[live.id], where(gpu, at), parts)
        if dice.random() < 0.2:
            late.in_flight.spill(dice.choice(running))
        late.in_flight.forget_before(at)
        over = [live for live in running if dice.random() < 0.4]
        for live in over:
            live.outcome, live.ended_ns = twins[live.id].outcome, at
        late.finish(*over)
        known.finish(*(twins[live.id] for live in over))
        running = [live for live in running if live not in over]
    booked = {b: a for b, a in late.closed.entries.items() if a != Amount()}
    assert booked == {b: a for b, a in known.closed.entries.items() if a != Amount()}
    assert not any(booking.outcome == IN_FLIGHT for booking in booked)
    assert all(live.provisional == {} and live.row == -1 for live in requests)
    assert sorted(late.closed.settled) == sorted(twins)


def test_what_was_booked_hours_ago_is_with_the_request() -> None:
    desk, live = Desk(), Live("r", "u", "vllm", T0, model="m", tenant="t")
    desk.book(live, where(), Parts(1, 2, 3, 4, 5))
    desk.in_flight.forget_before(T0 + KEPT_NS)
    assert live.provisional == {}
    desk.in_flight.forget_before(T0 + KEPT_NS + 1)
    place = where()._replace(model="m", tenant="t")
    assert live.provisional == {place: Parts(1, 2, 3, 4, 5)}
    live.outcome, live.ended_ns = "ok", T0 + MINUTE
    desk.closed = Closed(2, T0, T0)
    desk.finish(live)
    assert {b: astuple(a)[:2] for b, a in desk.closed.entries.items()} == {
        place: (-1, -2),
        place._replace(outcome="ok"): (1, 2),
    }


def test_rows_are_used_again() -> None:
    desk = Desk()
    stays = Live("stays", "u", "vllm", T0)
    desk.book(stays, where(), Parts(1, 1))
    for number in range(300):
        live = Live(f"r{number}", "u", "vllm", T0, tenant=f"t{number % 3}")
        desk.book(live, where(), Parts(2, 3))
        assert live.row == 1
        live.outcome = "ok"
        desk.finish(live)
    assert stays.row == 0
    stays.outcome = "ok"
    desk.finish(stays)
    booked = {b: astuple(a)[:3] for b, a in desk.closed.entries.items() if b.outcome == "ok"}
    assert booked == {
        where()._replace(tenant="", outcome="ok"): (1, 1, 1),
        **{where()._replace(tenant=f"t{i}", outcome="ok"): (200, 300, 100) for i in range(3)},
    }
