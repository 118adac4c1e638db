"""Clients that are slow, greedy, silent or rude cost the sidecar little, and others nothing."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from tests.support.raw_client import closed_by_peer, hear_answer, hear_request, reset
from tests.support.sidecar import Proxy, record, records, sidecar
from tests.support.upstream import ScriptedUpstream, Wire, connect, repeat, until, upstream, whole

POST = b"POST /v1/completions HTTP/1.1\r\nhost: e\r\ncontent-length: 2\r\n\r\n{}"
MIB = 1 << 20


@asynccontextmanager
async def served(**settings: object) -> AsyncIterator[tuple[ScriptedUpstream, Proxy]]:
    async with upstream(repeat(whole(b"{}"))) as engine, sidecar(engine.url, **settings) as proxy:
        yield engine, proxy


def memory_kib() -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


async def drip(wire: Wire, data: bytes) -> bytes:
    """A byte each hundredth of a second, until the other side has had enough; what it said then."""
    for at in range(len(data)):
        wire.writer.write(data[at : at + 1])
        with anyio.move_on_after(0.01):
            try:
                return await wire.reader.read(1 << 16)
            except ConnectionError:
                return b""
    raise AssertionError("it has had the patience for all of it")


IMPATIENT = {"head_timeout_seconds": 0.4, "idle_seconds": 0.4, "crowded_idle_seconds": 0.4}
SLOW = b"x-a: " + b"a" * 1000


@pytest.mark.parametrize(
    ("before", "start"),
    [
        (b"", b"POST /v1/completions HTTP/1.1\r\n"),
        (b"", b""),
        (POST, b"POST /v1/completions HTTP/1.1\r\n"),
        (b"\r\n\r\n", b"POST /v1/completions HTTP/1.1\r\n"),
    ],
    ids=["first-request", "from-the-first-byte", "second-request", "after-empty-lines"],
)
async def test_a_head_that_never_ends_is_not_waited_for(before: bytes, start: bytes) -> None:
    """Slow-loris: a byte now and then is no life sign; the time runs from the first byte of the head."""
    async with served(limits=IMPATIENT) as (engine, proxy), connect(proxy.port) as client:
        await client.send(before)
        if before == POST:
            assert (await hear_answer(client.reader)).status == 200
        await client.send(start)
        with anyio.fail_after(3):
            await drip(client, SLOW if start else b"POST /" + SLOW)
        await until(lambda: not proxy.listener.connections)
        assert engine.connections == (1 if before == POST else 0)


@pytest.mark.parametrize("framing", [b"content-length: 5000", b"transfer-encoding: chunked"])
async def test_a_body_that_never_ends_is_not_waited_for(framing: bytes) -> None:
    left = anyio.Event()

    async def script(wire: Wire) -> None:
        await hear_request(wire.reader)
        left.set()

    async with upstream(script) as engine, sidecar(engine.url, request_timeout_seconds=0.4) as proxy:
        async with connect(proxy.port) as client:
            await client.send(b"POST /v1/completions HTTP/1.1\r\nhost: e\r\n%b\r\n\r\n" % framing)
            body = b"x" * 5000 if b"length" in framing else b"1\r\nx\r\n" * 900
            with anyio.fail_after(8):
                said = await drip(client, body)
            assert said.startswith(b"HTTP/1.1 504")
        seen = await record(proxy)
        with anyio.fail_after(2):
            await left.wait()
    assert (seen.outcome, seen.status) == ("timeout", 504)
    assert 0 < seen.request_bytes < 5000


@pytest.mark.parametrize(
    "start",
    [
        b"POST /v1/completions HTTP/1.1\r\nhost: e\r\nx: ",
        b"GET /",
        b"POST /v1/completions HTTP/1.1\r\nhost: e\r\ntransfer-encoding: chunked\r\n\r\n1;",
        b"POST /v1/completions HTTP/1.1\r\nhost: e\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: ",
        b"POST /v1/completions HTTP/1.1\r\nhost: e\r\ntransfer-encoding: chunked\r\n\r\n" + b"0" * 1000,
        b"\r\n" * 50,
    ],
    ids=["field", "target", "chunk-extension", "trailer", "chunk-size", "empty-lines"],
)
async def test_what_has_no_end_is_refused_or_thrown_away(start: bytes) -> None:
    """64 MiB of it: gathered nowhere."""
    filler = b"\r\n" * 32768 if start.startswith(b"\r") else b"0" * 65536
    async with served() as (_, proxy):
        before, most = memory_kib(), 0
        async with connect(proxy.port) as client:
            client.writer.write(start)
            try:
                for _ in range(1024):
                    client.writer.write(filler)
                    with anyio.fail_after(5):
                        await client.writer.drain()
                    await anyio.lowlevel.checkpoint()
                    most = max(most, memory_kib())
                    if client.reader.at_eof() or client.writer.is_closing():
                        break
            except ConnectionError:
                pass
        assert most - before < 16 << 10
        await until(lambda: not proxy.listener.connections)
        assert not proxy.forwarder.active


async def test_thousands_of_pipelined_requests_are_answered_in_turn_and_one_at_a_time() -> None:
    count = 5000
    at_once = most = 0

    async def script(wire: Wire) -> None:
        nonlocal at_once, most
        while (heard := await hear_request(wire.reader)) is not None:
            at_once += 1
            most = max(most, at_once)
            await wire.send(whole(heard.target))
            at_once -= 1

    async def ask(client: Wire) -> None:
        for number in range(count):
            client.writer.write(b"GET /%d HTTP/1.1\r\nhost: e\r\n\r\n" % number)
        await client.writer.drain()

    async with (
        upstream(script) as engine,
        sidecar(engine.url, limits={"max_pipelined": 10_000}) as proxy,
        connect(proxy.port) as client,
        anyio.create_task_group() as group,
    ):
        group.start_soon(ask, client)
        for number in range(count):
            assert bytes((await hear_answer(client.reader)).body) == b"/%d" % number
    assert most == 1


async def test_more_pipelined_requests_than_may_wait_end_the_connection_after_right_answers() -> None:
    async with upstream(repeat(whole(b"right"))) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        client.writer.write(POST * 2000)
        bodies = []
        while (got := await hear_answer(client.reader)).start and got.status == 200:
            bodies.append(bytes(got.body))
        assert set(bodies) == {b"right"}
        assert got.status == 429 if got.start else True
        assert await closed_by_peer(client)
        await until(lambda: len(records(proxy)) >= len(bodies))
        assert not proxy.forwarder.active


async def test_a_client_that_asks_and_asks_and_never_reads_is_not_read_either() -> None:
    answer = whole(b"x" * 100_000)
    sent = 0
    async with upstream(repeat(answer)) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        before = memory_kib()
        for _ in range(20_000):
            client.writer.write(POST)
            with anyio.move_on_after(0.3) as patience:
                await client.writer.drain()
            if patience.cancelled_caught:
                break
            sent += 1
        # Two gigabytes would have come back for what was sent; what came lies in the kernel's buffers.
        assert memory_kib() - before < 48 << 10
        assert len(records(proxy)) < 500


async def test_clients_that_come_and_reset_leave_nothing() -> None:
    async with served() as (_, proxy):

        async def rude(number: int) -> None:
            async with connect(proxy.port) as client:
                client.writer.write(POST[: number % len(POST)])
                if number % 2:
                    await anyio.lowlevel.checkpoint()
                reset(client)

        for _ in range(4):
            async with anyio.create_task_group() as group:
                for number in range(100):
                    group.start_soon(rude, number)
        await until(lambda: not proxy.listener.connections)
        assert not proxy.forwarder.active
        async with connect(proxy.port) as client:
            await client.send(POST)
            assert (await hear_answer(client.reader)).status == 200


async def test_a_hundred_silent_clients_do_not_delay_the_one_who_speaks() -> None:
    async with served() as (_, proxy), anyio.create_task_group() as group:

        async def silent() -> None:
            async with connect(proxy.port) as client:
                client.writer.write(b"POST /v1/comp")
                await closed_by_peer(client)

        for _ in range(100):
            group.start_soon(silent)
        await until(lambda: len(proxy.listener.connections) == 100)
        async with connect(proxy.port) as client:
            with anyio.fail_after(1):
                for _ in range(20):
                    await client.send(POST)
                    assert (await hear_answer(client.reader)).status == 200
        group.cancel_scope.cancel()
