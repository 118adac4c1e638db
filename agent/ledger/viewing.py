"""A ledger opened to be read only, beside the agent that writes it: reports for the command line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import DBAPIError

from agent.core.cost.reports import Report, ReportQuery
from agent.core.ports import ConfigError
from agent.ledger import postgresql
from agent.ledger.reporting import report
from agent.ledger.rollup import read_eras
from agent.ledger.schema import HEAD, KNOWN, Where, connect, newer, shown, version_of
from agent.ledger.schema import KEY as FOLDER_KEY
from agent.ledger.tables import node_state

T = TypeVar("T")
FILE = "ledger.sqlite"


class View:
    """An open ledger. Every read sees what was settled until then; nothing is written, and nobody is kept waiting."""

    def __init__(self, where: Where, engine: Engine) -> None:
        self.name = shown(where)
        self._key = _key(where)
        self._engine = engine
        self.node = self._read(lambda connection: str(connection.execute(select(node_state.c.node)).scalar() or ""))
        self.time_zone = self._read(lambda connection: read_eras(connection).zones[-1][1])

    def report(self, query: ReportQuery) -> Report:
        """GPU time and money of a window, grouped. Raises `ConfigError` where the file cannot be read."""
        return self._read(lambda connection: report(connection, query, self.node))

    def _read(self, work: Callable[[Connection], T]) -> T:
        try:
            with self._engine.begin() as connection:
                return work(connection)
        except DBAPIError as error:
            raise ConfigError(self._key, f"{self.name} cannot be read as a ledger: {error.orig}") from error


@contextmanager
def open_view(where: Where) -> Iterator[View]:
    """The ledger in an agent's data folder, or in the PostgreSQL database with this URL.

    Raises `ConfigError` where there is none, or it is of another version.
    """
    place = _file(where) if isinstance(where, Path) else where
    engine = connect(place, read_only=True)
    try:
        _require_version(engine, place)
        yield View(place, engine)
    finally:
        engine.dispose()


def _key(where: Where) -> str:
    return FOLDER_KEY if isinstance(where, Path) else postgresql.KEY


def _file(folder: Path) -> Path:
    """Of the ledger in a folder; making a connection would make it."""
    path = folder / FILE
    try:
        is_there = path.is_file()
        if is_there:
            path.open("rb").close()
    except OSError as error:
        advice = "run this as the agent's user"
        raise ConfigError(FOLDER_KEY, f"{path} cannot be read: {error.strerror}; {advice}") from error
    if not is_there:
        advice = "name the data folder of `engineroom run` with --data-dir or --config"
        raise ConfigError(FOLDER_KEY, f"there is no ledger at {path}; {advice}")
    return path


def _require_version(engine: Engine, where: Where) -> None:
    key, name = _key(where), shown(where)
    try:
        version = version_of(engine)
    except DBAPIError as error:
        raise ConfigError(key, f"{name} cannot be read as a ledger: {error.orig}") from error
    if version == HEAD:
        return
    if version is None:
        advice = "name its folder with --data-dir" if isinstance(where, Path) else "name that of `engineroom run`"
        raise ConfigError(key, f"{name} is no ledger of engineroom; {advice}")
    if version not in KNOWN:
        raise ConfigError(key, newer(where, version))
    raise ConfigError(
        key, f"{name} has the older schema {version}; start `engineroom run` of this version once, which upgrades it"
    )
