"""A ledger in, all that is wrong with it in words out. Only reads, also while an agent writes."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, LargeBinary, func, literal, or_, select, type_coerce, union_all
from sqlalchemy.exc import DBAPIError

from agent.core.cost.reports import SlotReconciliation
from agent.ledger.dialects import SQLITE
from agent.ledger.reconciling import reconcile
from agent.ledger.rollup import AMOUNTS, Eras, read_eras
from agent.ledger.schema import HEAD, KNOWN, Where, connect, newer, shown, version_of
from agent.ledger.settled import unpack
from agent.ledger.tables import (
    DAY,
    HOUR,
    MINUTE,
    accounts,
    entries,
    node_state,
    places,
    requests,
    settled_requests,
    tellers,
)

MOST = 20  # findings of one kind that are told one by one
NAMES = {MINUTE: "minutes", HOUR: "hours", DAY: "days"}
REPAIR = "`engineroom ledger repair` mends it"


def check(where: Where) -> list[str]:
    """What is wrong, each with what to do; nothing when all is well."""
    engine = connect(where, read_only=True)
    try:
        version = version_of(engine)
        if version != HEAD:
            return [_other_schema(where, version)]
        with engine.begin() as connection:
            damaged = list(_damage(connection))
            return damaged or list(_findings(connection))
    except DBAPIError as error:
        return [f"{shown(where)} cannot be read ({error.orig}); {REPAIR}, with what can still be read"]
    finally:
        engine.dispose()


def _other_schema(where: Where, version: str | None) -> str:
    if version is None:
        return f"{shown(where)} holds no ledger; is it the right place?"
    if version in KNOWN:
        return (
            f"{shown(where)} has schema {version}, this engineroom {HEAD}: start the agent once, which brings it there"
        )
    return newer(where, version)


def _damage(connection: Connection) -> Iterator[str]:
    if connection.dialect.name != SQLITE:
        return
    for row in connection.exec_driver_sql(f"PRAGMA quick_check({MOST})"):
        if row[0] != "ok":
            yield f"the file is damaged: {row[0]}; stop the agent, and {REPAIR} with what can still be read"


def _findings(connection: Connection) -> Iterator[str]:
    state = connection.execute(select(node_state)).one_or_none()
    if state is None:
        yield "it does not say how far it is booked (node_state is empty); restore it from a copy"
        return
    eras = read_eras(connection)
    for grain, start, places_wrong in disagreements(connection, eras):
        yield (
            f"the {NAMES[grain]} that begin at Unix minute {start} are not the sum of their minutes "
            f"({places_wrong} places differ); stop the agent, and {REPAIR}"
        )
    for slot in reconcile(connection, state.node).slots:
        yield from _slot(slot)
    yield from _orphans(connection)
    yield from _requests(connection)


def disagreements(connection: Connection, eras: Eras) -> Iterator[tuple[int, int, int]]:
    """(grain, start, number of places) of hours and days that are not the sum of what they are made of.

    Days are compared with minutes where those are kept, else with hours where those are.
    """
    state = connection.execute(select(node_state)).one()
    for grain, of in ((HOUR, eras.hour), (DAY, eras.day)):
        for source, kept_from in ((MINUTE, state.minutes_from), (HOUR, state.hours_from)):
            if source == grain:
                break
            until = state.rolled_minute or 0
            if source == HOUR:
                until = min(until, eras.day(state.minutes_from)[0])
            at = _first(connection, (source, grain), kept_from, until)
            while at is not None:
                start, end = of(at)
                if start >= kept_from and (differ := _differ(connection, grain, start, source, min(end, until))):
                    yield grain, start, differ
                at = _first(connection, (source, grain), end, until)


def _first(connection: Connection, grains: tuple[int, int], start: int, end: int) -> int | None:
    within = entries.c.grain.in_(grains) & (entries.c.minute >= start) & (entries.c.minute < end)
    found = connection.execute(select(func.min(entries.c.minute)).where(within)).scalar()
    return None if found is None else int(found)


def _differ(connection: Connection, grain: int, start: int, source: int, end: int) -> int:
    e = entries.c
    whole = select(e.place, *(e[name].label(name) for name in AMOUNTS)).where(e.grain == grain, e.minute == start)
    parts = select(e.place, *((-e[name]).label(name) for name in AMOUNTS))
    parts = parts.where(e.grain == source, e.minute >= start, e.minute < end)
    both = union_all(whole, parts).subquery()
    differs = or_(*(func.sum(both.c[name]) != 0 for name in AMOUNTS))
    wrong = select(both.c.place).group_by(both.c.place).having(differs).subquery()
    return int(connection.execute(select(func.count()).select_from(wrong)).scalar_one())


def _slot(slot: SlotReconciliation) -> Iterator[str]:
    if slot.reconciles:
        return
    about = f"GPU {slot.gpu} since {slot.from_ns}: "
    parts_ns, parts_nano = sum(slot.parts_ns.values()), sum(slot.parts_nano.values())
    if parts_ns != slot.wall_ns:
        yield f"{about}{parts_ns} ns are booked of {slot.wall_ns} ns of wall time; restore a copy, or report it"
    if slot.bill_nano is not None and parts_nano != slot.bill_nano:
        yield f"{about}{parts_nano} nano-units are booked of a bill of {slot.bill_nano}; restore a copy, or report it"
    if slot.energy_uj is not None and sum(slot.parts_uj.values()) != slot.energy_uj:
        yield (
            f"{about}{sum(slot.parts_uj.values())} microjoules are booked of {slot.energy_uj} by its meter; "
            "restore a copy, or report it"
        )


def _orphans(connection: Connection) -> Iterator[str]:
    known = select(places.c.id)
    questions: dict[str, Any] = {
        "entries are of a place that is not written down": select(func.count())
        .select_from(entries)
        .where(entries.c.place.not_in(known)),
        "settled requests are of a place that is not written down": select(func.count())
        .select_from(settled_requests)
        .where(settled_requests.c.place.not_in(known)),
        "places are of an account that does not exist": select(func.count())
        .select_from(
            places.outerjoin(accounts, (places.c.gpu == accounts.c.gpu) & (places.c.account_ns == accounts.c.from_ns))
        )
        .where(places.c.gpu != "", accounts.c.gpu.is_(None)),
        "requests are both open and settled": select(func.count())
        .select_from(requests)
        .where(requests.c.id.in_(select(settled_requests.c.id))),
    }
    for what, question in questions.items():
        count = connection.execute(question).scalar_one()
        if count:
            yield f"{count} {what}; restore a copy: their names are gone, their sums are not"


def _requests(connection: Connection) -> Iterator[str]:
    key, s = type_coerce(settled_requests.c.id, LargeBinary), settled_requests.c
    known = set(connection.execute(select(tellers.c.id)).scalars())
    wrong, after, more = 0, b"", True
    while more:
        rows = connection.execute(
            select(key, s.gpu_ns, s.figures).where(key > literal(after)).order_by(key).limit(5000)
        )
        more = False
        for found, gpu_ns, figures in rows:
            after, more = found, True
            try:
                wrong += unpack(found, gpu_ns, figures).teller not in known
            except ValueError:
                wrong += 1
    if wrong:
        yield f"{wrong} settled requests cannot be read; their sums are in the reports all the same"
