"""Opens the ledger's database: connections, their safety settings, and the schema brought up to date."""

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import StaticPool

from agent.core.ports import ConfigError
from agent.ledger import postgresql
from agent.ledger.tables import metadata

HEAD = "0005"  # the newest file in migrations/versions; a test compares
KNOWN = ("0001", "0002", "0003", "0004", "0005")
KEY = "storage.data_dir"
LOCK_SECONDS = 10.0

Where = Path | str
"""A SQLite file, or the URL of a PostgreSQL database."""

# To be bound as they are. Without this, the driver looks in vain for who adapts each None, bytes and bool: half
# a microsecond for each of them, which is more than SQLite needs to write it. What is called here is written in C.
_nothing: dict[None, None] = {}
sqlite3.register_adapter(type(None), _nothing.get)
sqlite3.register_adapter(bytes, bytes)
sqlite3.register_adapter(bool, int)


def connect(where: Where, *, read_only: bool = False, lock_seconds: float = LOCK_SECONDS) -> Engine:
    """An engine with one connection; every commit is on disk before it returns.

    `lock_seconds`: how long to wait for another process that writes. Raises `ConfigError` where PostgreSQL is named and
    its driver is not installed.
    """
    if isinstance(where, str):
        return postgresql.connect(where, read_only=read_only, lock_seconds=lock_seconds)
    engine = create_engine(
        "sqlite+pysqlite://",
        creator=lambda: _open(where, lock_seconds),
        poolclass=StaticPool,  # used from one thread at a time: the ledger's limiter sees to it
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Write transactions take the lock at once, so that they cannot fail half-way because of another writer.
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _open(path: Path, lock_seconds: float) -> Any:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=lock_seconds)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA cache_size=-16000")
    return connection


def shown(where: Where) -> str:
    """The database's name for people: without its password."""
    return str(where) if isinstance(where, Path) else postgresql.shown(where)


def migrate(engine: Engine, where: Where) -> None:
    """Bring the ledger to `HEAD`. Raises `ConfigError` for one of a newer engineroom, or what is none."""
    try:
        version = version_of(engine)
    except DatabaseError as error:
        reason = f"{shown(where)} cannot be opened as a ledger ({error.orig}); " + (
            "`engineroom ledger repair` keeps what can be read; or move it away or restore it"
            if isinstance(where, Path)
            else "start it, or correct the address, the user and its rights"
        )
        raise ConfigError(KEY if isinstance(where, Path) else postgresql.KEY, reason) from error
    if version == HEAD:
        return
    if version is not None and version not in KNOWN:
        raise ConfigError(KEY if isinstance(where, Path) else postgresql.KEY, newer(where, version))
    if version is None:
        _create(engine)
    else:
        upgrade(engine)


def newer(where: Where, version: str) -> str:
    """What to say of a schema that this program does not know."""
    return (
        f"{shown(where)} was written by a newer engineroom (schema {version}, this one knows {HEAD}); "
        "install that version again, or give this agent its own folder"
    )


def _create(engine: Engine) -> None:
    """A new file gets the tables as they are today; the migrations are for files that exist (a test compares both)."""
    with engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
        connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})


def upgrade(engine: Engine, to: str = HEAD) -> None:
    """Run the migrations that the file still lacks."""
    # Imported here: 200 ms and several MB that an agent needs on the day of an upgrade only.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, to)


def version_of(engine: Engine) -> str | None:
    """The schema of a database; None where there is none yet."""
    with engine.begin() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        return None if version is None else str(version)
