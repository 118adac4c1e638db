"""Byte identity: what one side sends, the other gets, however it is cut, framed, paused or broken off."""

import asyncio
import hashlib
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Literal

import anyio
import pytest
from aiohttp import ClientSession, WSMsgType, web
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.requests import RequestEnded, RequestRecord
from tests.support.raw_client import Fields, Heard, closed_by_peer, hear_answer, hear_request, play, reset
from tests.support.scripted_engine import Answer, Ask, Engine, Framed, answers, asks, blob, cuts, scripted_engine
from tests.support.sidecar import Proxy, record, sidecar
from tests.support.upstream import Wire, connect, until, upstream

TIMES = 10 if os.environ.get("ENGINEROOM_LONG") else 1
EXAMPLES = settings(
    max_examples=120 * TIMES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
HOPS = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
OURS = {b"x-engineroom-request-id"}
RECORD_ID = b"x-engineroom-request-id"


def digest(body: bytes | bytearray) -> str:
    return hashlib.sha256(body).hexdigest()


def passed_on(fields: Fields) -> Fields:
    """The end-to-end fields: they arrive as they were sent, in their order."""
    return [(name, value) for name, value in fields if name.lower() not in HOPS | OURS]


class Rig:
    """One engine and one sidecar for many examples; `seen` finds a record by its id."""

    def __init__(self, portal: BlockingPortal, engine: Engine, proxy: Proxy) -> None:
        self.portal = portal
        self.engine = engine
        self.proxy = proxy
        self._targets = itertools.count()
        self._seen: dict[str, RequestRecord] = {}
        self._batches = 0

    def target(self, ask: Ask) -> bytes:
        return b"%b?n=%d" % (ask.path, next(self._targets))

    async def seen(self, request_id: bytes) -> RequestRecord:
        wanted = request_id.decode()
        await until(lambda: wanted in self._look())
        return self._seen[wanted]

    def _look(self) -> dict[str, RequestRecord]:
        assert self.proxy.agent is not None
        batches = self.proxy.agent.batches
        for batch in batches[self._batches :]:
            self._seen |= {event.record.id: event.record for event in batch.events if isinstance(event, RequestEnded)}
        self._batches = len(batches)
        return self._seen


@asynccontextmanager
async def engine_and_sidecar() -> AsyncIterator[tuple[Engine, Proxy]]:
    async with scripted_engine() as engine, sidecar(engine.url) as proxy:
        yield engine, proxy


@pytest.fixture(name="rig", scope="module")
def _rig() -> Iterator[Rig]:
    with (
        start_blocking_portal("asyncio", {"use_uvloop": True}) as portal,
        portal.wrap_async_context_manager(engine_and_sidecar()) as (engine, proxy),
    ):
        yield Rig(portal, engine, proxy)


def same_answer(ask: Ask, plan: Answer, got: Heard) -> None:
    """The client got the plan."""
    bodyless = ask.method == b"HEAD" or plan.status in (204, 304)
    body = b"" if bodyless else plan.framed.body
    assert got.whole
    assert got.status == plan.status
    assert digest(got.body) == digest(body), (len(got.body), len(body))
    if not bodyless:
        assert got.framing == plan.framed.framing
        assert got.trailers == (list(plan.framed.trailers) if plan.framed.framing == "chunked" else [])
    sent = [line.split(b": ", 1) for line in plan.head().split(b"\r\n")[1:-2]]
    assert passed_on(got.fields) == passed_on([(name, value) for name, value in sent])
    assert [b"%b\r\n" % one.start for one in got.interim] == [one.split(b"\r\n")[0] + b"\r\n" for one in plan.interim]


def same_request(ask: Ask, heard: Heard) -> None:
    """The engine got what was asked."""
    assert heard.whole
    assert heard.method == ask.method
    assert digest(heard.body) == digest(ask.framed.body)
    assert heard.framing == ask.framed.framing


async def exchange(rig: Rig, pairs: list[tuple[Ask, Answer]], at: tuple[int, ...], turns: int) -> list[bytes]:
    """Pipeline the requests on one connection; the answers must be the plans in their order."""
    targets = [rig.target(ask) for ask, _ in pairs]
    rig.engine.plans |= {target: plan for target, (_, plan) in zip(targets, pairs, strict=True)}
    wire = b"".join(ask.head(target) + ask.framed.wire() for target, (ask, _) in zip(targets, pairs, strict=True))
    async with connect(rig.proxy.port) as client, anyio.create_task_group() as group:
        group.start_soon(play, client.writer, wire, at, turns)
        for target, (ask, plan) in zip(targets, pairs, strict=True):
            got = await hear_answer(client.reader, ask.method)
            same_answer(ask, plan, got)
            (heard,) = rig.engine.heard.pop(target)
            same_request(ask, heard)
            if (request_id := got.one(RECORD_ID)) is not None:
                seen = await rig.seen(request_id)
                assert (seen.request_bytes, seen.response_bytes) == (len(ask.framed.body), len(got.body))
                assert seen.status == plan.status
            else:
                assert ask.method in (b"GET", b"HEAD")
        if pairs[-1][1].framed.framing == "close" and pairs[-1][0].method != b"HEAD":
            assert await closed_by_peer(client)
    assert not rig.engine.strange
    return targets


@EXAMPLES
@given(ask=asks(), plan=answers(), at=cuts, turns=st.integers(0, 3))
def test_any_answer_to_any_request_keeps_every_byte(
    rig: Rig, ask: Ask, plan: Answer, at: tuple[int, ...], turns: int
) -> None:
    rig.portal.call(exchange, rig, [(ask, plan)], at, turns)


@settings(EXAMPLES, max_examples=50 * TIMES)
@given(
    first=st.lists(st.tuples(asks(), answers(last=False)), min_size=1, max_size=4),
    last=st.tuples(asks(), answers()),
    at=cuts,
    turns=st.integers(0, 2),
)
def test_pipelined_requests_get_their_own_answers_in_their_order(
    rig: Rig,
    first: list[tuple[Ask, Answer]],
    last: tuple[Ask, Answer],
    at: tuple[int, ...],
    turns: int,
) -> None:
    rig.portal.call(exchange, rig, [*first, last], at, turns)


REPEATED = (
    b"POST /echo HTTP/1.1\r\nHost: e\r\nX-Long: " + b"a" * 300 + b"\r\nContent-Length: 40\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nHost: e\r\nX-Long: " + b"a" * 300 + b"\r\nContent-Length: 41\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost: e\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost: e\r\n\r\nGET /echo HTTP/1.1\r\nHost: e\r\n\r\n",  # two
    b"POST /echo HTTP/1.1\r\nHost: e\r\nContent-Length: 0\r\n\r\n",
)


def repeated(turns: list[tuple[int, int]]) -> tuple[bytes, list[bytes]]:
    """Requests whose heads come again and again, and their bodies: some are the beginning of a head themselves."""
    wire, bodies = b"", []
    for which, seed in turns:
        head = REPEATED[which]
        said = (REPEATED[seed % len(REPEATED)] if seed % 3 else blob("sse", seed, 80))[:80].ljust(80, b"\r")
        body = {0: said[:40], 1: said[:41]}.get(which, b"")
        if which == 2:
            body = said[: 1 + seed % 80]
            wire += head + Framed(body, "chunked", (1 + seed % 7,)).wire()
        else:
            wire += head + body
        bodies += [body] * (2 if which == 4 else 1)
    return wire, bodies


async def echoed(wire: bytes, bodies: list[bytes], at: tuple[int, ...], back_at: tuple[int, ...], turns: int) -> None:
    heard: list[bytes] = []

    async def echo(engine: Wire) -> None:
        while (request := await hear_request(engine.reader)) is not None:
            body = bytes(request.body)
            heard.append(body)
            answer = Framed(body, "length" if len(heard) % 3 else "chunked", (9,))
            said = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n" + answer.head() + b"\r\n" + answer.wire()
            await play(engine.writer, said, back_at, turns)

    async with (
        upstream(echo) as engine,
        sidecar(engine.url) as proxy,
        connect(proxy.port) as client,
        anyio.create_task_group() as group,
    ):
        group.start_soon(play, client.writer, wire, at, turns)
        answers = [await hear_answer(client.reader) for _ in bodies]
    assert [bytes(answer.body) for answer in answers] == bodies
    assert heard == bodies


@settings(EXAMPLES, max_examples=40 * TIMES)
@given(
    turns=st.lists(st.tuples(st.integers(0, len(REPEATED) - 1), st.integers(0, 200)), min_size=2, max_size=14),
    at=st.lists(st.integers(0, 1 << 14), max_size=30).map(tuple),
    back_at=cuts,
    pauses=st.integers(0, 3),
)
def test_heads_that_come_again_have_their_own_bodies(
    rig: Rig, turns: list[tuple[int, int]], at: tuple[int, ...], back_at: tuple[int, ...], pauses: int
) -> None:
    """Whatever is kept of a head that came before: the bytes after it are read anew."""
    rig.portal.call(echoed, *repeated(turns), at, back_at, pauses)


async def expecting(rig: Rig, ask: Ask, plan: Answer, at: tuple[int, ...]) -> None:
    target = rig.target(ask)
    rig.engine.plans[target] = plan
    ask.fields.append((b"Expect", b"100-continue"))
    async with connect(rig.proxy.port) as client, anyio.create_task_group() as group:
        await play(client.writer, ask.head(target))
        first = await client.reader.readuntil(b"\r\n\r\n")  # without it there would be no body to wait for
        assert first.startswith(b"HTTP/1.1 100")
        group.start_soon(play, client.writer, ask.framed.wire(), at)
        same_answer(ask, plan, await hear_answer(client.reader, ask.method))
    (heard,) = rig.engine.heard.pop(target)
    same_request(ask, heard)


@settings(EXAMPLES, max_examples=25 * TIMES)
@given(ask=asks().filter(lambda ask: ask.framed.framing != "none"), plan=answers(), at=cuts)
def test_a_client_that_waits_for_100_continue_gets_the_engines(
    rig: Rig, ask: Ask, plan: Answer, at: tuple[int, ...]
) -> None:
    rig.portal.call(expecting, rig, ask, plan, at)


async def broken_off(rig: Rig, ask: Ask, plan: Answer) -> None:
    target = rig.target(ask)
    rig.engine.plans[target] = plan
    said = plan.wire(ask.method)
    assert plan.stop is not None
    sent = said[: plan.stop % len(said)]
    head_bytes = len(b"".join(plan.interim) + plan.head())
    async with connect(rig.proxy.port) as client, anyio.create_task_group() as group:
        group.start_soon(play, client.writer, ask.head(target) + ask.framed.wire())
        got = await hear_answer(client.reader, ask.method)
    rig.engine.heard.pop(target)
    if len(sent) < head_bytes:
        assert (got.status, got.whole) == (502, True)
    elif plan.framed.framing == "close":
        assert got.whole  # this end cannot be told from a right one
        assert got.body == plan.framed.body[: len(sent) - head_bytes]
    elif got.start and got.status == 502 and plan.by_reset:
        assert got.whole  # the reset has overtaken the answer's beginning
    else:
        assert not got.whole, "a cut answer that looks like a whole one"
        assert plan.framed.body.startswith(got.body)
        if not plan.by_reset and plan.framed.framing == "length":
            assert len(got.body) == len(sent) - head_bytes
    if got.start and (request_id := got.one(RECORD_ID)) is not None:
        seen = await rig.seen(request_id)
        if got.whole and got.status != 502:
            return
        assert seen.outcome in ("error", "rejected")
        assert seen.outcome == "error" or plan.status < 500


@settings(EXAMPLES, max_examples=150 * TIMES)
@given(ask=asks().filter(lambda ask: ask.method != b"HEAD"), plan=answers(stopped=True))
def test_an_answer_that_breaks_off_never_looks_whole(rig: Rig, ask: Ask, plan: Answer) -> None:
    bodyless = plan.status in (204, 304)  # their heads are whole answers
    if not bodyless and not (plan.framed.framing == "close" and plan.by_reset):  # which has its own tests below
        rig.portal.call(broken_off, rig, ask, plan)


OLD = b"POST /v1/completions HTTP/1.0\r\nhost: e\r\ncontent-length: 2\r\n\r\n{}"
NEW = OLD.replace(b"HTTP/1.0", b"HTTP/1.1")


UNTIL_CLOSE, CHUNKS = b"x-no: length", b"transfer-encoding: chunked"


@pytest.mark.parametrize(
    ("request_bytes", "framing", "breaks"),
    [
        (NEW, UNTIL_CLOSE, "reset"),
        (NEW, UNTIL_CLOSE, "deadline"),
        (OLD, UNTIL_CLOSE, "reset"),
        (OLD, UNTIL_CLOSE, "deadline"),
        (OLD, CHUNKS, "reset"),
        (OLD, CHUNKS, "deadline"),
        (OLD, CHUNKS, "fin"),  # where the body ends with the connection, the engine's own orderly end is its end
    ],
    ids=[
        "close-reset",
        "close-deadline",
        "1.0-reset",
        "1.0-deadline",
        "1.0-of-chunks-reset",
        "1.0-of-chunks-deadline",
        "1.0-of-chunks-fin",
    ],
)
async def test_a_cut_answer_without_a_length_ends_in_a_reset(request_bytes: bytes, framing: bytes, breaks: str) -> None:
    """The client would take an orderly end of the connection for the end of the body."""
    read = anyio.Event()

    async def script(wire: Wire) -> None:
        assert await wire.reader.readuntil(b"{}")
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n%b\r\n\r\n5\r\nhello\r\n" % framing)
        with anyio.fail_after(5):
            await read.wait()
        if breaks == "reset":
            reset(wire)
        elif breaks == "deadline":
            await closed_by_peer(wire)

    seconds = 0.3 if breaks == "deadline" else 60
    async with upstream(script) as engine, sidecar(engine.url, request_timeout_seconds=seconds) as proxy:
        async with connect(proxy.port) as client:
            await client.send(request_bytes)
            assert await client.reader.readuntil(b"hello")
            read.set()
            with pytest.raises(ConnectionResetError):
                await client.reader.read()
        seen = await record(proxy)
    assert seen.outcome == ("timeout" if breaks == "deadline" else "error")


async def half_asked(rig: Rig, ask: Ask, stop: int, by_reset: bool) -> None:
    target = rig.target(ask)
    wire = ask.head(target) + ask.framed.wire()
    async with connect(rig.proxy.port) as client:
        await play(client.writer, wire[: stop % len(wire)])
        if by_reset:
            reset(client)
        else:
            client.writer.write_eof()
        await closed_by_peer(client)
    await until(lambda: not rig.proxy.forwarder.active)
    if target in rig.engine.heard:
        (heard,) = rig.engine.heard.pop(target)
        await until(lambda: not heard.whole)
        assert not heard.whole
        assert ask.framed.body.startswith(heard.body)


@settings(EXAMPLES, max_examples=60 * TIMES)
@given(
    ask=asks().filter(lambda ask: ask.framed.framing != "none" and len(ask.framed.body) > 0),
    stop=st.integers(0, 1 << 20) | st.integers(0, 300),
    by_reset=st.booleans(),
)
def test_half_a_request_never_looks_whole_to_the_engine(rig: Rig, ask: Ask, stop: int, by_reset: bool) -> None:
    rig.portal.call(half_asked, rig, ask, stop, by_reset)


@pytest.mark.parametrize("by_reset", [False, True], ids=["fin", "reset"])
@pytest.mark.parametrize("after", [1, 2, 77, 5000, 400_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_client_that_leaves_anywhere_ends_the_engines_work(
    after: int, by_reset: bool, framing: Literal["length", "chunked"]
) -> None:
    """The client reads so many bytes of an answer that does not end, and goes: the engine must know at once."""
    gone = anyio.Event()
    said = Answer(Framed(b"x" * 500_000, framing, (1000, 100_000)), "sse").wire(b"POST")

    async def endless(wire: Wire) -> None:
        assert await hear_request(wire.reader) is not None
        await play(wire.writer, said[:-1])
        await closed_by_peer(wire)
        gone.set()

    async with upstream(endless) as engine, sidecar(engine.url) as proxy:
        async with connect(proxy.port) as client:
            await client.send(NEW)
            await client.reader.readexactly(after)
            if by_reset:
                reset(client)
        with anyio.fail_after(2):
            await gone.wait()
        seen = await record(proxy)
    assert (seen.outcome, seen.status) == ("client_abort", 200)


async def test_every_event_reaches_the_client_before_the_engine_writes_the_next() -> None:
    """Nothing is held back: the engine waits with each event until the client has read the one before."""
    read = [anyio.Event() for _ in range(50)]

    async def script(wire: Wire) -> None:
        assert await hear_request(wire.reader) is not None
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for number, done in enumerate(read):
            event = b"data: %d\n\n" % number
            await wire.send(b"%x\r\n%b\r\n" % (len(event), event))
            with anyio.fail_after(5):
                await done.wait()
        await wire.send(b"0\r\n\r\n")
        await closed_by_peer(wire)

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        await client.send(b"POST /v1/completions HTTP/1.1\r\nhost: e\r\ncontent-length: 2\r\n\r\n{}")
        await client.reader.readuntil(b"\r\n\r\n")
        for number, done in enumerate(read):
            with anyio.fail_after(5):
                assert (await client.reader.readuntil(b"\n\n")).endswith(b"data: %d\n\n" % number)
            done.set()


async def test_every_byte_of_an_upload_reaches_the_engine_before_the_client_writes_the_next() -> None:
    got = [anyio.Event() for _ in range(50)]

    async def script(wire: Wire) -> None:
        await wire.reader.readuntil(b"\r\n\r\n")
        for arrived in got:
            assert await wire.reader.readexactly(1) == b"x"
            arrived.set()
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await closed_by_peer(wire)

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        await client.send(b"POST /v1/completions HTTP/1.1\r\nhost: e\r\ncontent-length: 50\r\n\r\n")
        for arrived in got:
            await client.send(b"x")
            with anyio.fail_after(5):
                await arrived.wait()
        assert (await hear_answer(client.reader)).status == 200


async def test_trailers_of_a_request_reach_the_engine() -> None:
    body = Framed(b"hello" * 100, "chunked", (7, 90), trailers=((b"X-Checksum", b"abc"), (b"x-second", b"2")))
    ask = Ask(b"POST", body, fields=[(b"Trailer", b"X-Checksum, x-second")])
    async with scripted_engine() as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        await client.send(ask.head(b"/t") + body.wire())
        assert (await hear_answer(client.reader)).status == 200
        (heard,) = engine.heard[b"/t"]
    assert (heard.whole, heard.body) == (True, body.body)
    assert heard.trailers == list(body.trailers)


async def test_trailers_of_an_answer_reach_the_client() -> None:
    body = Framed(b"hello" * 100, "chunked", (7, 90), trailers=((b"X-Checksum", b"abc"), (b"x-second", b"2")))
    async with scripted_engine() as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        engine.plans[b"/t"] = Answer(body, fields=((b"Trailer", b"X-Checksum, x-second"),))
        await client.send(b"POST /t HTTP/1.1\r\nhost: e\r\ncontent-length: 0\r\nTE: trailers\r\n\r\n")
        got = await hear_answer(client.reader)
    assert (got.whole, got.trailers) == (True, list(body.trailers))


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("mebibytes", [20, pytest.param(200, marks=pytest.mark.long)])
async def test_a_large_upload_and_a_large_answer_keep_every_byte(chunked: bool, mebibytes: int) -> None:
    """Block by block up and down again; that nothing gathers is measured in `test_sidecar_faults`."""
    block = bytes(range(256)) * 4096  # a MiB
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % (mebibytes << 20)
    piece, end = (b"%x\r\n%b\r\n" % (len(block), block), b"0\r\n\r\n") if chunked else (block, b"")
    want, up, down = (hashlib.sha256() for _ in range(3))
    for _ in range(mebibytes):
        want.update(block)

    async def listen(wire: Wire, into: "hashlib._Hash") -> None:
        left = mebibytes << 20
        while left:
            size = int(await wire.reader.readuntil(b"\r\n"), 16) if chunked else min(left, 1 << 16)
            into.update(await wire.reader.readexactly(size))
            left -= size
            assert not chunked or await wire.reader.readexactly(2) == b"\r\n"
        assert not chunked or await wire.reader.readexactly(5) == end

    async def say(wire: Wire, head: bytes) -> None:
        await wire.send(head + framing + b"\r\n\r\n")
        for _ in range(mebibytes):
            await wire.send(piece)
        await wire.send(end)

    async def script(wire: Wire) -> None:
        await wire.reader.readuntil(b"\r\n\r\n")
        await listen(wire, up)
        await say(wire, b"HTTP/1.1 200 OK\r\n")
        await closed_by_peer(wire)

    async with (
        upstream(script) as engine,
        sidecar(engine.url) as proxy,
        connect(proxy.port) as client,
        anyio.create_task_group() as group,
    ):
        group.start_soon(say, client, b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: e\r\n")
        with anyio.fail_after(60):
            assert b" 200 " in await client.reader.readuntil(b"\r\n\r\n")
            await listen(client, down)
        assert up.hexdigest() == down.hexdigest() == want.hexdigest()
        seen = await record(proxy)
    assert (seen.request_bytes, seen.response_bytes) == (mebibytes << 20, mebibytes << 20)


async def test_a_websocket_of_real_frames_passes_both_ways() -> None:
    """An unmodified client and server: text, binary, empty and large frames, compressed ones, pings, the close code."""
    codes: list[int | None] = []
    sizes = (0, 1, 125, 126, 65_535, 65_536, 1_000_000)

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        async for message in socket:
            await (socket.send_bytes if message.type is WSMsgType.BINARY else socket.send_str)(message.data)
        codes.append(socket.close_code)
        return socket

    app = web.Application()
    app.router.add_get("/v1/realtime", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with sidecar(f"http://127.0.0.1:{runner.addresses[0][1]}") as proxy, ClientSession() as session:
            for compress in (0, 15):
                url = f"http://127.0.0.1:{proxy.port}/v1/realtime?model=m"
                async with session.ws_connect(url, compress=compress, max_msg_size=0) as socket:
                    for size in sizes:
                        await socket.send_bytes(blob("binary", size, size))
                        await socket.send_str(text := blob("sse", size, size).decode(errors="replace"))
                        await socket.ping(b"still there?")
                        assert await socket.receive_bytes(timeout=10) == blob("binary", size, size)
                        assert await socket.receive_str(timeout=10) == text
                    assert await socket.close(code=4001)
            await until(lambda: not proxy.forwarder.active)
            assert codes == [4001, 4001]
            async with session.get(f"http://127.0.0.1:{proxy.port}/v1/realtime") as answer:
                assert answer.status == 400  # the server's own: this is no WebSocket handshake
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("tolerate", [True, False])
async def test_a_client_that_has_said_all_hears_all_when_half_closes_are_tolerated(tolerate: bool) -> None:
    body = Framed(blob("sse", 1, 300_000), "chunked", (1000, 70_000))
    async with (
        scripted_engine() as engine,
        sidecar(engine.url, tolerate_half_close=tolerate) as proxy,
        connect(proxy.port) as client,
    ):
        engine.plans[b"/v1/completions"] = Answer(body, "sse", cuts=(500, 1000, 40_000), turns=3)
        await client.send(NEW)
        client.writer.write_eof()
        got = await hear_answer(client.reader)
        assert got.whole is tolerate
        assert not tolerate or digest(got.body) == digest(body.body)
        assert (await record(proxy)).outcome != ("client_abort" if tolerate else "ok")


async def test_many_clients_at_once_get_their_own_bytes(rig: Rig) -> None:
    """Answers to requests that run at the same time on pooled connections never mix."""

    async def one(rig: Rig, number: int) -> None:
        for turn in range(6):
            body = b"%d/%d " % (number, turn) * (1 + 37 * number % 900)
            framed = Framed(body, "chunked" if turn % 2 else "length", (1 + number, 500))
            await exchange(rig, [(Ask(b"POST", framed), Answer(framed, "binary", cuts=(number, 99, 9999)))], (5,), 1)

    async def all_of_them() -> None:
        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(one, rig, number)

    await asyncio.get_running_loop().run_in_executor(None, rig.portal.call, all_of_them)
