"""The real sidecar with several workers, and one that takes over from another, as processes."""

import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.core.requests import RequestEnded
from tests.support.agent import free_port
from tests.support.sidecar import NOWHERE, Receiver, SidecarProcess, receiver, sidecar_process
from tests.support.upstream import Wire, connect, post, repeat, until, upstream, whole

CHAT = b'{"model":"tiny","messages":[]}'
ANSWER = b'{"id":"x","model":"tiny","usage":{"prompt_tokens":1,"completion_tokens":2}}'
REUSE = "sockets__reuse_port"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="er-") as path:
        yield Path(path)


def ended(agent: Receiver) -> dict[str, int]:
    """Finished requests by the sidecar's name."""
    count: Counter[str] = Counter()
    for batch in agent.batches:
        count[batch.sidecar] += sum(isinstance(event, RequestEnded) for event in batch.events)
    return dict(count)


async def ask(port: int, times: int) -> None:
    """A new connection for each request."""
    for _ in range(times):
        async with connect(port) as client:
            await client.send(post(CHAT, more="connection: close\r\n"))
            assert (await client.answer()).status == 200


async def counted(port: int, name: str) -> float:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        text = await answer.text()
    return sum(s.value for family in text_string_to_metric_families(text) for s in family.samples if s.name == name)


async def until_all_serve(process: SidecarProcess, count: int) -> None:
    for index in range(count):
        await process.until_it_says(f"worker={index}")


async def test_workers_share_the_requests_and_record_each_once(folder: Path) -> None:
    port, admin = free_port(), free_port()
    async with (
        upstream(repeat(whole(ANSWER))) as engine,
        receiver() as agent,
        sidecar_process(
            listen=f"127.0.0.1:{port}",
            admin_listen=f"127.0.0.1:{admin}",
            upstream=engine.url,
            agent_url=agent.url,
            name="s",
            workers=2,
            spool_dir=folder,
        ) as process,
    ):
        await until_all_serve(process, 2)
        await ask(port, 60)
        assert await counted(admin, "engineroom_sidecar_forwarded_total") == 60
        await until(lambda: sum(ended(agent).values()) == 60)
        assert set(ended(agent)) == {"s#0", "s#1"}
        process.process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
    assert sum(ended(agent).values()) == 60


async def test_what_workers_left_is_shipped_when_there_are_fewer_of_them(folder: Path) -> None:
    port = free_port()
    given = {"listen": f"127.0.0.1:{port}", "admin_listen": "127.0.0.1:0", "name": "s", "spool_dir": folder}
    async with upstream(repeat(whole(ANSWER))) as engine:
        given["upstream"] = engine.url
        async with sidecar_process(**given, workers=2, agent_url=NOWHERE, ship_drain_seconds=0) as process:
            await until_all_serve(process, 2)
            await ask(port, 40)
            process.process.send_signal(signal.SIGTERM)
            assert await process.ended() == 0
        async with receiver() as agent, sidecar_process(**given, agent_url=agent.url) as process:
            await until(lambda: sum(ended(agent).values()) == 40)
            process.process.send_signal(signal.SIGTERM)
            assert await process.ended() == 0
    assert set(ended(agent)) == {"s#0", "s#1"}


async def test_a_wrong_setting_of_workers_ends_with_status_2(folder: Path) -> None:
    (folder / "worker-0").touch()
    async with sidecar_process(
        listen="127.0.0.1:0", admin_listen="127.0.0.1:0", workers=2, spool_dir=folder
    ) as process:
        assert await process.ended() == 2
    assert "worker-0" in process.said
    assert "Traceback" not in process.said


async def test_a_successor_that_starts_first_leaves_no_gap(folder: Path) -> None:
    """Clients with a connection kept open between requests may find it closed; a stream in flight ends well."""
    port = free_port()
    go_on = anyio.Event()

    async def script(wire: Wire) -> None:
        await wire.message()
        await go_on.wait()
        await wire.send(whole(ANSWER))

    async with upstream(script) as slow, receiver() as agent:
        given = {"listen": f"127.0.0.1:{port}", "admin_listen": "127.0.0.1:0", "upstream": slow.url, REUSE: "true"}
        given |= {"agent_url": agent.url, "drain_seconds": "60"}
        async with sidecar_process(**given, name="a", spool_dir=folder / "a") as old:
            await old.until_it_says("sidecar_listening")
            async with connect(port) as client:
                await client.send(post(CHAT))
                await until(lambda: slow.connections == 1)
                async with sidecar_process(**given, name="b", spool_dir=folder / "b") as new:
                    await new.until_it_says("sidecar_listening")
                    old.process.send_signal(signal.SIGTERM)
                    await old.until_it_says("stopping")
                    go_on.set()
                    assert (await client.answer()).status == 200
                    assert await old.ended() == 0
                    await ask(port, 20)
                    new.process.send_signal(signal.SIGTERM)
                    assert await new.ended() == 0
    assert ended(agent) == {"a": 1, "b": 20}
