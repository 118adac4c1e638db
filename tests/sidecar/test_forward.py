"""Requests through a real sidecar to a scripted engine: framing, identity of bytes, failures."""

import hashlib
import random

import anyio
import anyio.lowlevel
import pytest

from agent.core.requests import RequestStarted
from tests.support.sidecar import events, record, records, sidecar
from tests.support.upstream import Message, Wire, chunked, connect, post, repeat, until, upstream, whole

CHAT = b'{"model":"tiny","stream":true,"messages":[]}'
EVENT = b'data: {"id":"c","model":"tiny","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
USAGE = (
    b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,'
    b'"prompt_tokens_details":{"cached_tokens":4}}}\n\n'
)
DONE = b"data: [DONE]\n\n"
STREAM = (EVENT % b"a", EVENT % b"b", EVENT % b"c", USAGE, DONE)


async def exchange(port: int, request: bytes) -> Message:
    async with connect(port) as client:
        await client.send(request)
        return await client.answer()


async def test_a_stream_passes_untouched_and_is_recorded() -> None:
    async with upstream(repeat(chunked(*STREAM))) as engine, sidecar(engine.url) as proxy:
        answer = await exchange(proxy.port, post(CHAT, more="x-engineroom-tenant: team-a\r\n"))
        assert answer.status == 200
        assert answer.body == b"".join(STREAM)
        seen = await record(proxy)
    assert answer.field("x-engineroom-request-id") == seen.id
    assert (seen.outcome, seen.status, seen.model, seen.tenant, seen.streamed) == ("ok", 200, "tiny", "team-a", True)
    assert (seen.usage.input_tokens, seen.usage.input_cached_tokens, seen.usage.output_tokens) == (5, 4, 3)
    assert (seen.request_bytes, seen.response_bytes) == (len(CHAT), len(answer.body))
    assert seen.headers_at_ns is not None
    assert seen.first_token_at_ns is not None
    assert seen.started_at_ns <= seen.headers_at_ns <= seen.first_token_at_ns <= seen.ended_at_ns


async def test_a_start_precedes_the_end_of_what_takes_a_while() -> None:
    started = anyio.Event()

    async def script(wire: Wire) -> None:
        await wire.message()
        await started.wait()
        await wire.send(chunked(*STREAM))
        await wire.until_closed()

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        await client.send(post(CHAT))
        await until(lambda: len(events(proxy)) == 1)
        started.set()
        await client.answer()
        end = await record(proxy)
        start = events(proxy)[0]
    assert isinstance(start, RequestStarted)
    assert (start.id, start.model, start.upstream) == (end.id, "tiny", f"127.0.0.1:{engine.port}")
    assert [event.sequence for event in events(proxy)] == [1, 2]


async def test_the_head_is_passed_on_with_ids_and_without_hop_by_hop_fields() -> None:
    heads = []
    more_fields = "Connection: keep-alive, x-mine\r\nKeep-Alive: timeout=5\r\nX-Mine: 1\r\nX-Kept: 2\r\n"

    async def script(wire: Wire) -> None:
        while True:
            heads.append(await wire.message())
            await wire.send(whole(b"{}", more=more_fields))

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        more = "Connection: keep-alive, X-Secret\r\nX-Secret: 1\r\nTE: trailers\r\nX-Odd-Case: Yes\r\n"
        more += "X-Forwarded-For: 10.0.0.1\r\n"
        await client.send(post(CHAT, path="/v1/chat/completions?a=b%20c", more=more))
        answer = await client.answer()
        await client.send(
            post(CHAT, more="X-Request-Id: mine\r\nTraceparent: 00-" + "ab" * 16 + "-" + "cd" * 8 + "-00\r\n")
        )
        await client.answer()
        await until(lambda: len(records(proxy)) == 2)
        first, second = records(proxy)
    head, own = heads
    assert head.start == "POST /v1/chat/completions?a=b%20c HTTP/1.1"
    assert head.field("host") == "engine"
    assert b"X-Odd-Case: Yes\r\n" in head.head
    assert head.field("x-forwarded-for") == "10.0.0.1, 127.0.0.1"
    assert (head.field("x-forwarded-proto"), head.field("x-forwarded-host")) == ("http", "engine")
    assert all(head.field(name) is None for name in ("connection", "x-secret"))
    assert head.field("te") == "trailers"  # they are passed on, so it may be said again
    assert head.field("x-request-id") == first.id
    assert head.field("traceparent") == f"00-{first.trace_id}-{first.id.replace('-', '')[16:]}-01"
    assert (own.fields("x-request-id"), second.trace_id) == (["mine"], "ab" * 16)
    assert own.field("traceparent") == "00-" + "ab" * 16 + "-" + "cd" * 8 + "-00"
    assert answer.field("x-kept") == "2"
    assert all(answer.field(name) is None for name in ("connection", "keep-alive", "x-mine"))


def pieces(data: bytes, dice: random.Random) -> list[bytes]:
    cuts = sorted(dice.randrange(len(data) + 1) for _ in range(dice.randrange(1, 12)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


@pytest.mark.parametrize("seed", range(8))
async def test_bodies_of_any_size_and_framing_keep_every_byte(seed: int) -> None:
    dice = random.Random(seed)
    up, down = dice.randbytes(dice.randrange(1, 3_000_000)), dice.randbytes(dice.randrange(1, 3_000_000))
    got: list[bytes] = []

    async def script(wire: Wire) -> None:
        message = await wire.message()
        got.append(hashlib.sha256(message.body).digest())
        head = b"HTTP/1.1 200 OK\r\n"
        if seed % 2:
            reply = chunked(*pieces(down, dice), head=head)
        else:
            reply = head + b"Content-Length: %d\r\n\r\n" % len(down) + down
        for piece in pieces(reply, dice):
            await wire.send(piece)
        await wire.until_closed()

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        head = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: e\r\n"
        if seed % 4 < 2:
            request = chunked(*pieces(up, dice), head=head)
        else:
            request = head + b"Content-Length: %d\r\n\r\n" % len(up) + up
        for piece in pieces(request, dice):
            await client.send(piece)
        answer = await client.answer()
        seen = await record(proxy)
    assert got == [hashlib.sha256(up).digest()]
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(down).digest()
    assert (seen.request_bytes, seen.response_bytes, seen.outcome) == (len(up), len(down), "ok")


async def test_one_byte_at_a_time() -> None:
    async def script(wire: Wire) -> None:
        await wire.message()
        for byte in chunked(*STREAM):
            await wire.send(bytes((byte,)))
            await anyio.lowlevel.checkpoint()

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        for byte in post(CHAT):
            await client.send(bytes((byte,)))
            await anyio.lowlevel.checkpoint()
        assert (await client.answer()).body == b"".join(STREAM)
        assert (await record(proxy)).usage.output_tokens == 3


async def test_pipelined_requests_are_answered_one_after_the_other() -> None:
    asked: list[str] = []

    async def script(wire: Wire) -> None:
        while True:
            message = await wire.message()
            asked.append(message.body.decode())
            await wire.send(whole(b'"' + message.body + b'"'))

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        await client.send(b"".join(post(str(n).encode()) for n in range(20)))
        got = [(await client.answer()).body.decode() for _ in range(20)]
    assert got == [f'"{n}"' for n in range(20)]
    assert asked == [str(n) for n in range(20)]
    assert engine.connections == 1


@pytest.mark.parametrize(
    ("request_head", "answer", "status", "body"),
    [
        (b"HEAD /v1/models HTTP/1.1\r\nhost: e\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n", 200, b""),
        (b"GET /a HTTP/1.1\r\nhost: e\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"GET /a HTTP/1.1\r\nhost: e\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 50\r\n\r\n", 304, b""),
        (b"GET /a HTTP/1.1\r\nhost: e\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b""),
        (b"GET /a HTTP/1.1\r\nhost: e\r\n\r\n", chunked(b"x", b"y"), 200, b"xy"),
    ],
)
async def test_answers_without_a_body_leave_the_connection_usable(
    request_head: bytes, answer: bytes, status: int, body: bytes
) -> None:
    async with upstream(repeat(answer)) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        for _ in range(3):
            await client.send(request_head)
            head = await client.head()
            got = await client.body(head, bodyless=not body)
            assert (got.status, got.body) == (status, body)
        assert engine.connections == 1
        assert records(proxy) == []


async def test_an_answer_that_ends_with_the_connection() -> None:
    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n" + b'{"a":1}')

    async with upstream(script) as engine, sidecar(engine.url) as proxy:
        answer = await exchange(proxy.port, post(CHAT))
        assert (answer.start, answer.body, answer.field("connection")) == ("HTTP/1.1 200 OK", b'{"a":1}', "close")
        assert (await record(proxy)).outcome == "ok"


async def test_an_old_client_gets_a_chunked_answer_without_chunks() -> None:
    async with upstream(repeat(chunked(*STREAM))) as engine, sidecar(engine.url) as proxy:
        answer = await exchange(proxy.port, post(CHAT).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert answer.field("transfer-encoding") is None
        assert answer.body == b"".join(STREAM)


async def test_expect_100_continue_is_the_engines_to_answer() -> None:
    async def script(wire: Wire) -> None:
        head = await wire.head()
        assert head.field("expect") == "100-continue"
        await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        message = await wire.body(head)
        await wire.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + whole(message.body))

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        request = post(b"hello", more="Expect: 100-continue\r\n")
        await client.send(request[:-5])
        assert (await client.head()).status == 100
        await client.send(b"hello")
        assert (await client.head()).status == 103
        assert (await client.answer()).body == b"hello"


async def test_an_upgrade_becomes_a_tunnel() -> None:
    async def script(wire: Wire) -> None:
        head = await wire.head()
        assert head.field("upgrade") == "websocket"
        assert head.field("connection") == "upgrade"
        await wire.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")
        assert await wire.reader.readexactly(5) == b"\x00\xff\r\n\x01"
        await wire.send(b"bye")
        assert await wire.until_closed() == b"rest"

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        await client.send(b"GET /v1/realtime HTTP/1.1\r\nHost: e\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        head = await client.head()
        assert (head.status, head.field("upgrade")) == (101, "websocket")
        assert await client.reader.readexactly(5) == b"hello"
        await client.send(b"\x00\xff\r\n\x01")
        assert await client.reader.readexactly(3) == b"bye"
        await client.send(b"rest")
        client.writer.write_eof()
        assert await client.until_closed() == b""


async def test_a_refused_upgrade_goes_on_in_http() -> None:
    refusal = whole(b"no", status="426 Upgrade Required")
    async with upstream(repeat(refusal)) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        await client.send(b"GET /a HTTP/1.1\r\nHost: e\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert (await client.answer()).status == 426
        await client.send(post(b"{}"))
        assert (await client.answer()).status == 426


async def test_a_wish_for_http2_with_a_body_is_passed_over() -> None:
    async with upstream(repeat(whole(b"yes"))) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        for _ in range(2):
            await client.send(
                post(b"hello", more="Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n")
            )
            assert (await client.answer()).body == b"yes"
        await until(lambda: len(records(proxy)) == 2)
        assert [seen.request_bytes for seen in records(proxy)] == [5, 5]


async def test_a_client_that_leaves_closes_the_engines_connection_at_once() -> None:
    closed = anyio.Event()

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(chunked(*STREAM)[:-200])
        await wire.until_closed()
        closed.set()

    async with upstream(script) as engine, sidecar(engine.url) as proxy:
        async with connect(proxy.port) as client:
            await client.send(post(CHAT))
            await client.head()
        with anyio.fail_after(2):
            await closed.wait()
        seen = await record(proxy)
    assert (seen.outcome, seen.status) == ("client_abort", 200)
    assert seen.usage.output_tokens is not None
    assert seen.usage.source == "counted"


async def test_half_close_is_a_departure_unless_it_is_tolerated() -> None:
    for tolerate in (False, True):
        half_closed = anyio.Event()

        async def script(wire: Wire, tolerate: bool = tolerate, half_closed: anyio.Event = half_closed) -> None:
            await wire.message()
            if tolerate:
                await half_closed.wait()
                await wire.send(whole(b"late"))
            else:
                await wire.until_closed()  # the engine is told at once

        async with upstream(script) as engine, sidecar(engine.url, tolerate_half_close=tolerate) as proxy:
            async with connect(proxy.port) as client:
                await client.send(post(CHAT))
                client.writer.write_eof()
                half_closed.set()
                assert (b"late" in await client.until_closed()) is tolerate
            assert (await record(proxy)).outcome == ("ok" if tolerate else "client_abort")


async def test_an_engine_that_is_not_there_is_a_502() -> None:
    async with sidecar("http://127.0.0.1:9") as proxy, connect(proxy.port) as client:
        for _ in range(2):
            await client.send(post(CHAT))
            answer = await client.answer()
            assert (answer.status, answer.field("content-type")) == (502, "application/problem+json")
            assert b"127.0.0.1:9" in answer.body
        await until(lambda: len(records(proxy)) == 2)
        assert [(r.outcome, r.status) for r in records(proxy)] == [("error", 502)] * 2


async def test_an_engine_that_breaks_off() -> None:
    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(chunked(*STREAM)[:-100])

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        await client.send(post(CHAT))
        got = await client.until_closed()
        assert got.endswith(chunked(*STREAM)[-300:-100])
        seen = await record(proxy)
    assert (seen.outcome, seen.status) == ("error", 200)
    assert seen.error is not None


async def test_a_request_that_takes_too_long() -> None:
    async def script(wire: Wire) -> None:
        message = await wire.message()
        if b"begun" in message.body:
            await wire.send(chunked(*STREAM)[:-100])
        await wire.until_closed()

    async with upstream(script) as engine, sidecar(engine.url, request_timeout_seconds=0.3) as proxy:
        assert (await exchange(proxy.port, post(b"silent"))).status == 504
        async with connect(proxy.port) as client:
            await client.send(post(b"begun"))
            assert b"200 OK" in await client.until_closed()
        await until(lambda: len(records(proxy)) == 2)
        assert [(r.outcome, r.status) for r in records(proxy)] == [("timeout", 504), ("timeout", 200)]


async def test_a_first_byte_that_does_not_come() -> None:
    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.until_closed()

    async with upstream(script) as engine, sidecar(engine.url, first_byte_timeout_seconds=0.1) as proxy:
        assert (await exchange(proxy.port, post(b"{}"))).status == 504


async def test_a_kept_connection_that_dies_is_replaced_once() -> None:
    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(whole(b"one"))
        await wire.head()  # the next request has arrived: the engine dies before it answers
        wire.reset()

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        for _ in range(4):
            await client.send(post(CHAT))
            assert (await client.answer()).body == b"one"
        assert engine.connections == 4
        assert proxy.forwarder.tally.retries == 3
        await until(lambda: len(records(proxy)) == 4)
        assert {seen.outcome for seen in records(proxy)} == {"ok"}


async def test_a_fresh_connection_that_dies_is_not_tried_again() -> None:
    async def script(wire: Wire) -> None:
        await wire.message()
        wire.reset()

    async with upstream(script) as engine, sidecar(engine.url) as proxy:
        assert (await exchange(proxy.port, post(CHAT))).status == 502
        assert engine.connections == 1


async def test_unused_connections_are_closed_before_the_engine_does_it() -> None:
    closed = anyio.Event()

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(whole(b"one"))
        await wire.until_closed()
        closed.set()

    async with upstream(script) as engine, sidecar(engine.url, upstream_idle_seconds=0.1) as proxy:
        await exchange(proxy.port, post(CHAT))
        with anyio.fail_after(5):
            await closed.wait()
        assert proxy.forwarder.upstreams.idle == 0


async def test_two_answers_to_one_request_are_not_passed_on() -> None:
    async with upstream(repeat(whole(b"one") + whole(b"two"))) as engine, sidecar(engine.url) as proxy:
        assert (await exchange(proxy.port, post(CHAT))).status == 502


async def test_an_early_answer_ends_the_upload() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(whole(b"too large", status="413 Content Too Large"))
        await wire.until_closed()

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        await client.send(b"POST /v1/completions HTTP/1.1\r\nhost: e\r\ncontent-length: 300000\r\n\r\n" + b"x" * 1000)
        answer = await client.answer()
        assert (answer.status, answer.field("connection")) == (413, "close")
        await client.send(b"x" * 299_000)
        assert await client.until_closed() == b""
        assert (await record(proxy)).outcome == "rejected"


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: e\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: e\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\nhost: e\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: e\r\nx: " + b"a" * 70_000, 431),
        (b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n", 501),
    ],
)
async def test_what_is_not_a_proper_request_never_reaches_the_engine(bad: bytes, status: int) -> None:
    async with upstream(repeat(whole(b"never"))) as engine, sidecar(engine.url) as proxy:
        answer = await exchange(proxy.port, bad)
        assert (answer.status, answer.field("connection")) == (status, "close")
        assert engine.connections == 0


@pytest.mark.parametrize(
    ("path", "answer", "outcome"),
    [
        ("/v1/embeddings", whole(b"{}"), "ok"),
        (
            "/v1/completions",
            whole(b'{"error":{"type":"BadRequestError","message":"your prompt"}}', status="400 Bad"),
            "rejected",
        ),
        ("/v1/completions", whole(b"{}", status="429 Too Many"), "rejected"),
        (
            "/v1/completions",
            whole(b'{"error":{"message":"The request queue is full."}}', status="503 Busy"),
            "rejected",
        ),
        ("/v1/completions", whole(b'{"error":{"message":"loading"}}', status="503 Busy"), "error"),
        ("/v1/completions", whole(b"oops", kind="text/plain", status="500 Bad"), "error"),
        ("/v1/completions", chunked(EVENT % b"a", b'data: {"error":{"type":"X"}}\n\n', DONE), "error"),
        ("/v1/completions", chunked(EVENT % b"a"), "error"),
    ],
)
async def test_outcomes(path: str, answer: bytes, outcome: str) -> None:
    async with upstream(repeat(answer)) as engine, sidecar(engine.url) as proxy:
        await exchange(proxy.port, post(b"{}", path=path))
        seen = await record(proxy)
        assert seen.outcome == outcome
        assert "prompt" not in (seen.error or "")


async def test_a_tenant_is_believed_only_when_trusted() -> None:
    for trusted, value, tenant in ((True, "a" * 64, "a" * 64), (True, "a" * 65, None), (False, "a", None)):
        async with upstream(repeat(whole(b"{}"))) as engine, sidecar(engine.url, trust_tenant_header=trusted) as proxy:
            await exchange(proxy.port, post(b"{}", more=f"X-Engineroom-Tenant: {value}\r\n"))
            assert (await record(proxy)).tenant == tenant
