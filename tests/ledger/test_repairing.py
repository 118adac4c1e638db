"""What can be mended is mended from what is there, and nothing is invented."""

import sqlite3
from pathlib import Path

import anyio
import pytest

from agent.ledger.checking import check
from agent.ledger.repairing import repair, vacuum
from agent.ledger.schema import connect, upgrade
from tests.support.ledger import T0, lived, opened
from tests.support.money import NS, HandClock, Sidecar

DAYS = 24 * 3600 * NS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "ledger.sqlite"
    anyio.run(_lived, file)
    return file


async def _lived(file: Path) -> None:
    """Two minutes of two GPUs, with requests, and a day of nobody there."""
    clock = HandClock(T0)
    async with await opened(file) as ledger:
        await lived(ledger, clock, 130, Sidecar())
    clock.at_ns += DAYS
    async with await opened(file) as ledger:
        await lived(ledger, clock, 5, Sidecar(epoch=2))


def change(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount > 0, statement
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET nano = nano + 1 WHERE grain = 1",
        "DELETE FROM entries WHERE grain = 2",
        "DELETE FROM entries WHERE grain = 1",
        "INSERT INTO entries SELECT 2, minute, 99, gpu_ns, 1, 0, 0, 0, 0, 0, 0, 0 FROM entries WHERE grain = 2 LIMIT 1",
    ],
)
async def test_hours_and_days_are_made_anew_from_minutes(path: Path, statement: str) -> None:
    async with await opened(path) as ledger:
        before = await ledger.reconcile()
    change(path, statement)
    assert any("are not the sum of their minutes" in found for found in check(path))
    assert any("anew from its minutes" in step for step in list(repair(path)))
    assert check(path) == []
    async with await opened(path) as ledger:
        assert await ledger.reconcile() == before


def test_of_a_damaged_file_what_can_be_read_is_kept(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'settled_requests'").fetchone()[0]
    connection.close()
    damaged = bytearray(path.read_bytes())
    damaged[(page - 1) * 4096 : page * 4096] = b"\xff" * 4096
    path.write_bytes(damaged)
    assert any("damaged" in found or "cannot be read" in found for found in check(path))
    steps = list(repair(path))
    assert any("settled_requests" in step for step in steps), steps
    assert path.with_name("ledger.sqlite.damaged-1").read_bytes() == bytes(damaged)
    assert check(path) == [], "which says that it reconciles"


def test_what_is_no_database_is_moved_aside_and_nothing_is_invented(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"by far no database" * 500)
    assert any("cannot be read" in found for found in check(path))
    assert any("begins a new ledger" in step for step in list(repair(path)))
    assert not path.exists()
    assert path.with_name("ledger.sqlite.damaged-1").exists()


def test_a_ledger_of_an_old_schema_is_left_to_the_agent(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    engine = connect(path)
    upgrade(engine, "0003")
    engine.dispose()
    assert ["start the agent once" in found for found in check(path)] == [True]
    assert list(repair(path)) == []


async def test_vacuum_takes_away_what_nothing_refers_to(path: Path) -> None:
    async with await opened(path) as ledger:
        before = await ledger.reconcile()
    change(path, "INSERT INTO places SELECT 999, gpu, 1, 'x', '', '', '', '', '', '', '', '', '' FROM places LIMIT 1")
    assert next(iter(vacuum(path))) == "took away 1 places that nothing refers to"
    assert check(path) == []
    async with await opened(path) as ledger:
        assert await ledger.reconcile() == before
