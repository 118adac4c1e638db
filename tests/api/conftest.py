"""A client of the API on a real server."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.support.api import node, served


@pytest.fixture
async def api() -> AsyncIterator[aiohttp.ClientSession]:
    async with served(node()) as address, aiohttp.ClientSession(address) as session:
        yield session
