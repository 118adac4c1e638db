import signal
import socket

import aiohttp
import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from agent.api.server import STOP_SECONDS, listen, serve
from agent.core.ports import ConfigError
from tests.support.api import node, served


def test_a_taken_port_names_the_setting():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"api\.listen: cannot listen on 127\.0\.0\.1:{port}: .* choose another"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_a_host_that_is_not_ours_names_the_setting(host: str):
    with pytest.raises(ConfigError, match=r"api\.listen: cannot listen"):
        listen(host, 0)


async def test_it_serves_until_cancelled_and_frees_the_port():
    async with served(node()) as url, aiohttp.ClientSession(url) as client, client.get("/livez") as answer:
        assert answer.status == 200
    port = int(url.rpartition(":")[2])
    listen("127.0.0.1", port).close()


async def test_it_leaves_the_signals_alone():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with served(node()) as url, aiohttp.ClientSession(url) as client, client.get("/livez"):
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


async def test_a_running_request_is_finished_before_it_stops():
    running, finish = anyio.Event(), anyio.Event()

    async def slow(_request: Request) -> PlainTextResponse:
        running.set()
        await finish.wait()
        return PlainTextResponse("whole")

    got: list[str] = []
    port = await _stop_during(slow, running, finish, got)
    assert got == ["whole"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


async def test_a_request_that_never_ends_does_not_hold_it():
    running = anyio.Event()

    async def stuck(_request: Request) -> PlainTextResponse:
        running.set()
        await anyio.sleep_forever()
        raise AssertionError

    with anyio.fail_after(STOP_SECONDS + 4):
        await _stop_during(stuck, running, None, [])


async def _stop_during(handler, running: anyio.Event, finish: anyio.Event | None, got: list[str]) -> int:
    """Serve, ask, cancel while the request runs, then let it finish; the answer goes to `got`."""
    ports: list[int] = []
    listening = anyio.Event()

    def on_listening(_host: str, port: int) -> None:
        ports.append(port)
        listening.set()

    async def run(scope: anyio.CancelScope) -> None:
        with scope:
            await serve(Starlette(routes=[Route("/", handler)]), "127.0.0.1", 0, on_listening=on_listening)

    async def ask() -> None:
        try:
            async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{ports[0]}/") as answer:
                if answer.status == 200:
                    got.append(await answer.text())
        except aiohttp.ClientError:
            pass  # cut off, which is what the caller looks for

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(run, scope)
        await listening.wait()
        group.start_soon(ask)
        await running.wait()
        scope.cancel()
        if finish is not None:
            finish.set()
    return ports[0]
