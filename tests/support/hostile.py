"""A destination that misbehaves as told: one scripted act for each request, and afterwards a good answer.

Raw asyncio, so that it can break every rule of HTTP. `requests` has what arrived in full, `begun` what began.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio


@dataclass
class Exchange:
    """One request on its way in, and the connection to answer on."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: "Hostile"
    body: bytes | None = None

    async def take(self) -> bytes:
        """Read the body; from then on the request counts as arrived."""
        if self.body is None:
            self.body = await self.reader.readexactly(int(self.headers.get("content-length", "0")))
            self.server.arrived(self)
        return self.body

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def until_gone(self) -> None:
        """Wait until the client gives up."""
        while await self.reader.read(1 << 16):
            pass

    def reset(self) -> None:
        """End the connection as a crashed machine does: with RST, no goodbye."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Act = Callable[[Exchange], Awaitable[bool | None]]
"""Returns True to keep the connection for another request."""


@dataclass
class Hostile:
    url: str
    good: Act
    script: deque[Act] = field(default_factory=deque)
    requests: list[Exchange] = field(default_factory=list)
    begun: list[Exchange] = field(default_factory=list)
    connections: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    bytes_sent: int = 0
    _news: anyio.Event = field(default_factory=anyio.Event)

    def arrived(self, exchange: Exchange) -> None:
        self.requests.append(exchange)
        self.tell()

    def tell(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    async def until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        """Wait until it holds; looked at whenever a request begins, arrives or ends."""
        with anyio.fail_after(seconds):
            while not condition():
                await self._news.wait()


def head(status: int, length: int | None, **headers: str) -> bytes:
    """The beginning of an answer. Header names are written with `_` for `-`."""
    lines = [f"HTTP/1.1 {status} Reason"]
    lines += [] if length is None else [f"Content-Length: {length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def answer(status: int = 200, body: bytes = b"", **headers: str) -> Act:
    """A whole, honest answer; the connection stays."""

    async def act(exchange: Exchange) -> bool:
        await exchange.take()
        await exchange.send(head(status, len(body), **headers) + body)
        return True

    return act


def answered_by(make: Callable[[bytes], tuple[int, bytes]]) -> Act:
    """What `make` says to the body."""

    async def act(exchange: Exchange) -> bool:
        status, body = make(await exchange.take())
        await exchange.send(head(status, len(body)) + body)
        return True

    return act


def bytes_only(data: bytes) -> Act:
    """Exactly these bytes after the request was read, then the end of the connection."""

    async def act(exchange: Exchange) -> None:
        await exchange.take()
        await exchange.send(data)

    return act


async def hang(exchange: Exchange) -> None:
    """Take the request and say nothing."""
    await exchange.take()
    await exchange.until_gone()


async def hang_unread(exchange: Exchange) -> None:
    """Accept and not even read."""
    exchange.server.tell()
    await exchange.until_gone()


async def hang_in_the_middle(exchange: Exchange) -> None:
    await exchange.take()
    await exchange.send(head(200, 1000) + b"half of")
    await exchange.until_gone()


async def reset_before_reading(exchange: Exchange) -> None:
    exchange.reset()


async def reset_after_reading(exchange: Exchange) -> None:
    await exchange.take()
    exchange.reset()


async def cut_answer(exchange: Exchange) -> None:
    """The length promises more than comes."""
    await exchange.take()
    await exchange.send(head(200, 1000) + b'{"half": ')


async def cut_chunks(exchange: Exchange) -> None:
    await exchange.take()
    await exchange.send(head(200, None, Transfer_Encoding="chunked") + b"5\r\nhello\r\n")


async def closed_without_a_word(exchange: Exchange) -> None:
    await exchange.take()


async def closed_after_a_good_answer(exchange: Exchange) -> None:
    """As a server whose keep-alive time is over: the client learns of it only when it tries again."""
    await exchange.server.good(exchange)


async def drip(exchange: Exchange) -> None:
    """A byte now and then, so that no pause is ever long."""
    await exchange.take()
    await exchange.send(head(200, 1_000_000))
    with anyio.move_on_after(30):
        while not exchange.reader.at_eof():
            await exchange.send(b"x")
            with anyio.move_on_after(0.02):
                await exchange.until_gone()
                return


async def huge(exchange: Exchange) -> None:
    """A gigabyte, as fast as it is taken; `bytes_sent` says how much was."""
    await exchange.take()
    await exchange.send(head(200, 1 << 30))
    block = b"x" * (1 << 16)
    for _ in range((1 << 30) // len(block)):
        await exchange.send(block)
        exchange.server.bytes_sent += len(block)


async def two_answers(exchange: Exchange) -> bool:
    """One request, two answers, the second a lie about the next request."""
    await exchange.take()
    await exchange.send(head(503, 0) + head(200, 0))
    return True


async def late_answer(exchange: Exchange) -> bool:
    """A second answer when the client has gone on, where it keeps the connection."""
    await exchange.take()
    await exchange.send(head(503, 0))
    with anyio.move_on_after(0.05):
        await exchange.until_gone()
        return False
    await exchange.send(head(200, 0))
    return True


async def continue_first(exchange: Exchange) -> bool | None:
    await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    return await exchange.server.good(exchange)


def echo(status: int) -> Act:
    """An error page that repeats the whole request, as some frameworks do."""

    async def act(exchange: Exchange) -> bool:
        body = await exchange.take()
        told = f"{exchange.path} {exchange.headers} ".encode() + body
        await exchange.send(head(status, len(told)) + told)
        return True

    return act


def after(take: Callable[[bytes], object], then: Act) -> Act:
    """Give the body to `take` (it is stored), then misbehave: the client cannot know."""

    async def act(exchange: Exchange) -> bool | None:
        take(await exchange.take())
        return await then(exchange)

    return act


@asynccontextmanager
async def hostile(good: Act | None = None, script: list[Act] | None = None) -> AsyncIterator[Hostile]:
    """Serve on a free loopback port until the body ends."""
    server = Hostile("", good or answer(200), deque(script or ()))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        writers.add(writer)
        try:
            while await _exchange(server, reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away, as some tests want
        finally:
            writers.discard(writer)
            writer.close()

    writers: set[asyncio.StreamWriter] = set()
    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener:
        yield server
        listener.close()
        for writer in list(writers):
            writer.transport.abort()


async def _exchange(server: Hostile, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    exchange = Exchange(method, path, headers, reader, writer, server)
    server.begun.append(exchange)
    server.in_flight += 1
    server.most_in_flight = max(server.most_in_flight, server.in_flight)
    server.tell()
    act = server.script.popleft() if server.script else server.good
    try:
        return bool(await act(exchange))
    finally:
        server.in_flight -= 1
        server.tell()
