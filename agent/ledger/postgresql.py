"""The URL of a PostgreSQL database in, connections out: one process writes, and its commits are durable."""

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool

from agent.core.ports import ConfigError
from agent.ledger.tables import node_state

KEY = "storage.ledger"
_WRITER = 0x656E67696E65726D  # advisory locks are numbers: "enginerm"


def database_of(url: str | None, file: Path | None) -> str | None:
    """The URL of `storage.ledger` or in `storage.ledger_file`; None for a file. Raises `ConfigError`."""
    if file is None:
        return url
    try:
        found = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{KEY}_file", f"{file} cannot be read: {error}") from error
    _url(found, f"{KEY}_file")
    return found


class OtherWriter(Exception):
    """Another process has this database's ledger open for writing."""


def connect(url: str, *, read_only: bool, lock_seconds: float) -> Engine:
    """An engine with one connection. The writing one holds the writer's lock as long as it is connected.

    Connecting raises `OtherWriter` while another has it; this raises `ConfigError` for no URL, or without the driver.
    """
    try:
        import psycopg  # noqa: F401 - is it installed?
    except ImportError as error:
        raise ConfigError(KEY, "PostgreSQL needs its driver: pip install 'engineroom[postgres]'") from error
    milliseconds = int(lock_seconds * 1000)
    engine = create_engine(
        _url(url),
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        pool_pre_ping=True,  # a server that was restarted is connected to again
        isolation_level="REPEATABLE READ" if read_only else "READ COMMITTED",
        connect_args={
            "application_name": "engineroom",
            "connect_timeout": max(2, int(lock_seconds)),
            "keepalives_idle": 30,
            "tcp_user_timeout": 30_000,
            "options": f"-c lock_timeout={milliseconds} -c synchronous_commit=on -c timezone=UTC"
            + (" -c default_transaction_read_only=on" if read_only else ""),
        },
    )
    if not read_only:
        event.listen(engine, "connect", _take_lock)
    return engine


def _take_lock(connection: Any, _: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s), current_setting('server_encoding')", (_WRITER,))
        taken, encoding = cursor.fetchone()
    connection.commit()
    if not taken:
        connection.close()
        raise OtherWriter("another engineroom writes this ledger; stop it, or give this one its own database")
    if encoding != "UTF8":
        connection.close()
        raise ConfigError(KEY, f"the database's encoding is {encoding}; expected UTF8: names may be of any language")


def _url(url: str, key: str = KEY) -> Any:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError(key, "expected a URL such as postgresql://user@host:5432/engineroom") from error
    if parsed.get_backend_name() not in ("postgresql", "postgres") or not parsed.database:
        raise ConfigError(
            key, "expected a URL with the database's name, such as postgresql://user@host:5432/engineroom"
        )
    return parsed.set(drivername="postgresql+psycopg")


def shown(url: str) -> str:
    """The URL without its password."""
    return str(_url(url).set(drivername="postgresql").render_as_string(hide_password=True))


def refuse_other_node(connection: Connection, node: str) -> None:
    """A database holds the ledger of one node. Raises `ConfigError` for another's."""
    owner = connection.execute(select(node_state.c.node)).scalar()
    if owner is not None and owner != node:
        raise ConfigError(
            KEY, f"this database holds the ledger of node {owner!r}, this is {node!r}; give each node its own database"
        )
