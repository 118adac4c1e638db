"""A small HTTP server for tests that answers as told: well, badly, slowly, or not at all."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes, *, status: int = 200, length: int | None = None, **headers: str) -> Reply:
    """A whole answer; `length` lies about the body's size. Header names are written with `_` for `-`."""
    lines = [f"HTTP/1.1 {status} Reason", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = "\r\n".join([*lines, "Connection: close", "", ""]).encode()

    async def reply(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head + body)
        await writer.drain()

    return reply


def raw(data: bytes) -> Reply:
    """Exactly these bytes, then the end of the connection; none at all for b''."""

    async def reply(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return reply


def drip(body: bytes, seconds: float) -> Reply:
    """A promised body of a megabyte, of which one byte comes each `seconds` until the client goes."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        for at in range(len(body)):
            writer.write(body[at : at + 1])
            await writer.drain()
            with anyio.move_on_after(seconds):
                await reader.read()  # ends when the client goes
                return

    return reply


async def held(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """No answer at all, until the client goes."""
    await reader.read()


async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A page that never ends, as fast as it is read."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"vllm:a 1\n" * 7000
    while True:
        writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        await writer.drain()


def reset(body: bytes) -> Reply:
    """A promised body, of which this much comes; then the connection is reset."""

    async def reply(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + body)
        await writer.drain()
        peer = writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return reply


@dataclass
class ToldServer:
    """`replies` maps a path to what happens there; other paths answer 404. `asked` lists the paths in order."""

    url: str
    replies: dict[str, Reply]
    asked: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@asynccontextmanager
async def told_server(
    replies: dict[str, Reply] | None = None, port: int = 0, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ToldServer]:
    """Serve on a free loopback port until the body ends. `tls`: the server's certificate; then the url is https."""
    told = ToldServer("", replies or {})

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ", 2)[1]
            told.asked.append(path)
            told.heads.append(head)
            await told.replies.get(path, answer(b"no such page", status=404))(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away, as some tests want
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=tls)
    told.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield told
