"""An engine for tests that plays a script of bytes on each connection, and a client that speaks in bytes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

WAIT_SECONDS = 10
GRACE_SECONDS = 0.5


@dataclass(slots=True)
class Message:
    """One HTTP message as it was read: raw head, fields by lower-case name, body without chunk framing."""

    head: bytes
    body: bytes = b""

    @property
    def start(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode()

    @property
    def status(self) -> int:
        return int(self.start.split()[1])

    def fields(self, name: str) -> list[str]:
        found = []
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.decode().lower() == name:
                found.append(value.strip().decode())
        return found

    def field(self, name: str) -> str | None:
        return ", ".join(self.fields(name)) if self.fields(name) else None


class Wire:
    """One connection, read and written as bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        with anyio.fail_after(WAIT_SECONDS):
            await self.writer.drain()

    async def head(self) -> Message:
        with anyio.fail_after(WAIT_SECONDS):
            return Message(await self.reader.readuntil(b"\r\n\r\n"))

    async def body(self, message: Message, *, bodyless: bool = False) -> Message:
        """Read the body that the head announces; without a length, to the end of the connection if it is an answer."""
        with anyio.fail_after(WAIT_SECONDS):
            if bodyless:
                return message
            if "chunked" in (message.field("transfer-encoding") or ""):
                message.body = await self._chunks()
            elif (length := message.field("content-length")) is not None:
                message.body = await self.reader.readexactly(int(length))
            elif message.start.startswith("HTTP/"):
                message.body = await self.reader.read()
        return message

    async def _chunks(self) -> bytes:
        parts = []
        while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
            parts.append(await self.reader.readexactly(size))
            assert await self.reader.readexactly(2) == b"\r\n"
        while await self.reader.readuntil(b"\r\n") != b"\r\n":
            pass  # trailers
        return b"".join(parts)

    async def message(self) -> Message:
        return await self.body(await self.head())

    async def answer(self) -> Message:
        """The final answer: interim ones are passed over."""
        while True:
            head = await self.head()
            if head.status >= 200:
                return await self.body(head, bodyless=head.status in (204, 304))

    async def until_closed(self) -> bytes:
        """What still comes before the other side closes."""
        with anyio.fail_after(WAIT_SECONDS):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        self.writer.transport.abort()


Script = Callable[[Wire], Awaitable[None]]


@dataclass(slots=True)
class ScriptedUpstream:
    host: str = "127.0.0.1"
    port: int = 0
    connections: int = 0
    errors: list[BaseException] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


@asynccontextmanager
async def upstream(script: Script, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[ScriptedUpstream]:
    """An engine that runs `script` on every connection, then closes it. A script's error fails the test at the end.

    At the end, connections are reset; a script that waits for something else than its connection is cancelled then.
    """
    state = ScriptedUpstream(host)
    running: dict[Wire, anyio.CancelScope] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        wire = Wire(reader, writer)
        try:
            with anyio.CancelScope() as running[wire]:
                await script(wire)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the sidecar closed the connection, as it may after the last request
        except Exception as error:  # noqa: BLE001 - shown by the test
            state.errors.append(error)
        finally:
            writer.close()
            del running[wire]

    server = await asyncio.start_server(serve, host, port, limit=2**22)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    except BaseException as error:
        for cause in state.errors:
            error.add_note(f"the engine's script failed: {cause!r}")
        raise
    finally:
        server.close()
        for wire in running:
            wire.reset()
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(GRACE_SECONDS):
                await until(lambda: not running)
            for scope in running.values():
                scope.cancel()
            await until(lambda: not running)
    assert not state.errors, state.errors


def repeat(answer: bytes) -> Script:
    """Answer every request of a connection alike."""

    async def script(wire: Wire) -> None:
        while True:
            await wire.message()
            await wire.send(answer)

    return script


def chunked(*parts: bytes, head: bytes = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n") -> bytes:
    """A whole chunked answer."""
    framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return head + b"transfer-encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


def whole(body: bytes, kind: str = "application/json", status: str = "200 OK", more: str = "") -> bytes:
    """A whole answer with a length."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


@asynccontextmanager
async def connect(port: int, host: str = "127.0.0.1") -> AsyncIterator[Wire]:
    """A client's connection."""
    reader, writer = await asyncio.open_connection(host, port, limit=2**22)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition of this process holds, at most ten seconds."""
    with anyio.fail_after(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110 - conditions are plain state of the sidecar, which tells nobody
            await anyio.sleep(0.005)


def post(body: bytes, path: str = "/v1/chat/completions", more: str = "") -> bytes:
    """A whole request."""
    return f"POST {path} HTTP/1.1\r\nhost: engine\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode() + body
