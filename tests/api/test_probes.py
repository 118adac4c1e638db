import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import anyio
import pytest

from agent.api.probes import (
    MAX_CONNECTIONS,
    MAX_HEAD_BYTES,
    PATHS,
    REQUESTS_AT_ONCE,
    ProbeName,
    check,
    probe_answer,
    serve_probes,
)
from agent.api.server import listen
from agent.clock import NS, boot_ns
from agent.core.ports import ConfigError
from agent.lifecycle import Health
from tests.support.api import node, served


def health(*, successes: int = 1, age_seconds: float = 0.0, error: str = "", draining: bool = False) -> Health:
    found = Health(draining=draining)
    cycle = found.cycle("gpus", 1.0, essential=True)
    cycle.successes, cycle.error = successes, error
    cycle.last_end_boot_ns = boot_ns() - int(age_seconds * NS) if successes else None
    found.cycle("engine chat", 5.0).ok = False  # not essential: never decides
    return found


Case = tuple[ProbeName, Callable[[], Health], int, str]
CASES: list[Case] = [
    ("livez", health, 200, "ok gpus\n"),
    ("livez", Health, 200, "ok process\n"),
    ("livez", lambda: health(age_seconds=29), 200, "ok gpus\n"),
    ("livez", lambda: health(age_seconds=100), 503, "fail gpus: no run has ended for 100 s\n"),
    ("livez", lambda: health(successes=0), 200, "ok gpus\n"),
    ("livez", lambda: health(draining=True), 200, "ok gpus\n"),
    ("readyz", health, 200, "ok gpus\n"),
    ("readyz", lambda: health(successes=0), 503, "fail gpus: has not succeeded yet\n"),
    ("readyz", lambda: health(successes=0, error="no\n driver"), 503, "fail gpus: has not succeeded yet: no driver\n"),
    ("readyz", Health, 503, "fail cycles: none has started yet\n"),
    ("readyz", lambda: health(draining=True), 503, "ok gpus\nfail draining: the agent is stopping\n"),
    ("startupz", health, 200, "ok gpus\n"),
    ("startupz", lambda: health(successes=0), 503, "fail gpus: has not succeeded yet\n"),
    ("startupz", lambda: health(draining=True), 200, "ok gpus\n"),
]


@pytest.mark.parametrize(("probe", "make", "status", "text"), CASES)
def test_answers(probe: ProbeName, make: Callable[[], Health], status: int, text: str):
    state = make()
    assert probe_answer(probe, state, as_json=False) == (status, "text/plain; charset=utf-8", text.encode())
    assert all(c.ok for c in check(probe, state)) == (status == 200)


@asynccontextmanager
async def probes(state: Health) -> AsyncIterator[int]:
    """The probes' own server; gives its port."""
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    started = asyncio.Event()
    async with anyio.create_task_group() as group:

        async def run() -> None:
            await serve_probes(state, "127.0.0.1", port, started=started)

        group.start_soon(run)
        with anyio.fail_after(10):
            await started.wait()
        yield port
        group.cancel_scope.cancel()


async def raw(port: int, request: bytes) -> bytes:
    stream = await anyio.connect_tcp("127.0.0.1", port)
    async with stream:
        await stream.send(request)
        answer = b""
        with anyio.fail_after(10):
            try:
                while True:
                    answer += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return answer


@pytest.mark.parametrize("path", PATHS)
async def test_both_ports_answer_alike(path: str):
    state = health(successes=0, error="x")
    async with probes(state) as port, served(node(health=state)) as url, aiohttp.ClientSession() as client:
        answers = []
        for base in (f"http://127.0.0.1:{port}", url):
            for accept in ("*/*", "application/json"):
                async with client.get(base + path, headers={"Accept": accept}) as answer:
                    assert answer.headers["Cache-Control"] == "no-store"
                    answers.append((answer.status, answer.content_type, await answer.read()))
    assert answers[:2] == answers[2:]
    assert answers[0] != answers[1]


async def test_the_own_port_follows_the_health_over_one_connection():
    state = health()
    async with probes(state) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
        async with client.get("/readyz") as answer:
            assert answer.status == 200
        state.draining = True
        async with client.get("/readyz") as answer:
            assert answer.status == 503
        async with client.head("/livez") as answer:
            assert (answer.status, await answer.read()) == (200, b"")
        async with client.get("/metrics") as answer:
            assert answer.status == 404
        async with client.post("/livez") as answer:
            assert answer.status == 405


async def test_nonsense_is_answered_and_closed():
    async with probes(health()) as port:
        assert (await raw(port, b"\x16\x03\x01nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400")
        assert (await raw(port, b"GET /livez HTTP/1.1\r\nX: " + b"x" * MAX_HEAD_BYTES)) == b""
        assert b"200 OK" in await raw(port, b"GET /livez HTTP/1.0\r\n\r\n")


async def test_too_many_connections_do_not_block_it():
    async with probes(health()) as port:
        streams = [await anyio.connect_tcp("127.0.0.1", port) for _ in range(MAX_CONNECTIONS)]
        # Each newcomer takes the place of the oldest.
        assert (await raw(port, b"GET /livez HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200")
        with anyio.fail_after(10), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await streams[0].receive()
        await streams[-1].send(b"GET /livez HTTP/1.1\r\n\r\n")
        assert (await streams[-1].receive()).startswith(b"HTTP/1.1 200")
        for stream in streams:
            await stream.aclose()


async def test_an_address_may_not_ask_without_end():
    many = b"GET /livez HTTP/1.1\r\n\r\n" * (2 * REQUESTS_AT_ONCE)
    async with probes(health()) as port:
        got = await raw(port, many)
        assert got.count(b"HTTP/1.1 200") >= REQUESTS_AT_ONCE
        assert got.count(b"HTTP/1.1 429") == 1
        async with await anyio.connect_tcp("127.0.0.1", port, local_host="127.0.0.2") as other:
            await other.send(b"GET /livez HTTP/1.1\r\n\r\n")
            assert (await other.receive()).startswith(b"HTTP/1.1 200")


async def test_a_taken_port_names_the_setting():
    with listen("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match=r"api\.probes_listen: cannot listen"):
        await serve_probes(health(), "127.0.0.1", taken.getsockname()[1])
