"""A ledger in PostgreSQL: what is different there. (What is written and told is tested on both.)"""

from pathlib import Path

import pytest

from agent.core.cost.closed import Amount, Closed
from agent.core.cost.live import Booking
from agent.core.ports import ConfigError
from agent.ledger.checking import check
from agent.ledger.ledger import Ledger
from agent.ledger.postgresql import database_of
from agent.ledger.repairing import repair, vacuum
from agent.ledger.retention import DAY_NS, Retention
from tests.support.ledger import T0, booked, lived, opened
from tests.support.money import NS, HandClock, Sidecar
from tests.support.postgres import new_database

PLACE = Booking(T0, "GPU-0", T0, "request", "vllm", "llama", "acme", "ok")


def step(number: int) -> Closed:
    return Closed(number, T0, T0 + number * NS, {PLACE: Amount(gpu_ns=5)})


def test_a_file_for_a_secret_address_is_read(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://me:secret@db:5432/engineroom\n")
    assert database_of(None, file) == "postgresql://me:secret@db:5432/engineroom"
    assert database_of(None, None) is None
    file.write_text("mysql://me:secret@db/x")
    with pytest.raises(ConfigError, match=r"storage\.ledger_file") as refused:
        database_of(None, file)
    assert "secret" not in str(refused.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        database_of(None, tmp_path / "nothing")


@pytest.mark.component("postgres")
async def test_a_life_of_its_own(database: str) -> None:
    clock = HandClock(T0)
    async with await opened(database) as ledger:
        await lived(ledger, clock, 70, Sidecar())
        before = await ledger.reconcile()
        assert before.reconciles
    async with await opened(database) as ledger:
        assert await ledger.reconcile() == before
        assert (await ledger.request_cost("1-5")) is not None
        assert await ledger.retain(clock.at_ns + 200 * DAY_NS, Retention()) > 0
        assert (await ledger.reconcile()).reconciles
    assert check(database) == []
    assert list(repair(database)) == []
    assert next(vacuum(database)).startswith("took away")


@pytest.mark.component("postgres")
async def test_one_process_writes(database: str) -> None:
    async with await opened(database):
        with pytest.raises(ConfigError, match="another engineroom writes this ledger"):
            await opened(database)
    async with await opened(database):
        pass


@pytest.mark.component("postgres")
async def test_it_is_one_nodes(database: str) -> None:
    async with await opened(database):
        pass
    with pytest.raises(ConfigError, match="holds the ledger of node 'node-a', this is 'node-b'"):
        await Ledger.open(database, "node-b")


@pytest.mark.component("postgres")
async def test_a_lost_connection_is_made_again(database: str) -> None:
    async with await opened(database) as ledger:
        await ledger.settle(step(1))
        with ledger._writer.begin() as connection:
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with ledger._reader.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 5000)")
        await ledger.settle(step(2))
        assert [row["gpu_ns"] for row in booked(ledger)] == [10]


@pytest.mark.component("postgres")
async def test_another_encoding_is_refused(postgres: str) -> None:
    with pytest.raises(ConfigError, match="encoding is LATIN1"):
        await opened(new_database(postgres, "latin", "LATIN1"))


@pytest.mark.component("postgres")
async def test_a_server_that_is_not_there_is_told_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened") as refused:
        await opened(f"postgresql://me:secret@/x?host={tmp_path}")
    assert "secret" not in str(refused.value)
