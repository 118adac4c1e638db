"""A ledger that is read beside the process that writes it."""

from pathlib import Path

import pytest
from sqlalchemy import text

from agent.core.cost.reports import ReportQuery
from agent.core.ports import ConfigError
from agent.ledger.schema import connect
from agent.ledger.viewing import open_view
from tests.support.ledger import T0, lived, opened
from tests.support.money import NS, HandClock, Sidecar

QUERY = ReportQuery(start_ns=T0 - 3600 * NS, end_ns=T0 + 7200 * NS)


async def test_what_is_settled_is_seen_while_the_writer_goes_on(tmp_path: Path):
    clock, sidecar = HandClock(T0), Sidecar()
    with_writer = await opened(tmp_path / "ledger.sqlite")
    await lived(with_writer, clock, 20, sidecar)
    with open_view(tmp_path) as view:
        assert view.node == "node-a"
        assert view.time_zone == "UTC"
        before = view.report(QUERY)
        assert before.total_cost_nano == (await with_writer.reconcile()).bill_nano
        with with_writer._writer.begin() as connection:  # a writer in the middle of a step keeps nobody waiting
            connection.execute(text("UPDATE entries SET nano = nano + 1"))
            assert view.report(QUERY) == before
            connection.rollback()
    with_writer.close()


async def test_nothing_is_written(tmp_path: Path):
    ledger = await opened(tmp_path / "ledger.sqlite")
    ledger.close()
    held = (tmp_path / "ledger.sqlite").read_bytes()
    with open_view(tmp_path) as view:
        view.report(QUERY)
    assert (tmp_path / "ledger.sqlite").read_bytes() == held


def test_no_ledger(tmp_path: Path):
    with pytest.raises(ConfigError, match="there is no ledger at"), open_view(tmp_path / "nowhere"):
        pass
    assert not (tmp_path / "nowhere").exists()


def test_a_file_that_is_no_ledger(tmp_path: Path):
    (tmp_path / "ledger.sqlite").write_bytes(b"this is no database, " * 100)
    with pytest.raises(ConfigError, match="cannot be read as a ledger"), open_view(tmp_path):
        pass


def test_an_empty_database(tmp_path: Path):
    (tmp_path / "ledger.sqlite").touch()
    with pytest.raises(ConfigError, match="is no ledger of engineroom"), open_view(tmp_path):
        pass


@pytest.mark.parametrize(("version", "says"), [("0004", "which upgrades it"), ("9999", "newer engineroom")])
async def test_other_versions(tmp_path: Path, version: str, says: str):
    ledger = await opened(tmp_path / "ledger.sqlite")
    ledger.close()
    engine = connect(tmp_path / "ledger.sqlite")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})
    engine.dispose()
    with pytest.raises(ConfigError, match=says), open_view(tmp_path):
        pass
