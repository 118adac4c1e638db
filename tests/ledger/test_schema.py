"""The migrations make exactly the tables that the code knows."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, select

from agent.ledger.schema import HEAD, KNOWN, connect, migrate, upgrade
from agent.ledger.tables import entries, metadata, requests, sidecars


def test_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__code__.co_filename).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    assert script.get_current_head() == HEAD
    assert {revision.revision for revision in script.walk_revisions()} == set(KNOWN)


@pytest.mark.parametrize("make", ["new", "migrated"])
def test_migrations_and_tables_agree(tmp_path: Path, make: str) -> None:
    engine = connect(tmp_path / "ledger.sqlite")
    if make == "migrated":
        upgrade(engine)  # every migration from the first on
    migrate(engine, tmp_path / "ledger.sqlite")
    migrate(engine, tmp_path / "ledger.sqlite")  # again: nothing to do
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() == HEAD
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_a_ledger_of_the_first_version_keeps_its_rows(tmp_path: Path) -> None:
    engine = connect(tmp_path / "ledger.sqlite")
    upgrade(engine, "0001")
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO requests (id, sidecar, epoch, upstream, engine, started_ns, gpu_ns, nano, seen_ns, unpriced,"
            " settled) VALUES ('a', 's', 7, 'u', 'u', 1, 2, 3, 4, 0, 0)"
        )
        connection.exec_driver_sql("INSERT INTO sidecars VALUES ('s', 7, 41, 99), ('s', 8, 3, 100)")
    migrate(engine, tmp_path / "ledger.sqlite")
    with engine.begin() as connection:
        (request,) = connection.execute(select(requests)).all()
        marks = [tuple(row) for row in connection.execute(select(sidecars))]
    assert (request.id, request.epoch, request.nano, request.sender) == ("a", 7, 3, "")
    assert marks == [("s", 7, "", 41, None, 99), ("s", 8, "", 3, None, 100)]
    engine.dispose()


def test_what_was_booked_before_there_were_slots_is_of_the_whole_gpu(tmp_path: Path) -> None:
    engine = connect(tmp_path / "ledger.sqlite")
    upgrade(engine, "0002")
    names = "id, bucket_ns, gpu, account_ns, state, engine, model, tenant, outcome, gpu_ns, nano, requests"
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO entries ({names}, input_tokens, output_tokens) VALUES "
            "(7, 60, 'GPU-0', 1, 'request', 'vllm', 'llama', 'acme', 'ok', 5, 50, 1, 2, 3),"
            "(9, 60, 'GPU-1', 1, 'gap', '', '', '', '', 6, 60, 0, 0, 0),"
            "(12, 60, '', 0, 'request', 'far', 'llama', 'acme', 'ok', 0, 0, 1, 2, 3)"
        )
    migrate(engine, tmp_path / "ledger.sqlite")
    with engine.begin() as connection:
        rows = [dict(row) for row in connection.execute(select(entries).order_by(entries.c.gpu.desc())).mappings()]
        tables = set(inspect(connection).get_table_names())
    assert [(row["gpu"], row["slot"], row["reason"], row["gpu_ns"], row["nano"]) for row in rows] == [
        ("GPU-1", "GPU-1", "", 6, 60),
        ("GPU-0", "GPU-0", "", 5, 50),
        ("", "", "", 0, 0),
    ]
    first = rows[1]
    kept = {"bucket_ns": 60, "account_ns": 1, "state": "request", "engine": "vllm", "model": "llama"}
    kept |= {"tenant": "acme", "outcome": "ok", "requests": 1, "input_tokens": 2, "output_tokens": 3}
    assert kept.items() <= first.items()
    assert "entries_0002" not in tables
    engine.dispose()


@pytest.mark.parametrize("version", [one for one in KNOWN if one != HEAD])
def test_what_was_booked_before_there_were_groups_is_of_none(tmp_path: Path, version: str) -> None:
    """From every version that was ever released, with what it knew."""
    engine = connect(tmp_path / "ledger.sqlite")
    upgrade(engine, version)
    values = {"bucket_ns": 60, "account_ns": 1, "state": "request", "engine": "vllm", "model": "llama"}
    values |= {"tenant": "acme", "outcome": "ok", "gpu_ns": 5, "nano": 50, "requests": 1}
    values |= {"input_tokens": 2, "output_tokens": 3}
    if version >= "0003":
        values |= {"slot": "MIG-a", "reason": "process"}
    booked = [values | {"gpu": "GPU-0"}, values | {"gpu": "GPU-1", "tenant": ""}]
    with engine.begin() as connection:
        for row in booked:
            names, marks = ", ".join(row), ", ".join("?" * len(row))
            connection.exec_driver_sql(f"INSERT INTO entries ({names}) VALUES ({marks})", tuple(row.values()))
    migrate(engine, tmp_path / "ledger.sqlite")
    with engine.begin() as connection:
        rows = [dict(row) for row in connection.execute(select(entries)).mappings()]
        tables = set(inspect(connection).get_table_names())
    assert [row["engine_group"] for row in rows] == ["", ""]
    assert all(old.items() <= row.items() for old, row in zip(booked, rows, strict=True))
    assert tables == {table.name for table in metadata.sorted_tables} | {"alembic_version"}
    engine.dispose()


def test_every_commit_is_on_disk(tmp_path: Path) -> None:
    engine = connect(tmp_path / "ledger.sqlite")
    with engine.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    engine.dispose()
