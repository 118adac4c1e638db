"""Engines with moods behind a gateway: each does with its next request what its mood says, and keeps what it heard."""

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio

from agent.core.requests import RequestRecord
from tests.support.sidecar import Proxy, records, sidecar
from tests.support.upstream import Message, ScriptedUpstream, Wire, chunked, connect, post, until, upstream, whole

Mood = Literal["good", "stream", "broken", "busy", "close", "reset", "half", "hang", "hold", "garbage", "close_once"]
EVENT = b'data: {"id":"c","model":"tiny","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
STREAM = (EVENT % b"a", EVENT % b"b", b"data: [DONE]\n\n")
BODY = b'{"id":"x","model":"tiny","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}'
UNCHECKED = {"check": False}
CHAT = b'{"model":"tiny","messages":[]}'


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(eq=False)
class Member:
    """One engine. `heard`: its requests, without the questions for its health, of which `asked` counts."""

    mood: Mood = "good"
    heard: list[Message] = field(default_factory=list)
    asked: int = 0
    holding: int = 0  # requests that wait in the mood `hold`
    most: int = 0  # that waited so at the same time
    let_go: anyio.Event = field(default_factory=anyio.Event)
    at: ScriptedUpstream = field(default_factory=ScriptedUpstream)

    @property
    def url(self) -> str:
        return self.at.url

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.at.port}"

    async def script(self, wire: Wire) -> None:
        while True:
            message = await wire.message()
            if message.start.startswith("GET /health "):
                self.asked += 1
                if self.mood == "hang":
                    await wire.until_closed()
                    return
                await wire.send(whole(b"", status="500 No" if self.mood == "broken" else "200 OK"))
                continue
            self.heard.append(message)
            if not await self._answer(wire):
                return

    async def _answer(self, wire: Wire) -> bool:
        """Whether the connection goes on."""
        match self.mood:
            case "good":
                await wire.send(whole(BODY))
            case "stream":
                await wire.send(chunked(*STREAM))
            case "broken":
                await wire.send(whole(b'{"error":"no"}', status="500 Internal Server Error"))
            case "busy":
                await wire.send(whole(b'{"error":"later"}', status="503 Service Unavailable"))
            case "hold":
                self.holding += 1
                self.most = max(self.most, self.holding)
                goes_on = await self._until_let_go(wire)
                self.holding -= 1
                if not goes_on:
                    return False
                await wire.send(whole(BODY))
            case "hang":
                await wire.until_closed()
                return False
            case "half":
                await wire.send(chunked(*STREAM)[:-30])
                wire.reset()
                return False
            case "garbage":
                await wire.send(b"this is no HTTP\r\n\r\n")
                return False
            case "reset":
                wire.reset()
                return False
            case "close_once":
                self.mood = "good"
                return False
            case "close":
                return False
        return True

    async def _until_let_go(self, wire: Wire) -> bool:
        """False: the other side has gone before."""
        goes_on = False
        async with anyio.create_task_group() as group:

            async def let_go() -> None:
                nonlocal goes_on
                await self.let_go.wait()
                goes_on = True
                group.cancel_scope.cancel()

            group.start_soon(let_go)
            try:
                await wire.reader.read(1)
            except ConnectionError:
                pass  # gone by a reset
            group.cancel_scope.cancel()
        return goes_on

    def hold_again(self) -> None:
        """Requests that come now are held."""
        self.let_go = anyio.Event()


@asynccontextmanager
async def member(mood: Mood = "good", port: int = 0) -> AsyncIterator[Member]:
    """One engine on a free port."""
    made = Member(mood)
    async with upstream(made.script, port=port) as made.at:
        yield made


@asynccontextmanager
async def gateway(*moods: Mood, **settings: Any) -> AsyncIterator[tuple[Proxy, Sequence[Member]]]:
    """A sidecar before as many engines as there are moods. Unless `balance` says so, it does not ask for health."""
    async with AsyncExitStack() as stack:
        members = [await stack.enter_async_context(member(mood)) for mood in moods]
        entries = [{"url": one.url} for one in members]
        settings = {"upstreams": entries, "balance": UNCHECKED, **settings}
        proxy = await stack.enter_async_context(sidecar(members[0].url, **settings))
        yield proxy, members


def under_way(proxy: Proxy) -> list[int]:
    """Requests that each engine is counted to have."""
    return [engine.outstanding for engine in proxy.forwarder.upstreams.engines]


async def ask(proxy: Proxy, request: bytes = post(CHAT)) -> Message:
    async with connect(proxy.port) as client:
        await client.send(request)
        return await client.answer()


async def settled(proxy: Proxy, count: int) -> list[RequestRecord]:
    """The records of so many requests; by then no engine is counted to have any."""
    await until(lambda: len(records(proxy)) >= count and not proxy.forwarder.active)
    assert len(records(proxy)) == count
    assert set(under_way(proxy)) == {0}
    return records(proxy)


@asynccontextmanager
async def with_a_dead_one(**more: object) -> AsyncIterator[tuple[Proxy, Member]]:
    """A gateway before a port where nobody listens, and a good engine."""
    async with member() as good:
        entries = [{"url": f"http://127.0.0.1:{free_port()}"}, {"url": good.url}]
        async with sidecar(good.url, upstreams=entries, **{"balance": {"check": False}, **more}) as proxy:
            yield proxy, good
