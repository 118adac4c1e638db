"""Opens the ledger's file: connections, their safety settings, and the schema brought up to date."""

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import StaticPool

from agent.core.ports import ConfigError
from agent.ledger.tables import metadata

HEAD = "0004"  # the newest file in migrations/versions; a test compares
KNOWN = ("0001", "0002", "0003", "0004")
KEY = "storage.data_dir"


def connect(path: Path, *, read_only: bool = False) -> Engine:
    """An engine with one connection to the SQLite file. WAL; every commit is on disk before it returns."""
    engine = create_engine(
        "sqlite+pysqlite://",
        creator=lambda: _open(path),
        poolclass=StaticPool,  # used from one thread at a time: the ledger's limiter sees to it
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Write transactions take the lock at once, so that they cannot fail half-way because of another writer.
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _open(path: Path) -> Any:
    import sqlite3

    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA cache_size=-2000")
    return connection


def migrate(engine: Engine, path: Path) -> None:
    """Bring the file to `HEAD`. Raises `ConfigError` for a file of a newer engineroom or that is no ledger."""
    try:
        version = _version(engine)
    except DatabaseError as error:
        reason = f"{path} cannot be opened as a ledger ({error.orig}); move it away or restore it"
        raise ConfigError(KEY, reason) from error
    if version == HEAD:
        return
    if version is not None and version not in KNOWN:
        raise ConfigError(
            KEY,
            f"{path} was written by a newer engineroom (schema {version}, this one knows {HEAD}); "
            "install that version again, or give this agent its own folder",
        )
    if version is None:
        _create(engine)
    else:
        upgrade(engine)


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


def _version(engine: Engine) -> str | None:
    with engine.begin() as connection:
        found = connection.execute(text("SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'")).scalar()
        if not found:
            return None
        version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        return None if version is None else str(version)
