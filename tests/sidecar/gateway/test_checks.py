"""Engines asked whether they are ready, over real connections."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from aiohttp import web

from agent.sidecar.gateway.balance import Balance, Engine
from agent.sidecar.gateway.checks import Checks, Door, checks_wanted
from agent.sidecar.gateway.settings import BalanceSettings
from agent.sidecar.sockets.addresses import parse_upstream
from agent.sidecar.sockets.dialling import Dialler
from agent.sidecar.sockets.settings import DialSettings
from tests.support.agent import free_port
from tests.support.upstream import Wire, upstream

DIALLER = Dialler(DialSettings())


def door(url: str) -> Door:
    address = parse_upstream(url)
    return Door(address, address.authority.encode())


@asynccontextmanager
async def engine_answering(statuses: list[int]) -> AsyncIterator[tuple[str, list[str]]]:
    """An engine that gives these answers one after the other, the last one for ever; and the paths it was asked."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path_qs)
        return web.Response(status=statuses.pop(0) if len(statuses) > 1 else statuses[0])

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()


async def test_answers_become_readiness() -> None:
    async with engine_answering([503, 503, 200, 404]) as (url, asked):
        engines = [Engine("a"), Engine("b")]
        balance = Balance(engines, BalanceSettings(check_path="/v2/health/ready"))
        checks = Checks(balance, {engines[0]: door(url)}, DIALLER)
        seen = []
        for _ in range(4):
            await checks.step()
            seen.append((engines[0].ready, engines[0].reason))
    told = "/v2/health/ready answers 503"
    assert seen == [(None, ""), (False, told), (True, ""), (None, "")]
    assert asked == ["/v2/health/ready"] * 4


@pytest.mark.parametrize("status", [301, 401, 500])
async def test_other_answers_are_bad_ones(status: int) -> None:
    async with engine_answering([status]) as (url, _):
        engine = Engine("a")
        checks = Checks(Balance([engine], BalanceSettings(check_failures=1)), {engine: door(url)}, DIALLER)
        await checks.step()
        assert (engine.ready, engine.reason) == (False, f"/health answers {status}")


async def test_who_does_not_answer_keeps_nobody_else_waiting() -> None:
    async def silent(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await anyio.sleep_forever()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with (
        engine_answering([200]) as (url, _),
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, silent)
        mute, gone, good = Engine("mute"), Engine("gone"), Engine("good")
        balance = Balance([mute, gone, good], BalanceSettings(check_timeout_seconds=0.1, check_failures=1))
        urls = {mute: f"http://127.0.0.1:{port}", gone: f"http://127.0.0.1:{free_port()}", good: url}
        with anyio.fail_after(5):
            await Checks(balance, {engine: door(where) for engine, where in urls.items()}, DIALLER).step()
        assert [engine.ready for engine in balance.engines] == [False, False, True]
        assert "Timeout" in mute.reason
        assert gone.reason == "Connection refused"
        group.cancel_scope.cancel()
    await listener.aclose()


@pytest.mark.parametrize(
    ("count", "check", "wanted"), [(1, None, False), (2, None, True), (1, True, True), (2, False, False)]
)
def test_several_engines_are_asked_unless_told(count: int, check: bool | None, wanted: bool) -> None:
    balance = Balance([Engine(str(i)) for i in range(count)], BalanceSettings(check=check))
    assert checks_wanted(balance) is wanted


@pytest.mark.parametrize(
    ("said", "ready", "reason"),
    [
        (b"", False, "/health is not answered in HTTP/1.1"),
        (b"SSH-2.0-x\r\n", False, "/health is not answered in HTTP/1.1"),
        (b"x" * 5000, False, "/health is not answered in HTTP/1.1"),
        (b"HTTP/1.0 204 Fine\r\n\r\n", True, ""),
        (b"HTTP/1.1 200\r\n\r\n", True, ""),
    ],
)
async def test_strange_answers(said: bytes, ready: bool, reason: str) -> None:
    heads = []

    async def script(wire: Wire) -> None:
        heads.append(await wire.head())
        for at in range(0, len(said), 7):
            await wire.send(said[at : at + 7])

    async with upstream(script) as here:
        engine = Engine("a")
        asked = Door(parse_upstream(here.url), b"llm.internal")
        await Checks(Balance([engine], BalanceSettings(check_failures=1)), {engine: asked}, DIALLER).step()
        assert (engine.ready, engine.reason) == (ready, reason)
    assert (heads[0].start, heads[0].field("host")) == ("GET /health HTTP/1.1", "llm.internal")
