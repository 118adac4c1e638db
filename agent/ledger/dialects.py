"""All that differs between SQLite and PostgreSQL in what the ledger says to them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Connection, Executable, LargeBinary, Table, bindparam, func
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect

SQLITE, POSTGRESQL = "sqlite", "postgresql"
Insert = sqlite.Insert | postgresql.Insert

# Statements for many rows are compiled with positional parameters, so that a row is a tuple.
_POSITIONAL: dict[str, Callable[[], Dialect]] = {
    SQLITE: lambda: sqlite.dialect(paramstyle="qmark"),
    POSTGRESQL: lambda: postgresql.psycopg.dialect(paramstyle="format"),  # type: ignore[no-untyped-call]
}


def insert(where: Connection | str, table: Table) -> Insert:
    """An INSERT that knows `on_conflict_do_update` and `excluded`; `where` is a connection or a dialect's name."""
    name = where if isinstance(where, str) else where.dialect.name
    return sqlite.insert(table) if name == SQLITE else postgresql.insert(table)


def greatest(name: str, *values: ColumnElement[Any]) -> ColumnElement[Any]:
    """The highest of several values of one row."""
    return func.max(*values) if name == SQLITE else func.greatest(*values)


class Many:
    """One statement for many rows, compiled once for each dialect. `make` is given the dialect's name.

    `names`: the parameters in the order in which rows hold them. SQLAlchemy works out the parameters of each row, which
    takes more time than SQLite needs to write it; here a row goes to the driver as it is.
    """

    def __init__(self, names: Sequence[str], make: Callable[[str], Executable]) -> None:
        self.names = tuple(names)
        self._make = make
        self._compiled: dict[str, tuple[str, tuple[int, ...] | None]] = {}

    def run(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Execute for each of `rows`; none is fine."""
        if not rows:
            return
        sql, order = self._for(connection.dialect.name)
        if order is not None:
            rows = [tuple([row[place] for place in order]) for row in rows]
        connection.exec_driver_sql(sql, list(rows))

    def _for(self, name: str) -> tuple[str, tuple[int, ...] | None]:
        found = self._compiled.get(name)
        if found is None:
            statement: Any = self._make(name)
            compiled = statement.compile(dialect=_POSITIONAL[name]())
            wanted = tuple(compiled.positiontup or ())
            places = {parameter: place for place, parameter in enumerate(self.names)}
            order = None if wanted == self.names else tuple(places[parameter] for parameter in wanted)
            found = self._compiled[name] = (str(compiled), order)
        return found


class Lookup:
    """A statement about many keys at once. `make` is given the parameters that stand for keys, in an `IN`."""

    # Keys are asked for in these numbers, the last one repeated, so that there are few statements to compile.
    _SIZES = (1, 16, 128, 512)

    def __init__(self, make: Callable[[list[BindParameter[bytes]]], Executable]) -> None:
        self._make = make
        self._sql: dict[tuple[str, int], str] = {}

    def run(self, connection: Connection, keys: Sequence[bytes]) -> None:
        """For a statement that answers nothing."""
        for sql, part in self._parts(connection, keys):
            connection.exec_driver_sql(sql, part)

    def rows(self, connection: Connection, keys: Sequence[bytes]) -> Iterator[Any]:
        """The rows that are there, as the driver gives them."""
        for sql, part in self._parts(connection, keys):
            yield from connection.exec_driver_sql(sql, part)

    def _parts(self, connection: Connection, keys: Sequence[bytes]) -> Iterator[tuple[str, tuple[bytes, ...]]]:
        most = self._SIZES[-1]
        for at in range(0, len(keys), most):
            part = tuple(keys[at : at + most])
            size = next(size for size in self._SIZES if size >= len(part))
            yield self._for(connection.dialect.name, size), part + part[-1:] * (size - len(part))

    def _for(self, name: str, size: int) -> str:
        found = self._sql.get((name, size))
        if found is None:
            marks = [bindparam(f"key_{number}", type_=LargeBinary) for number in range(size)]
            statement: Any = self._make(marks)
            found = self._sql[name, size] = str(statement.compile(dialect=_POSITIONAL[name]()))
        return found
