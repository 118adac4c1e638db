"""The pool and its connections against real sockets: how long they are kept, what happens when none can be made."""

import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import anyio
import pytest

from agent.clock import BillClock
from agent.sidecar.gateway.upstream import UpstreamPool
from agent.sidecar.gateway.upstreams import Upstreams
from agent.sidecar.settings import SidecarSettings
from tests.support.sidecar import record, records, sidecar
from tests.support.upstream import Wire, connect, post, repeat, until, upstream, whole


@asynccontextmanager
async def pool_before(script_url: str, **settings: float) -> AsyncIterator[UpstreamPool]:
    given = SidecarSettings(upstream=script_url, **settings)  # type: ignore[arg-type] # the defaults are of all types
    pool = Upstreams(given, BillClock(0, 0)).pools[0]
    try:
        yield pool
    finally:
        pool.close()


async def silent(wire: Wire) -> None:
    await wire.until_closed()


async def test_the_freshest_connection_is_taken_first() -> None:
    async with upstream(silent) as engine, pool_before(engine.url) as pool:
        first, second = await pool.connect(), await pool.connect()
        assert pool.take(pool.clock.now_ns()) is None
        pool.give(first, pool.clock.now_ns())
        pool.give(second, pool.clock.now_ns())
        assert pool.idle == 2
        assert pool.take(pool.clock.now_ns()) is second
        assert pool.take(pool.clock.now_ns()) is first
        assert pool.take(pool.clock.now_ns()) is None
        first.close()
        second.close()


async def test_no_more_are_kept_than_allowed() -> None:
    async with upstream(silent) as engine, pool_before(engine.url, upstream_idle_connections=1) as pool:
        first, second = await pool.connect(), await pool.connect()
        pool.give(first, pool.clock.now_ns())
        pool.give(second, pool.clock.now_ns())
        assert (pool.idle, first.closed, second.closed) == (1, False, True)


async def test_one_that_is_too_old_is_not_taken() -> None:
    async with upstream(silent) as engine, pool_before(engine.url, upstream_idle_seconds=0) as pool:
        connection = await pool.connect()
        pool.give(connection, pool.clock.now_ns())
        assert pool.take(pool.clock.now_ns()) is None
        assert connection.closed


async def test_an_unused_one_that_the_engine_closes_is_forgotten() -> None:
    go = anyio.Event()

    async def script(_: Wire) -> None:
        await go.wait()

    async with upstream(script) as engine, pool_before(engine.url) as pool:
        pool.give(await pool.connect(), pool.clock.now_ns())
        go.set()
        await until(lambda: pool.idle == 0)


async def test_bytes_that_nobody_asked_for_end_an_unused_one() -> None:
    go = anyio.Event()

    async def script(wire: Wire) -> None:
        await go.wait()
        await wire.send(whole(b"surprise"))
        await wire.until_closed()

    async with upstream(script) as engine, pool_before(engine.url) as pool:
        connection = await pool.connect()
        pool.give(connection, pool.clock.now_ns())
        go.set()
        await until(lambda: connection.closed)
        assert pool.idle == 0


async def test_a_closed_pool_keeps_nothing() -> None:
    async with upstream(silent) as engine, pool_before(engine.url) as pool:
        kept, late = await pool.connect(), await pool.connect()
        pool.give(kept, pool.clock.now_ns())
        pool.close()
        pool.give(late, pool.clock.now_ns())
        assert (pool.idle, kept.closed, late.closed) == (0, True, True)


async def test_an_unused_connection_is_gone_before_the_engine_would_close_it() -> None:
    closed = anyio.Event()

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(whole(b"{}"))
        await wire.until_closed()
        closed.set()

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:  # the defaults
        await client.send(post(b"{}"))
        await client.answer()
        with anyio.fail_after(5):  # after which most engines close it themselves
            await closed.wait()


@pytest.mark.parametrize(("seconds", "allowed"), [(4.99, True), (5, False)])
def test_no_setting_keeps_connections_as_long_as_engines_do(seconds: float, allowed: bool) -> None:
    if allowed:
        SidecarSettings(upstream_idle_seconds=seconds)
    else:
        with pytest.raises(ValueError, match="upstream_idle_seconds"):
            SidecarSettings(upstream_idle_seconds=seconds)


def deaf_port(stack: ExitStack) -> int:
    """A port whose queue of connections is full: a further one is neither accepted nor refused."""
    server = stack.enter_context(socket.socket())
    server.bind(("127.0.0.1", 0))
    server.listen(0)
    for _ in range(8):
        filler = stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(server.getsockname())
    return int(server.getsockname()[1])


async def test_a_connection_that_cannot_be_made_in_time_is_a_504() -> None:
    with ExitStack() as stack:
        port = deaf_port(stack)
        async with (
            sidecar(f"http://127.0.0.1:{port}", dial={"connect_timeout_seconds": 0.2}) as proxy,
            connect(proxy.port) as client,
        ):
            await client.send(post(b'{"model":"m"}'))
            answer = await client.answer()
            assert (answer.status, answer.field("content-type")) == (504, "application/problem+json")
            assert f"no connection to 127.0.0.1:{port} within 0.2 s".encode() in answer.body
            seen = await record(proxy)
            assert (seen.outcome, seen.status, seen.model) == ("timeout", 504, "m")
            assert proxy.forwarder.upstreams.error
            await client.send(post(b"{}"))  # the client's connection is still good
            assert (await client.answer()).status == 504


async def test_a_client_that_leaves_while_the_connection_is_made() -> None:
    with ExitStack() as stack:
        async with sidecar(f"http://127.0.0.1:{deaf_port(stack)}", dial={"connect_timeout_seconds": 0.3}) as proxy:
            async with connect(proxy.port) as client:
                await client.send(post(b"{}"))
                await until(lambda: len(proxy.forwarder.active) == 1)
            assert (await record(proxy)).outcome == "client_abort"
            await until(lambda: bool(proxy.forwarder.upstreams.error))  # the attempt has ended, later
            assert len(records(proxy)) == 1


async def test_an_engine_that_comes_back_is_noticed() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with sidecar(f"http://127.0.0.1:{port}") as proxy, connect(proxy.port) as client:
        await client.send(post(b"{}"))
        assert (await client.answer()).status == 502
        assert proxy.forwarder.upstreams.error
        async with upstream(repeat(whole(b"{}")), port=port):
            await client.send(post(b"{}"))
            assert (await client.answer()).status == 200
            assert not proxy.forwarder.upstreams.error


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000,
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    ],
    ids=["no-http", "long-head", "unasked-upgrade", "two-lengths"],
)
async def test_an_answer_that_cannot_be_passed_on_is_a_502(answer: bytes) -> None:
    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(answer)
        await wire.until_closed()

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        await client.send(post(b"{}"))
        assert (await client.answer()).status == 502
        assert (await record(proxy)).outcome == "error"


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://a", "http://a/v1", "http://a:99999", f"http://{'a' * 70}"])
def test_an_address_that_cannot_be_one_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ValueError, match="upstream"):
        SidecarSettings(upstream=url)
