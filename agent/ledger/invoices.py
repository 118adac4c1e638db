"""Days of an invoice in, rows of the ledger out, beside a running agent; and what is there, for comparing."""

import hashlib
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

from msgspec import Struct
from sqlalchemy import Connection, Engine, insert, select
from sqlalchemy.exc import DatabaseError, InterfaceError, InternalError, OperationalError

from agent.core.cost.invoices import BilledDay
from agent.core.ports import ConfigError, TryLater
from agent.ledger.schema import HEAD, KEY, KNOWN, LOCK_SECONDS, Where, connect, newer, shown, version_of
from agent.ledger.tables import invoices


class Import(Struct, frozen=True, kw_only=True):
    """What an import did: rows added, days that were there already with the same amount, and those that differ."""

    added: int
    same: int
    corrected: int
    nano: dict[str, int]  # currency -> sum of what was added


class Differs(Exception):
    """The same invoice was imported before with other amounts. `days` of them, an example of each side."""

    def __init__(self, days: int, first: BilledDay, before_nano: int) -> None:
        super().__init__(f"{days} days differ")
        self.days = days
        self.first = first
        self.before_nano = before_nano


Key = tuple[str, str, str, str]  # source, day, sku, currency


def import_days(
    where: Where,
    days: Sequence[BilledDay],
    time_zone: str,
    now_ns: int,
    *,
    corrects: bool = False,
    lock_seconds: float = LOCK_SECONDS,
) -> Import:
    """Add an invoice to the ledger in one short transaction; the agent may be running.

    What is there already stays. With `corrects` the days given are the whole truth about their sources: differences,
    also of days that are not there any more, become rows of kind `correction`. Raises `Differs` where that is needed,
    `ConfigError` for what is no ledger of this version, `TryLater` while another process keeps it locked.
    """
    if isinstance(where, Path) and not where.is_file():
        raise ConfigError(
            KEY,
            f"there is no ledger at {where}; name the folder of `engineroom run` with --data-dir, and start it once",
        )
    # A writing connection to PostgreSQL is the agent's alone; an import needs no more than a lock on its own table.
    beside = isinstance(where, str)
    engine = connect(where, lock_seconds=lock_seconds, read_only=beside)
    try:
        _require_version(engine, where)
        with engine.begin() as connection:  # SQLite: takes the write lock at once, waiting for it
            if beside:
                connection.exec_driver_sql("SET TRANSACTION READ WRITE")
                connection.exec_driver_sql("LOCK TABLE invoices IN SHARE ROW EXCLUSIVE MODE")
            return _import(connection, days, time_zone, now_ns, corrects=corrects)
    except (OperationalError, InternalError, InterfaceError) as error:
        raise TryLater(
            f"the ledger {shown(where)} cannot be written ({error.orig}); nothing was imported: another process keeps "
            "it, or its disk is full or read-only; try again after that"
        ) from error
    except DatabaseError as error:
        raise ConfigError(KEY, f"{shown(where)} cannot be used as a ledger ({error.orig})") from error
    finally:
        engine.dispose()


def _require_version(engine: Engine, where: Where) -> None:
    version = version_of(engine)
    if version == HEAD:
        return
    if version is None:
        raise ConfigError(KEY, f"{shown(where)} is no ledger yet; start `engineroom run` once, which makes it")
    if version in KNOWN:
        raise ConfigError(
            KEY, f"{shown(where)} is of schema {version}; restart `engineroom run`, which brings it to {HEAD}"
        )
    raise ConfigError(KEY, newer(where, version))


def _import(
    connection: Connection, days: Sequence[BilledDay], time_zone: str, now_ns: int, *, corrects: bool
) -> Import:
    before = _stored(connection, {day.source for day in days})
    asked: dict[Key, list[BilledDay]] = {}
    for day in days:
        asked.setdefault(_key(day), []).append(day)
    new = [day for key, those in asked.items() if key not in before for day in those]
    differing = [
        (those[0], sum(day.nano for day in those) - before[key][0])
        for key, those in asked.items()
        if key in before and sum(day.nano for day in those) != before[key][0]
    ]
    same = len(asked) - len({_key(day) for day in new}) - len(differing)
    if corrects:
        # A day that the invoice does not have any more: nothing is asked for it.
        differing += [
            (BilledDay(source=key[0], day=key[1], sku=key[2], currency=key[3], nano=0), -nano)
            for key, (nano, _) in sorted(before.items())
            if key not in asked and nano
        ]
    elif differing:
        first, more = differing[0]
        raise Differs(len(differing), first, sum(day.nano for day in asked[_key(first)]) - more)
    corrections = [
        BilledDay(
            source=day.source,
            day=day.day,
            sku=day.sku,
            currency=day.currency,
            nano=more,
            kind="correction",
            line=day.line,
        )
        for day, more in differing
    ]
    rows = [_values(day, 0, time_zone, now_ns) for day in new]
    rows += [_values(day, before[_key(day)][1], time_zone, now_ns) for day in corrections]
    if rows:
        connection.execute(insert(invoices), rows)
    sums: dict[str, int] = {}
    for day in (*new, *corrections):
        sums[day.currency] = sums.get(day.currency, 0) + day.nano
    return Import(added=len(new), same=same, corrected=len(corrections), nano=sums)


def _key(day: BilledDay) -> Key:
    return day.source, day.day, day.sku, day.currency


def _stored(connection: Connection, sources: Iterable[str]) -> dict[Key, tuple[int, int]]:
    """Of these sources: the sum of each day, SKU and currency, and how many rows it has."""
    found: dict[Key, tuple[int, int]] = {}
    columns = (invoices.c.source, invoices.c.day, invoices.c.sku, invoices.c.currency, invoices.c.nano)
    for source in sorted(sources):
        for *key, nano in connection.execute(select(*columns).where(invoices.c.source == source)):
            at = (str(key[0]), str(key[1]), str(key[2]), str(key[3]))
            total, count = found.get(at, (0, 0))
            found[at] = (total + int(nano), count + 1)
    return found


def _values(day: BilledDay, place: int, time_zone: str, now_ns: int) -> dict[str, object]:
    """The row. `place`: rows that this day already has, so that a second correction is not the first one again."""
    name = "\0".join((*_key(day), day.kind, str(place)))
    return {
        "id": hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32],
        "source": day.source,
        "line": day.line,
        "day": day.day,
        "time_zone": time_zone,
        "sku": day.sku,
        "currency": day.currency,
        "nano": day.nano,
        "quantity": None if day.quantity is None else str(day.quantity),
        "unit": day.unit,
        "kind": day.kind,
        "imported_ns": now_ns,
    }


def read_days(connection: Connection, first_day: str, last_day: str) -> list[BilledDay]:
    """What invoices ask for the local days `first_day` to `last_day` (2026-01-31), both included."""
    rows = select(invoices).where(invoices.c.day >= first_day, invoices.c.day <= last_day)
    return [
        BilledDay(
            source=row.source,
            day=row.day,
            sku=row.sku,
            currency=row.currency,
            nano=int(row.nano),
            kind="correction" if row.kind else "",
            line=int(row.line),
            quantity=None if row.quantity is None else Fraction(row.quantity),
            unit=row.unit,
        )
        for row in connection.execute(rows.order_by(invoices.c.day, invoices.c.sku, invoices.c.id))
    ]
