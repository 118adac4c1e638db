"""One GET: what comes back, and what is said when nothing does (more bad servers: test_engine.py)."""

import aiohttp
import pytest

from agent.collect.engines.fetch import get
from agent.core.ports import TryLater
from tests.support.http import answer, drip, raw, told_server


async def test_answer_is_handed_over_as_it_is() -> None:
    async with told_server({"/a": answer(b"body", status=418)}) as server, aiohttp.ClientSession() as session:
        found = await get(session, server.url + "/a", timeout_seconds=2)
    assert (found.status, found.body, found.location) == (418, b"body", None)


async def test_redirect_is_not_followed() -> None:
    replies = {"/a": answer(b"", status=307, Location="/b"), "/b": answer(b"secret")}
    async with told_server(replies) as server, aiohttp.ClientSession() as session:
        found = await get(session, server.url + "/a", timeout_seconds=2, token="t")
    assert (found.status, found.location) == (307, "/b")
    assert server.asked == ["/a"]


async def test_body_is_capped_while_it_comes() -> None:
    async with told_server({"/a": answer(b"x" * 1_000_000)}) as server, aiohttp.ClientSession() as session:
        with pytest.raises(TryLater, match="more than 1000 bytes"):
            await get(session, server.url + "/a", timeout_seconds=2, max_bytes=1000)


async def test_one_byte_at_a_time_runs_into_the_timeout() -> None:
    async with told_server({"/a": drip(b"x" * 1000, 0.02)}) as server, aiohttp.ClientSession() as session:
        with pytest.raises(TryLater, match=r"within 0\.2 s \(\d+ bytes came\)"):
            await get(session, server.url + "/a", timeout_seconds=0.2)


async def test_chunked_body_that_ends_early() -> None:
    broken = raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    async with told_server({"/a": broken}) as server, aiohttp.ClientSession() as session:
        with pytest.raises(TryLater, match="broke off"):
            await get(session, server.url + "/a", timeout_seconds=2)
