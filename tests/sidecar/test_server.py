"""Clients' connections: when they are closed, where they come from, and that watching them never disturbs them."""

import json
import socket
from collections.abc import Callable

import anyio
import pytest

from agent.core.requests import RequestEnded, RequestEvent, RequestProgressed, RequestStarted
from agent.sidecar.server import MOST_PLANS
from tests.support.sidecar import events, record, records, sidecar
from tests.support.upstream import Message, Wire, chunked, connect, post, repeat, until, upstream, whole

CHAT = b'{"model":"tiny","stream":true,"messages":[]}'
TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def ipv6() -> bool:
    if not socket.has_ipv6:
        return False
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


IMPATIENT = {"idle_seconds": 0.1, "crowded_idle_seconds": 0.1, "head_timeout_seconds": 0.1}
needs_ipv6 = pytest.mark.skipif(not ipv6(), reason="this machine has no IPv6 loopback address")


async def test_a_stream_tells_its_progress_once_a_second_while_it_runs() -> None:
    go_on, told = anyio.Event(), anyio.Event()

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(HEAD + chunk(TOKEN + TOKEN))
        await go_on.wait()
        await wire.send(chunk(TOKEN))
        await told.wait()
        await wire.send(chunk(DONE) + b"0\r\n\r\n")
        await wire.until_closed()

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        await client.send(post(CHAT))

        def progress() -> list[RequestProgressed]:
            return [event for event in events(proxy) if isinstance(event, RequestProgressed)]

        await until(lambda: len(progress()) == 1)
        go_on.set()
        await until(lambda: len(progress()) == 2)
        told.set()
        assert (await client.answer()).body == TOKEN * 3 + DONE
        end = await record(proxy)
        kinds = [type(event) for event in events(proxy)]
        assert kinds == [RequestStarted, RequestProgressed, RequestProgressed, RequestEnded]
        first, second = progress()
        assert {first.id, second.id} == {end.id}
        assert (first.output_tokens, second.output_tokens, end.usage.output_tokens) == (2, 3, 3)
        assert first.at_ns - end.started_at_ns >= 1_000_000_000
        assert second.at_ns - first.at_ns >= 1_000_000_000


@pytest.mark.parametrize(
    ("begun", "answer"),
    [(b"", b""), (b"POST /v1/completions HTTP/1.1\r\nhost: e\r\n", b"HTTP/1.1 408 Too slow\r\n")],
    ids=["nothing", "half-a-head"],
)
async def test_a_client_without_a_request_is_closed_after_a_while(begun: bytes, answer: bytes) -> None:
    async with (
        upstream(repeat(whole(b"{}"))) as engine,
        sidecar(engine.url, limits=IMPATIENT) as proxy,
        connect(proxy.port) as client,
    ):
        await client.send(begun)
        said = await client.until_closed()
        assert said[: len(answer) or None] == answer
        await until(lambda: not proxy.listener.connections)
        assert engine.connections == 0


async def test_a_client_that_waits_for_its_answer_is_not_idle() -> None:
    go_on = anyio.Event()

    async def script(wire: Wire) -> None:
        await wire.message()
        await go_on.wait()
        await wire.send(whole(b"late"))
        await wire.until_closed()

    async with (
        upstream(script) as engine,
        sidecar(engine.url, limits=IMPATIENT) as proxy,
        connect(proxy.port) as waiting,
        connect(proxy.port) as idle,
    ):
        await waiting.send(post(b"{}"))
        await until(lambda: engine.connections == 1)
        assert await idle.until_closed() == b""  # by now the other one has been silent for as long
        go_on.set()
        assert (await waiting.answer()).body == b"late"


@needs_ipv6
async def test_clients_and_engines_may_speak_ipv6() -> None:
    heads: list[Message] = []

    async def script(wire: Wire) -> None:
        heads.append(await wire.message())
        await wire.send(whole(b"six"))
        await wire.until_closed()

    async with (
        upstream(script, host="::1") as engine,
        sidecar(engine.url, listen="[::1]:0", admin_listen="[::1]:0") as proxy,
        connect(proxy.port, host="::1") as client,
    ):
        await client.send(b"POST /v1/completions HTTP/1.1\r\ncontent-length: 2\r\nx-engineroom-tenant: t\r\n\r\n{}")
        assert (await client.answer()).body == b"six"
        seen = await record(proxy)
        assert heads[0].field("x-forwarded-for") == "::1"
        assert heads[0].field("host") == seen.upstream == f"[::1]:{engine.port}"
        assert seen.tenant == "t"  # ::1 is a loopback address too


async def test_a_request_that_waits_its_turn_goes_with_its_client() -> None:
    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(whole(b"{}"))
        await wire.message()
        await wire.until_closed()

    async with upstream(script) as engine, sidecar(engine.url) as proxy:
        async with connect(proxy.port) as client:
            await client.send(post(b"1") + post(b"2"))
            await client.answer()
        await until(lambda: not proxy.listener.connections)
        assert not proxy.forwarder.active
        await until(lambda: len(records(proxy)) == 2)
        assert [seen.outcome for seen in records(proxy)] == ["ok", "client_abort"]
        assert engine.connections == 1


async def test_a_tunnel_that_both_sides_have_ended_is_closed() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
        assert await wire.until_closed() == b"last words"
        await wire.send(b"good bye")

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: e\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        assert (await client.head()).status == 101
        await client.send(b"last words")
        client.writer.write_eof()
        assert await client.until_closed() == b"good bye"
        await until(lambda: not proxy.listener.connections)
        assert not proxy.forwarder.active


async def test_a_body_that_is_no_http_ends_its_own_request_only() -> None:
    async with upstream(repeat(whole(b"{}"))) as engine, sidecar(engine.url) as proxy:
        async with connect(proxy.port) as client:
            await client.send(b"POST /a HTTP/1.1\r\nhost: e\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n")
            assert (await client.until_closed()).startswith(b"HTTP/1.1 400 Bad request\r\n")
        assert (await record(proxy)).outcome == "rejected"
        async with connect(proxy.port) as client:
            await client.send(post(b"{}"))
            assert (await client.answer()).status == 200


def no_room(_: Callable[[int], RequestEvent]) -> None:
    raise ValueError("a bug in the metering")


async def test_a_client_gets_every_byte_when_the_records_cannot_be_made() -> None:
    async with (
        upstream(repeat(chunked(TOKEN, TOKEN, DONE))) as engine,
        sidecar(engine.url) as proxy,
        connect(proxy.port) as client,
    ):
        put, proxy.forwarder.recorder.put = proxy.forwarder.recorder.put, no_room
        for _ in range(3):
            await client.send(post(CHAT))
            assert (await client.answer()).body == TOKEN * 2 + DONE
        assert proxy.forwarder.tally.observation_failures > 0
        assert records(proxy) == []
        proxy.forwarder.recorder.put = put
        await client.send(post(CHAT))
        assert (await client.answer()).body == TOKEN * 2 + DONE
        assert (await record(proxy)).outcome == "ok"


class Failing:
    """In the place of a meter: whatever is asked of it, it fails."""

    def feed(self, data: bytes, now_ns: int) -> None:
        raise LookupError(data, now_ns)

    def output_tokens(self) -> int:
        raise ArithmeticError

    def finish(self, now_ns: int) -> None:
        raise TypeError(now_ns)


async def test_a_client_gets_every_byte_when_the_meter_fails_midway() -> None:
    go_on = anyio.Event()

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(HEAD + chunk(TOKEN))
        await go_on.wait()
        await wire.send(chunk(TOKEN) + chunk(DONE) + b"0\r\n\r\n")
        await wire.until_closed()

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        await client.send(post(CHAT))
        head = await client.head()
        (exchange,) = proxy.forwarder.active
        assert exchange.observation is not None
        exchange.observation._meter = Failing()  # type: ignore[assignment] # a meter cannot be given from outside
        go_on.set()
        assert (await client.body(head)).body == TOKEN * 2 + DONE
        seen = await record(proxy)
    assert proxy.forwarder.tally.observation_failures == 1
    assert (seen.outcome, seen.usage.output_tokens) == ("ok", None)
    assert seen.response_bytes == len(TOKEN * 2 + DONE)


@pytest.mark.parametrize(
    "strange",
    [
        b"data: " + b"[" * 100_000 + b"\n\n",
        b"data: \xff\xfe\x00\n\n",
        b'data: {"choices":[{"delta":{"content":"\\ud800"}}],"usage":{"completion_tokens":1e400}}\n\n',
        b'data: {"choices":null,"usage":-1,"error":[]}\n\n',
        b"\r\r\n\n\r",
    ],
    ids=["deep", "no-utf-8", "no-number", "wrong-types", "line-ends"],
)
async def test_strange_events_pass_like_any_bytes(strange: bytes) -> None:
    async with (
        upstream(repeat(chunked(TOKEN, strange, DONE))) as engine,
        sidecar(engine.url) as proxy,
        connect(proxy.port) as client,
    ):
        await client.send(post(json.dumps({"model": strange.decode("latin-1")}).encode()))
        assert (await client.answer()).body == TOKEN + strange + DONE
        await record(proxy)


@pytest.mark.parametrize(
    ("more", "remembered"),
    [
        ("X-A: 1\r\n", 1),
        (f"X-A: {'1' * 5000}\r\n", 0),  # what clients choose must not fill the memory
        ("X-Request-Id: 7\r\n", 0),  # no other request will say it again
        ("Transfer-Encoding: chunked\r\n", 0),
    ],
)
async def test_a_head_that_comes_again_is_found_again(more: str, remembered: int) -> None:
    body = b"5\r\n{   }\r\n0\r\n\r\n" if "chunked" in more else b"{   }"
    length = "" if "chunked" in more else f"Content-Length: {len(body)}\r\n"
    head = f"POST /v1/completions HTTP/1.1\r\nHost: e\r\n{length}{more}\r\n".encode()
    async with (
        upstream(repeat(whole(b"{}"))) as engine,
        sidecar(engine.url) as proxy,
        connect(proxy.port) as client,
    ):
        for _ in range(3):
            await client.send(head + body)
            assert (await client.answer()).status == 200
        assert len(proxy.listener.plans) == remembered
        await until(lambda: len(records(proxy)) == 3)


async def test_plans_are_few() -> None:
    async with (
        upstream(repeat(whole(b"{}"))) as engine,
        sidecar(engine.url) as proxy,
        connect(proxy.port) as client,
    ):
        for number in range(MOST_PLANS + 2):
            await client.send(f"GET /health HTTP/1.1\r\nHost: e\r\nX-A: {number}\r\n\r\n".encode())
            assert (await client.answer()).status == 200
        assert len(proxy.listener.plans) == 2
