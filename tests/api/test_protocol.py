"""Clients that are slow, greedy or confused, on a real socket."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import pytest
from anyio.abc import SocketStream
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agent.api.protocol import MAX_HEAD_BYTES
from agent.api.server import serve
from agent.doors.settings import LimitSettings
from tests.support.api import node, open_doors, served

ASK = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
PATIENCE_SECONDS = 10


@asynccontextmanager
async def listening(**limits: float) -> AsyncIterator[int]:
    """The API with these limits; gives its port."""
    async with served(node(), open_doors(limits=LimitSettings(**limits))) as url:
        yield int(url.rpartition(":")[2])


async def rest(stream: SocketStream) -> bytes:
    """Everything until the other side ends it, which it must."""
    got = b""
    with anyio.fail_after(PATIENCE_SECONDS):
        try:
            while True:
                got += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return got


async def exchange(port: int, *pieces: bytes) -> bytes:
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        for piece in pieces:
            await stream.send(piece)
        return await rest(stream)


async def drip(port: int, start: bytes, drop: bytes) -> bytes:
    """Send `start`, then a drop as often as nothing comes back for a moment, until the other side has enough."""
    got = b""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        try:
            await stream.send(start)
            with anyio.fail_after(PATIENCE_SECONDS):
                while True:
                    with anyio.move_on_after(0.02):
                        got += await stream.receive()
                    await stream.send(drop)
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return got


async def test_a_connection_that_says_nothing_is_ended():
    async with listening(head_timeout_seconds=0.1) as port:
        assert await exchange(port) == b""


@pytest.mark.parametrize(
    ("start", "drop"),
    [(b"GET /livez HTTP/1.1\r\n", b"X-A: b\r\n"), (b"GET /", b"a"), (b"GET / HTTP/1.1\r\nX: ", b"y"), (b"", b"\r\n")],
)
async def test_a_head_that_comes_by_drops_is_ended(start: bytes, drop: bytes):
    async with listening(head_timeout_seconds=0.2) as port:
        assert await drip(port, start, drop) == b""


async def test_a_body_that_comes_by_drops_is_ended():
    head = b"POST /api/v1/query HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n"
    async with listening(request_timeout_seconds=0.2) as port:
        got = await drip(port, head, b"x")
    assert got.startswith(b"HTTP/1.1 503 ")
    assert b"Took too long" not in got  # Prometheus' form has no title
    assert b"not ready within 0.2 s" in got


async def test_a_body_that_goes_on_after_its_answer_is_ended():
    head = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with listening(request_timeout_seconds=0.2) as port:
        got = await drip(port, head, b"1\r\nx\r\n")
    assert got.startswith(b"HTTP/1.1 404 ")
    assert got.count(b"HTTP/1.1") == 1


async def test_a_flood_after_an_answer_is_ended():
    head = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with listening(max_body_bytes=1024) as port:
        got = await drip(port, head, b"10000\r\n" + bytes(65_536) + b"\r\n")
    assert got.count(b"HTTP/1.1") <= 1  # the end may overtake it


async def test_a_head_may_not_be_endless():
    async with listening() as port:
        for pieces in (
            (b"GET /livez HTTP/1.1\r\nX: " + b"x" * MAX_HEAD_BYTES,),
            (b"GET /livez HTTP/1.1\r\nX: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n",),
            (b"GET /livez HTTP/1.1\r\n", b"X: y\r\n" * (MAX_HEAD_BYTES // 6 + 1)),
            (b"GET /" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n",),
        ):
            got = await exchange(port, *pieces)
            assert got.startswith(b"HTTP/1.1 431 "), got[:80]
            assert b"application/problem+json" in got
        assert b" 200 OK" in (await exchange(port, ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")))


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT evil.example:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX : y\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_no_http_is_refused_once(request_bytes: bytes):
    async with listening(head_timeout_seconds=0.5, request_timeout_seconds=0.5) as port:
        got = await exchange(port, request_bytes)
    assert got.count(b"HTTP/1.1 ") <= 1
    assert got == b"" or got.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 405 ")), got


async def test_an_upgrade_is_not_made():
    ask = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n"
    async with listening(request_timeout_seconds=0.3) as port:
        for protocol in (b"websocket", b"h2c"):
            assert (await exchange(port, ask % protocol)).startswith(b"HTTP/1.1 200 OK")


async def test_more_connections_than_allowed_are_cut_and_others_served_again_later():
    async with listening(max_connections=4) as port:
        here = [await anyio.connect_tcp("127.0.0.1", port) for _ in range(2)]
        for stream in here:
            await stream.send(ASK)
            assert b"200 OK" in await stream.receive()
        assert await exchange(port, ASK) == b""  # one address does not get more than half
        there = [await anyio.connect_tcp("127.0.0.1", port, local_host="127.0.0.2") for _ in range(2)]
        for stream in there:
            await stream.send(ASK)
            assert b"200 OK" in await stream.receive()
        async with await anyio.connect_tcp("127.0.0.1", port, local_host="127.0.0.3") as fifth:
            assert await rest(fifth) == b""
        for stream in (*here, *there):
            await stream.aclose()
        with anyio.fail_after(PATIENCE_SECONDS):
            closing = ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            while not (await exchange(port, closing)).startswith(b"HTTP/1.1 200"):
                await anyio.lowlevel.checkpoint()


async def test_a_client_that_does_not_read_its_answer_is_cut():
    size = 64 << 20
    began, ended = anyio.Event(), anyio.Event()

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        began.set()
        try:
            with anyio.move_on_after(0.2):  # as the gate does
                await Response(bytes(size))(scope, receive, send)
        finally:
            ended.set()

    ports: list[int] = []
    async with anyio.create_task_group() as group:

        async def run() -> None:
            limits = LimitSettings(request_timeout_seconds=0.2)
            await serve(large, "127.0.0.1", 0, limits=limits, on_listening=lambda _host, port: ports.append(port))

        group.start_soon(run)
        with anyio.fail_after(PATIENCE_SECONDS):
            while not ports:
                await anyio.lowlevel.checkpoint()
            with socket.create_connection(("127.0.0.1", ports[0])) as client:
                client.setblocking(False)
                client.send(ASK)
                await began.wait()
                await ended.wait()
                while established(ports[0]):  # nothing is read: only the kernel can tell
                    await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()


def established(port: int) -> bool:
    """Whether a connection to this port is open at the server's end."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(int(local.partition(":")[2], 16) == port and state == "01" for _, local, _, state, *_ in rows)


async def test_one_connection_serves_many_requests_pipelined_or_not():
    async with listening() as port:
        got = await exchange(port, ASK * 3 + ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert got.count(b"HTTP/1.1 200 OK") == 4
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as api:
            for _ in range(20):
                async with api.post("/api/v1/query", data={"query": "1+1"}) as answer:
                    assert answer.status == 200
