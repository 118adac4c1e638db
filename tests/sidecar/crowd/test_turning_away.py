"""Turned away over real sockets: the answer arrives, also when the request was sent before it was looked at."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import anyio
import pytest

from agent.sidecar.crowd import turning_away
from agent.sidecar.crowd.turning_away import BUSY, TurningAway
from tests.support.credentials import make_ca
from tests.support.upstream import until

REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 20000\r\n\r\n" + b"x" * 20000


class Refusing(asyncio.Protocol):
    heard = 0

    def __init__(self, door: TurningAway) -> None:
        self.door = door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.door.turn_away(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        Refusing.heard += 1

    def connection_lost(self, exc: Exception | None) -> None:
        Refusing.heard += 1


@asynccontextmanager
async def door(context: ssl.SSLContext | None = None) -> AsyncIterator[tuple[TurningAway, int]]:
    made = TurningAway()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Refusing(made), "127.0.0.1", 0, ssl=context)
    try:
        yield made, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        made.cut_all()


async def test_the_answer_arrives() -> None:
    async with door() as (made, port):
        for _ in range(20):
            with anyio.fail_after(10):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(REQUEST)
                assert await reader.read() == BUSY
                writer.close()
        await until(lambda: not made.lingering)
    assert Refusing.heard == 0
    head, _, body = BUSY.partition(b"\r\n\r\n")
    assert b"content-length: %d\r\n" % len(body) in head + b"\r\n"


async def test_over_tls(tmp_path: Path) -> None:
    ca = make_ca()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*ca.issue().write(tmp_path))
    client = ssl.create_default_context(cadata=ca.pem.decode())
    async with door(context) as (_, port):
        with anyio.fail_after(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="localhost")
            assert await reader.read() == BUSY
            writer.close()


async def test_who_does_not_go_is_put_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turning_away, "LINGER_SECONDS", 0.1)
    async with door() as (made, port):
        with anyio.fail_after(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.read() == BUSY
            await until(lambda: not made.lingering)
            writer.close()


async def test_who_sends_without_end_is_put_out() -> None:
    async with door() as (_, port):
        with anyio.fail_after(10):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            with pytest.raises(ConnectionError):
                await send_without_end(writer)
            writer.close()


async def send_without_end(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def test_a_crowd_does_not_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turning_away, "MAX_LINGERING", 2)
    async with door() as (made, port):
        clients = []
        with anyio.fail_after(10):
            for _ in range(4):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                assert await reader.read() == BUSY
                clients.append(writer)
        assert len(made.lingering) == 2
        for writer in clients:
            writer.close()
