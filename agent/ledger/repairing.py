"""A ledger that no agent has open in; mended as far as can be; what was done comes out. Nothing is invented."""

from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, Engine, Table, delete, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from agent.ledger.checking import disagreements
from agent.ledger.dialects import SQLITE, insert
from agent.ledger.rollup import add_sums, read_eras
from agent.ledger.schema import HEAD, Where, connect, migrate, shown, version_of
from agent.ledger.tables import HOUR, MINUTE, entries, metadata, node_state, places, settled_requests

_ROWS = 1000


def repair(where: Where) -> Iterator[str]:
    """Mend it; what was done, step by step. `check` tells what is left."""
    if isinstance(where, Path) and _is_damaged(where):
        yield from _recover(where)
        if not where.exists():
            return
    engine = connect(where)
    try:
        with engine.begin() as connection:
            if _is_of_today(connection):
                yield from _rebuild(connection)
                yield from _reindex(connection)
    finally:
        engine.dispose()


def _is_of_today(connection: Connection) -> bool:
    """Only what is of today's schema is mended: the agent brings it there."""
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == HEAD


def _is_damaged(path: Path) -> bool:
    engine = connect(path, read_only=True)
    try:
        if version_of(engine) != HEAD:
            return False
        with engine.begin() as connection:
            return [row[0] for row in connection.exec_driver_sql("PRAGMA quick_check(1)")] != ["ok"]
    except DBAPIError:
        return True
    finally:
        engine.dispose()


def _recover(path: Path) -> Iterator[str]:
    """The damaged file is moved aside, never written to; what can be read of it goes into a new one."""
    aside = _aside(path)
    yield f"moved {path} to {aside}: it is damaged"
    source = connect(aside, read_only=True)
    target = connect(path)
    try:
        migrate(target, path)
        read = 0
        with target.begin() as connection:
            for table in metadata.sorted_tables:
                count, whole = _copy(source, connection, table)
                read += count
                if not whole:
                    yield f"{table.name}: {count} rows could be read, and not all of them are there"
        with target.begin() as connection:
            is_ledger = connection.execute(select(node_state.c.id)).first() is not None
    finally:
        source.dispose()
        target.dispose()
    if is_ledger:
        yield f"{read} rows were read from it into {path}"
        return
    for file in _files(path):
        file.unlink(missing_ok=True)
    yield f"nothing of it says how far it was booked: the agent begins a new ledger; restore a copy to {path} instead"


def _aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    for old, new in zip(_files(path), _files(aside), strict=True):
        if old.exists():
            old.rename(new)
    return aside


def _files(path: Path) -> tuple[Path, ...]:
    return tuple(path.with_name(path.name + end) for end in ("", "-wal", "-shm"))


def _copy(source: Engine, target: Connection, table: Table) -> tuple[int, bool]:
    """Rows from the first on, and from the last one back, up to what cannot be read."""
    count = 0
    for backwards in (False, True):
        try:
            with source.begin() as connection:
                keys = [key.desc() if backwards else key.asc() for key in table.primary_key.columns]
                rows = connection.execution_options(yield_per=_ROWS).execute(select(table).order_by(*keys))
                for row in rows.mappings():
                    found = _store(target, table, dict(row))
                    count += found
                    if backwards and not found:
                        return count, False
            return count, not backwards
        except (DBAPIError, ValueError):  # the place that is damaged
            continue
    return count, False


def _store(target: Connection, table: Table, row: dict[str, object]) -> bool:
    try:
        return bool(target.execute(insert(target, table).on_conflict_do_nothing(), [row]).rowcount)
    except IntegrityError:  # a value that its column cannot have: damaged, too
        return False


def _rebuild(connection: Connection) -> Iterator[str]:
    """Hours and days anew from minutes, or days from hours, where they are not their sum and those are kept whole."""
    eras = read_eras(connection)
    state = connection.execute(select(node_state)).one()
    for grain, start, _ in list(disagreements(connection, eras)):
        of = eras.hour if grain == HOUR else eras.day
        source = MINUTE if start >= state.minutes_from else HOUR
        end = min(of(start)[1], state.rolled_minute)
        connection.execute(delete(entries).where(entries.c.grain == grain, entries.c.minute == start))
        add_sums(connection, grain, source, [(start, start, end)])
        name, made_of = ("hour" if grain == HOUR else "day"), ("minutes" if source == MINUTE else "hours")
        yield f"made the {name} that begins at Unix minute {start} anew from its {made_of}"


def _reindex(connection: Connection) -> Iterator[str]:
    if connection.dialect.name == SQLITE:
        connection.exec_driver_sql("REINDEX")
        yield "made its indexes anew"


def vacuum(where: Where) -> Iterator[str]:
    """Take away places that nothing refers to any more, and give room back to the disk."""
    engine = connect(where)
    try:
        with engine.begin() as connection:
            used = select(entries.c.place).union(select(settled_requests.c.place))
            count = connection.execute(delete(places).where(places.c.id.not_in(used))).rowcount
        yield f"took away {count} places that nothing refers to"
        before = _size(where)
        _vacuum(engine)
        after = _size(where)
        yield f"{shown(where)}: " + (f"{before:,} bytes before, {after:,} now" if before else "vacuumed")
    finally:
        engine.dispose()


def _vacuum(engine: Engine) -> None:
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        if connection.dialect.name == SQLITE:
            driver.execute("VACUUM")
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return
        driver.autocommit = True  # VACUUM runs in no transaction
        for table in metadata.sorted_tables:
            driver.execute(f"VACUUM ANALYZE {table.name}")
        driver.autocommit = False


def _size(where: Where) -> int:
    return sum(file.stat().st_size for file in _files(where) if file.exists()) if isinstance(where, Path) else 0
