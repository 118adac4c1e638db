"""Open requests and what is booked as in flight in, which of it is whose out: after a restart they go on with it.

A request's row says how much it was booked, not under which minutes and GPUs: that would be written anew for every
request in every second. The sums by model and tenant are known, though, from both sides; so minutes are dealt out in
order of time to requests in order of their start. Sums are exact, and so is every request's own cost; which minute of
them is whose may be another than before the restart.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, select

from agent.core.cost.calendar import MINUTE_NS
from agent.core.cost.closed import IN_FLIGHT
from agent.core.cost.live import Booking, Live, Parts
from agent.ledger.places import COLUMNS
from agent.ledger.tables import MINUTE, entries, places

Booked = list[tuple[Booking, list[int]]]  # what is left of it, in the order of `Parts`


def give_back(connection: Connection, lives: Iterable[Live]) -> None:
    """Fill `provisional` and `last_booking` of requests that were booked before."""
    waiting: dict[tuple[str, str], list[Live]] = {}
    for live in lives:
        if live.gpu_ns or live.nano:
            waiting.setdefault((live.model, live.tenant), []).append(live)
    if not waiting:
        return
    booked = _booked(connection, min(live.started_ns for group in waiting.values() for live in group))
    for key, group in waiting.items():
        left = booked.get(key, [])
        for live in sorted(group, key=lambda one: (one.started_ns, one.id)):
            _deal(live, left)
            if live.last_booking is None:
                live.last_booking = _last_booking(connection, live)


def _last_booking(connection: Connection, live: Live) -> Booking | None:
    """Where its time was booked, for one whose end was known by then: it was never in flight in the books."""
    p = places.c
    question = (
        select(entries.c.minute, *(p[name] for name in COLUMNS))
        .join_from(entries, places, entries.c.place == p.id)
        .where(
            entries.c.grain == MINUTE,
            entries.c.minute >= live.started_ns // MINUTE_NS,
            entries.c.minute <= (live.ended_ns or live.started_ns) // MINUTE_NS,
            p.state == "request",
            p.gpu != "",
            p.engine == live.engine,
            p.model == live.model,
            p.tenant == live.tenant,
            p.outcome == live.outcome,
        )
        .order_by(entries.c.minute.desc(), p.id)
        .limit(1)
    )
    row = connection.execute(question).one_or_none()
    return None if row is None else Booking(row[0] * MINUTE_NS, *row[1:])


def _booked(connection: Connection, since_ns: int) -> dict[tuple[str, str], Booked]:
    amounts = [entries.c[name] for name in Parts._fields]
    names = [places.c[name] for name in COLUMNS]
    question = (
        select(entries.c.minute, *names, *amounts)
        .join_from(entries, places, entries.c.place == places.c.id)
        .where(
            entries.c.grain == MINUTE,
            entries.c.minute >= since_ns // MINUTE_NS - 15,  # a long quiet stretch is booked where it begins
            places.c.outcome == IN_FLIGHT,
        )
        .order_by(entries.c.minute, places.c.id)
    )
    found: dict[tuple[str, str], Booked] = {}
    for minute, *row in connection.execute(question):
        booking = Booking(minute * MINUTE_NS, *row[: len(COLUMNS)])
        parts = [int(part) for part in row[len(COLUMNS) :]]
        if any(parts):
            found.setdefault((booking.model, booking.tenant), []).append((booking, parts))
    return found


def _deal(live: Live, booked: Sequence[tuple[Booking, list[int]]]) -> None:
    wanted = [live.gpu_ns, live.nano, live.work_ns, live.energy_uj, live.metered_ns]
    for booking, left in booked:
        taken = [min(want, have) for want, have in zip(wanted, left, strict=True)]
        if not any(taken):
            continue
        for number, part in enumerate(taken):
            wanted[number] -= part
            left[number] -= part
        live.provisional[booking] = Parts(*taken)
        live.last_booking = booking
