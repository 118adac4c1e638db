"""One request's id in; its price, and of what and how it was found, out."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from agent.core.cost.calendar import HOUR_NS, MINUTE_NS
from agent.core.cost.closed import IN_FLIGHT
from agent.core.cost.explain import Told, precision
from agent.core.cost.filters import waste_of
from agent.core.cost.reports import GpuPrice, RequestCost
from agent.ledger.bills import Bill, read_bills
from agent.ledger.ids import to_key
from agent.ledger.settled import unpack
from agent.ledger.tables import MINUTE, entries, node_state, places, requests, settled_requests

NS = 1_000_000_000


def request_cost(connection: Connection, request_id: str) -> RequestCost | None:
    """One request, or None when the ledger does not know it (any more)."""
    settled = connection.execute(select(settled_requests).where(settled_requests.c.id == request_id)).one_or_none()
    if settled is not None:
        return _settled(connection, settled)
    found = connection.execute(select(requests).where(requests.c.id == request_id)).one_or_none()
    return None if found is None else _open(connection, found)


def _settled(connection: Connection, row: Any) -> RequestCost:
    figures = unpack(to_key(row.id), row.gpu_ns, row.figures)
    place = connection.execute(select(places).where(places.c.id == row.place)).one()
    bill = _bill(connection, place.gpu, place.account_ns)
    priced = figures.priced and not figures.unpriced and bill is not None
    told = Told(
        started_ns=figures.started_ns,
        ended_ns=figures.ended_ns,
        outcome=place.outcome,
        seen_by=figures.seen_by,
        gpu_ns=row.gpu_ns,
        work_ns=figures.work_ns,
        seen_ns=figures.seen_ns,
        metered_ns=figures.metered_ns,
        is_priced=priced,
        input_tokens=figures.input_tokens,
        output_tokens=figures.output_tokens,
        input_estimate=figures.input_estimate,
        settled=True,
    )
    return RequestCost(
        id=row.id,
        engine=place.engine,
        model=place.model or None,
        tenant=place.tenant or None,
        outcome=place.outcome,
        started_at_ns=figures.started_ns,
        ended_at_ns=figures.ended_ns,
        gpu_ns=row.gpu_ns,
        cost_nano=row.nano if priced else None,
        currency=bill.account.currency if priced and bill is not None else None,
        settled=True,
        input_tokens=figures.input_tokens,
        input_cached_tokens=figures.input_cached_tokens,
        output_tokens=figures.output_tokens,
        work_ns=figures.work_ns,
        energy_uj=figures.energy_uj if figures.metered_ns else None,
        seen_by=figures.seen_by,
        waste=waste_of(place.outcome),
        attempt=figures.attempt,
        max_output_tokens=figures.max_output_tokens,
        gpu_model=bill.account.gpu_model if bill is not None else "",
        slots=_slots(connection, place, figures.started_ns, figures.ended_ns),
        price=_price(bill, figures.ended_ns),
        precision=precision(told),
    )


def _open(connection: Connection, row: Any) -> RequestCost:
    priced = row.currency is not None and not row.unpriced
    told = Told(
        started_ns=row.started_ns,
        ended_ns=row.ended_ns,
        outcome=row.outcome,
        seen_by=row.seen_by,
        gpu_ns=row.gpu_ns,
        work_ns=row.work_ns,
        seen_ns=row.seen_ns,
        metered_ns=row.metered_ns,
        is_priced=priced,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        input_estimate=row.input_estimate,
        settled=False,
    )
    place = _running_place(connection, row) if row.gpu_ns else None
    bill = None if place is None else _bill(connection, place.gpu, place.account_ns)
    return RequestCost(
        id=row.id,
        engine=row.engine,
        model=row.model,
        tenant=row.tenant,
        outcome=row.outcome,
        started_at_ns=row.started_ns,
        ended_at_ns=row.ended_ns,
        gpu_ns=row.gpu_ns,
        cost_nano=row.nano if priced else None,
        currency=row.currency if priced else None,
        settled=False,
        input_tokens=row.input_tokens,
        input_cached_tokens=row.input_cached_tokens,
        output_tokens=row.output_tokens,
        work_ns=row.work_ns,
        energy_uj=row.energy_uj if row.metered_ns else None,
        seen_by=row.seen_by,
        waste=waste_of(row.outcome or ""),
        attempt=row.attempt,
        max_output_tokens=row.max_output_tokens,
        gpu_model=bill.account.gpu_model if bill is not None else "",
        slots=() if place is None else _slots(connection, place, row.started_ns, row.ended_ns),
        price=_price(bill, row.ended_ns if row.ended_ns is not None else _through(connection)),
        precision=precision(told),
    )


def _through(connection: Connection) -> int:
    return int(connection.execute(select(node_state.c.through_ns)).scalar() or 0)


def _bill(connection: Connection, gpu: str, account_ns: int) -> Bill | None:
    if not gpu:
        return None
    return next((bill for bill in read_bills(connection, gpu) if bill.key == (gpu, account_ns)), None)


def _minutes(start_ns: int, end_ns: int) -> Any:
    """Rows of the minutes that an interval touches."""
    first, last = start_ns // MINUTE_NS, max(start_ns, end_ns - 1) // MINUTE_NS
    return (entries.c.grain == MINUTE) & (entries.c.minute >= first) & (entries.c.minute <= last)


def _running_place(connection: Connection, row: Any) -> Any:
    """A place under which an open request is booked: that of its engine's running requests like it."""
    p = places.c
    like = (p.state == "request") & (p.engine == row.engine) & (p.outcome == IN_FLIGHT)
    like &= (p.model == (row.model or "")) & (p.tenant == (row.tenant or ""))
    within = _minutes(row.started_ns, max(_through(connection), row.started_ns + 1))
    found = select(places).select_from(entries.join(places, p.id == entries.c.place)).where(within, like)
    return connection.execute(found.order_by(entries.c.minute.desc(), p.slot).limit(1)).one_or_none()


def _slots(connection: Connection, place: Any, start_ns: int, end_ns: int | None) -> tuple[str, ...]:
    """Slots on which requests of the same names were booked while it ran; of older ones the last slot only."""
    p = places.c
    like = (p.state == "request") & (p.slot != "")
    for name in ("engine", "model", "tenant", "outcome"):
        like &= p[name] == getattr(place, name)
    within = _minutes(start_ns, end_ns if end_ns is not None else max(_through(connection), start_ns + 1))
    found = select(p.slot).select_from(entries.join(places, p.id == entries.c.place)).where(within, like)
    found = found.where(entries.c.gpu_ns != 0).distinct().order_by(p.slot)
    slots = tuple(connection.execute(found).scalars())
    return slots or ((place.slot,) if place.slot else ())


def _price(bill: Bill | None, at_ns: int) -> GpuPrice | None:
    """The price of a GPU hour that an account had at an instant; its parts are the price book's to say."""
    if bill is None or bill.account.line is None or bill.account.currency is None:
        return None
    segments = bill.account.line.segments
    since, rate = segments[0]
    for start, price in segments:
        if start < at_ns:
            since, rate = start, price
    return GpuPrice(
        gpu_model=bill.account.gpu_model,
        currency=bill.account.currency,
        nano_per_hour=round(rate * HOUR_NS),
        effective_from=datetime.fromtimestamp(since // NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
