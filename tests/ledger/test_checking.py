"""A sound ledger has no findings; each thing that can be wrong has one, and what can be mended is."""

import sqlite3
from pathlib import Path

import anyio
import pytest

from agent.ledger.checking import check
from agent.ledger.repairing import repair
from agent.ledger.retention import Retention
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


def test_a_sound_ledger_has_no_findings_and_needs_no_repair(path: Path) -> None:
    assert check(path) == []
    assert list(repair(path)) == ["made its indexes anew"]


async def test_it_is_checked_while_an_agent_has_it_open_and_in_a_transaction(path: Path) -> None:
    async with await opened(path) as ledger:
        with ledger._writer.begin() as connection:
            connection.exec_driver_sql("UPDATE entries SET nano = nano + 1")
            assert check(path) == []
            connection.rollback()


@pytest.mark.parametrize("retain", [None, Retention(1, 2, 1)])
async def test_it_is_sound_after_old_rows_were_forgotten(path: Path, retain: Retention | None) -> None:
    async with await opened(path) as ledger:
        if retain:
            assert await ledger.retain(T0 + 40 * DAYS, retain) > 0
    assert check(path) == []


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        ("UPDATE entries SET nano = nano + 1 WHERE grain = 0 AND place = 1", "nano-units are booked of a bill of"),
        ("UPDATE accounts SET through_ns = through_ns + 1 WHERE gpu = 'GPU-1'", "of wall time"),
        ("UPDATE accounts SET energy_uj = 7 WHERE gpu = 'GPU-1'", "by its meter"),
        ("DELETE FROM places WHERE id = 1", "entries are of a place that is not written down"),
        ("UPDATE settled_requests SET place = 9999", "settled requests are of a place"),
        ("UPDATE settled_requests SET figures = x'80'", "settled requests cannot be read"),
        ("DELETE FROM tellers", "settled requests cannot be read"),
        ("UPDATE places SET account_ns = 5 WHERE gpu = 'GPU-1'", "places are of an account that does not exist"),
        ("DELETE FROM node_state", "does not say how far it is booked"),
        ("UPDATE alembic_version SET version_num = '9999'", "newer engineroom"),
        ("UPDATE alembic_version SET version_num = '0004'", "start the agent once"),
    ],
)
def test_what_is_wrong_is_told(path: Path, statement: str, finding: str) -> None:
    change(path, statement)
    assert any(finding in found for found in check(path)), check(path)
