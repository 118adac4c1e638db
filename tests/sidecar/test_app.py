"""The whole sidecar: as a process that is told to stop, and its order of ending in the test's own loop."""

import signal
import socket

import anyio
import pytest

from agent.core.ports import ConfigError
from agent.core.requests import RequestEnded, RequestRecord
from tests.support.agent import free_port
from tests.support.sidecar import Receiver, receiver, sidecar, sidecar_process
from tests.support.upstream import Wire, connect, post, repeat, until, upstream, whole

CHAT = b'{"model":"tiny","stream":true,"messages":[]}'
TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def shipped(agent: Receiver) -> list[RequestRecord]:
    return [event.record for event in agent.accepted if isinstance(event, RequestEnded)]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
async def test_a_stream_in_flight_ends_well_after_a_signal(sent: signal.Signals) -> None:
    go_on = anyio.Event()

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(HEAD + chunk(TOKEN))
        await go_on.wait()
        await wire.send(chunk(TOKEN) + chunk(DONE) + b"0\r\n\r\n")
        await wire.until_closed()

    port = free_port()
    async with (
        upstream(script) as engine,
        receiver() as agent,
        sidecar_process(
            listen=f"127.0.0.1:{port}",
            admin_listen="127.0.0.1:0",
            upstream=engine.url,
            agent_url=agent.url,
            name="by-process",
            drain_seconds=60,
        ) as process,
    ):
        await process.until_it_says("sidecar_listening")
        async with connect(port) as client, connect(port) as idle:
            await client.send(post(CHAT, more="x-engineroom-tenant: team\r\n"))
            head = await client.head()
            process.process.send_signal(sent)
            assert await idle.until_closed() == b""  # who has no request is sent away at once
            with pytest.raises(OSError, match=r"."):  # and nobody new is let in
                await client_of(port)
            go_on.set()
            assert (await client.body(head)).body == TOKEN * 2 + DONE
            assert await client.until_closed() == b""  # though this client would have kept its connection
            assert await process.ended() == 0
    (seen,) = shipped(agent)
    assert (seen.outcome, seen.status, seen.model, seen.tenant) == ("ok", 200, "tiny", "team")
    assert seen.usage.output_tokens == 2
    assert {batch.sidecar for batch in agent.batches} == {"by-process"}
    assert "record_events_lost" not in process.said


async def client_of(port: int) -> None:
    async with connect(port):
        pass


@pytest.mark.parametrize("key", ["listen", "admin_listen"])
async def test_a_taken_port_ends_the_process_with_the_settings_name(key: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        given = {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0", key: address}
        async with sidecar_process(**given) as process:
            assert await process.ended() == 2
    assert f"sidecar.{key}" in process.said
    assert f"cannot listen on {address}" in process.said
    assert "Traceback" not in process.said


async def test_a_wrong_setting_ends_the_process_with_its_name() -> None:
    async with sidecar_process(upstream="engine:8000") as process:
        assert await process.ended() == 2
    assert "sidecar.upstream" in process.said
    assert "http://host:port" in process.said


async def test_a_second_sidecar_on_the_same_port_leaves_the_first_alone() -> None:
    async with upstream(repeat(whole(b"{}"))) as engine, sidecar(engine.url) as proxy:
        for key, port in (("listen", proxy.port), ("admin_listen", proxy.admin_port)):
            with pytest.raises(ConfigError, match=f"sidecar.{key}"):
                async with sidecar(engine.url, **{key: f"127.0.0.1:{port}"}):
                    pass
        async with connect(proxy.port) as client:
            await client.send(post(b"{}"))
            assert (await client.answer()).status == 200


@pytest.mark.parametrize("begun", [True, False])
async def test_what_has_not_ended_by_the_deadline_is_cut_and_told(begun: bool) -> None:
    async def script(wire: Wire) -> None:
        await wire.message()
        if begun:
            await wire.send(HEAD + chunk(TOKEN))
        await wire.until_closed()

    async with upstream(script) as engine, receiver() as agent, anyio.create_task_group() as group:
        stop, ended = anyio.Event(), anyio.Event()
        ports: list[int] = []

        async def serve() -> None:
            async with sidecar(engine.url, agent_url=agent.url, drain_seconds=0.1) as proxy:
                ports.append(proxy.port)
                await stop.wait()
            ended.set()

        group.start_soon(serve)
        await until(lambda: bool(ports))
        async with connect(ports[0]) as client:
            await client.send(post(CHAT))
            if begun:
                await client.head()
            await until(lambda: engine.connections == 1)
            stop.set()
            rest = await client.until_closed()
            assert rest == chunk(TOKEN) if begun else rest.startswith(b"HTTP/1.1 503 Shutting down\r\n")
            with anyio.fail_after(5):
                await ended.wait()
    (seen,) = shipped(agent)
    assert (seen.outcome, seen.status) == ("error", 200 if begun else 503)
    assert seen.error == "not finished within drain_seconds (0.1 s)"
    assert seen.usage.output_tokens == (1 if begun else None)


async def test_however_the_body_ends_every_port_is_closed() -> None:
    ports: list[int] = []

    async def fail() -> None:
        async with sidecar("http://127.0.0.1:9") as proxy, connect(proxy.port):
            ports.extend((proxy.port, proxy.admin_port))
            raise LookupError("the body fails")

    with pytest.raises(ExceptionGroup) as raised:
        await fail()
    assert raised.group_contains(LookupError)
    assert len(ports) == 2
    for port in ports:
        with pytest.raises(OSError, match=r"."):
            await client_of(port)
