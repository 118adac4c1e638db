"""Databases that cannot be used: each says what to do, nothing is lost, and it goes on by itself when that is done."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from agent.core.cost.closed import Amount, Closed
from agent.core.cost.live import Booking
from agent.core.ports import ConfigError, TryLater
from agent.ledger.ledger import Ledger
from agent.ledger.tables import places
from tests.support.ledger import T0, booked, rows
from tests.support.money import NS, Sidecar, record

PLACE = Booking(T0, "GPU-0", T0, "request", "vllm", "llama", "acme", "ok")


def step(number: int) -> Closed:
    return Closed(number, T0, T0 + number * NS, {PLACE: Amount(gpu_ns=5)})


async def made(path: Path) -> Ledger:
    clocks = {"unix": lambda: T0, "boot": lambda: 1, "boot_name": lambda: "boot"}
    return await Ledger.open(path, "node-a", lock_seconds=0.05, **clocks)


async def test_one_that_is_locked_is_waited_for(tmp_path: Path) -> None:
    path, sidecar = tmp_path / "ledger.sqlite", Sidecar()
    async with await made(path) as ledger:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        batch = sidecar.batch(T0, sidecar.end(record("a", T0, T0 + NS)))
        with pytest.raises(TryLater, match="another process writes to it"):
            await ledger.accept(batch)
        with pytest.raises(TryLater, match=r"locked.*nothing is lost"):
            await ledger.settle(step(1))
        assert (await ledger.reconcile()).reconciles, "reading goes on"
        with pytest.raises(ConfigError, match="locked"):
            await made(path)
        other.execute("ROLLBACK")
        other.close()
        assert len((await ledger.accept(batch)).ended) == 1
        await ledger.settle(step(1))
        assert [row["gpu_ns"] for row in booked(ledger)] == [5]


async def test_what_a_full_disk_took_back_is_written_again(tmp_path: Path) -> None:
    """Places and requests that were remembered for the transaction are not believed to be there."""
    sidecar = Sidecar()
    async with await made(tmp_path / "ledger.sqlite") as ledger:
        with ledger._writer.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        ends = [sidecar.end(record(f"r{number}", T0, T0 + NS)) for number in range(500)]
        batch = sidecar.batch(T0, *ends)
        full = Closed(1, T0, T0 + NS, {PLACE._replace(tenant=f"t{n}" * 20): Amount(gpu_ns=1) for n in range(500)})
        with pytest.raises(TryLater, match="make room on its disk"):
            await ledger.accept(batch)
        with pytest.raises(TryLater, match="full"):
            await ledger.settle(full)
        with ledger._writer.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 100000")
        assert len((await ledger.accept(batch)).ended) == 500
        await ledger.settle(full)
        assert len(booked(ledger)) == 500
        assert rows(ledger, places)[-1]["id"] == 500


async def test_one_that_may_only_be_read_is_read(tmp_path: Path) -> None:
    async with await made(tmp_path / "ledger.sqlite") as ledger:
        await ledger.settle(step(1))
        driver: Any = ledger._writer.raw_connection().driver_connection
        driver.execute("PRAGMA query_only = ON")
        with pytest.raises(TryLater, match="fix its rights"):
            await ledger.settle(step(2))
        assert [row["gpu_ns"] for row in booked(ledger)] == [5]
        driver.execute("PRAGMA query_only = OFF")
        await ledger.settle(step(2))


async def test_a_damaged_page_is_told_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    async with await made(path) as ledger:
        await ledger.settle(step(1))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'entries'").fetchone()[0]
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(ConfigError, match="engineroom ledger repair"):
        await made(path)
