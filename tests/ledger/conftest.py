"""Ledgers of both kinds for the tests of what is written: a SQLite file, and a database of a PostgreSQL server."""

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agent.ledger.ledger import Ledger
from tests.support.ledger import fresh, opened
from tests.support.postgres import new_database, server

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A server; databases of it are made by `new_database`."""
    with server() as url:
        yield url


@pytest.fixture
def database(postgres: str) -> str:
    """The URL of an empty database."""
    return new_database(postgres, f"ledger{next(_numbers)}")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.component("postgres"))])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledger]:
    """An empty ledger, of each kind."""
    if request.param == "sqlite":
        made = await fresh(tmp_path / "node")
    else:
        made = await opened(request.getfixturevalue("database"))
    async with made:
        yield made
