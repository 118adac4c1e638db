"""Byte identity: what one side sends, the other gets, however it is cut, framed, paused or broken off."""

import asyncio
import hashlib
import itertools
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.requests import RequestEnded, RequestRecord
from tests.support.raw_client import Fields, Heard, closed_by_peer, hear_answer, hear_request, play
from tests.support.scripted_engine import Answer, Ask, Engine, Framed, answers, asks, cuts, scripted_engine
from tests.support.sidecar import Proxy, sidecar
from tests.support.upstream import Wire, connect, until, upstream

EXAMPLES = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
HOPS = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
OURS = {b"x-engineroom-request-id"}
RECORD_ID = b"x-engineroom-request-id"


def digest(body: bytes | bytearray) -> str:
    return hashlib.sha256(body).hexdigest()


def passed_on(fields: Fields) -> Fields:
    """The end-to-end fields: they arrive as they were sent, in their order."""
    return [(name, value) for name, value in fields if name.lower() not in HOPS | OURS]


@dataclass
class Rig:
    """One engine and one sidecar for many examples; `seen` finds a record by its id."""

    portal: BlockingPortal
    engine: Engine
    proxy: Proxy
    targets: Iterator[int] = field(default_factory=itertools.count)
    _seen: dict[str, RequestRecord] = field(default_factory=dict)
    _batches: int = 0

    def target(self, ask: Ask) -> bytes:
        return b"%b?n=%d" % (ask.path, next(self.targets))

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


@settings(EXAMPLES, max_examples=50)
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


@settings(EXAMPLES, max_examples=25)
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
    elif plan.framed.framing == "close" and not plan.by_reset:
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


@settings(EXAMPLES, max_examples=150)
@given(ask=asks().filter(lambda ask: ask.method != b"HEAD"), plan=answers(stopped=True))
def test_an_answer_that_breaks_off_never_looks_whole(rig: Rig, ask: Ask, plan: Answer) -> None:
    if plan.status not in (204, 304):  # whose heads are whole answers
        rig.portal.call(broken_off, rig, ask, plan)


async def half_asked(rig: Rig, ask: Ask, stop: int, by_reset: bool) -> None:
    target = rig.target(ask)
    wire = ask.head(target) + ask.framed.wire()
    async with connect(rig.proxy.port) as client:
        await play(client.writer, wire[: stop % len(wire)])
        if by_reset:
            client.reset()
        else:
            client.writer.write_eof()
        await closed_by_peer(client)
    await until(lambda: not rig.proxy.forwarder.active)
    if target in rig.engine.heard:
        (heard,) = rig.engine.heard.pop(target)
        await until(lambda: not heard.whole)
        assert not heard.whole
        assert ask.framed.body.startswith(heard.body)


@settings(EXAMPLES, max_examples=60)
@given(
    ask=asks().filter(lambda ask: ask.framed.framing != "none" and len(ask.framed.body) > 0),
    stop=st.integers(0, 1 << 20) | st.integers(0, 300),
    by_reset=st.booleans(),
)
def test_half_a_request_never_looks_whole_to_the_engine(rig: Rig, ask: Ask, stop: int, by_reset: bool) -> None:
    rig.portal.call(half_asked, rig, ask, stop, by_reset)


async def leaving(rig: Rig, plan: Answer, after: int, by_reset: bool) -> None:
    """The client reads so many bytes of an answer that never ends, and goes: the engine's connection must end too."""
    gone = anyio.Event()

    async def endless(wire: Wire) -> None:
        assert await hear_request(wire.reader) is not None
        said = plan.wire(b"POST")
        await play(wire.writer, said[: len(said) - 1])
        await closed_by_peer(wire)
        gone.set()

    async with upstream(endless) as engine, sidecar(engine.url) as proxy:
        async with connect(proxy.port) as client:
            await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: e\r\ncontent-length: 2\r\n\r\n{}")
            await client.reader.readexactly(1 + after % (len(plan.framed.body) + 1))
            if by_reset:
                client.reset()
        with anyio.fail_after(2):
            await gone.wait()
        assert proxy.agent is not None
        await until(lambda: any(isinstance(e, RequestEnded) for e in proxy.agent.accepted if proxy.agent))
        (ended,) = [e.record for e in proxy.agent.accepted if isinstance(e, RequestEnded)]
        assert (ended.outcome, ended.status) == ("client_abort", 200)


@pytest.mark.parametrize("by_reset", [False, True], ids=["fin", "reset"])
@pytest.mark.parametrize("after", [0, 1, 77, 5000, 400_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_client_that_leaves_anywhere_ends_the_engines_work(after: int, by_reset: bool, framing: str) -> None:
    body = Framed(b"x" * 500_000, framing, (1000, 100_000))  # type: ignore[arg-type] # two of its values
    await leaving(None, Answer(body, "sse"), after, by_reset)  # type: ignore[arg-type] # has its own engine


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


def kept_small(number: int) -> None:
    with socket.socket(fileno=number) as same:
        for which in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            same.setsockopt(socket.SOL_SOCKET, which, 128 << 10)
        same.detach()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("mebibytes", [20, pytest.param(200, marks=pytest.mark.long)])
async def test_a_large_upload_and_a_large_answer_keep_every_byte(chunked: bool, mebibytes: int) -> None:
    """The body goes up and comes back down at the same time, block by block, never all of it anywhere."""
    block = bytes(range(256)) * 4096  # a MiB
    up, back = hashlib.sha256(), hashlib.sha256()
    want = hashlib.sha256()
    for _ in range(mebibytes):
        want.update(block)

    async def script(wire: Wire) -> None:
        await wire.reader.readuntil(b"\r\n\r\n")
        left = mebibytes
        while left:
            if chunked:
                assert int(await wire.reader.readuntil(b"\r\n"), 16) > 0
                raise AssertionError("unreachable")
            part = await wire.reader.readexactly(1 << 20)
            up.update(part)
            left -= 1
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (mebibytes << 20))
        for _ in range(mebibytes):
            await wire.send(block)
        await closed_by_peer(wire)

    async def script_chunked(wire: Wire) -> None:
        await wire.reader.readuntil(b"\r\n\r\n")
        while size := int(await wire.reader.readuntil(b"\r\n"), 16):
            up.update(await wire.reader.readexactly(size))
            assert await wire.reader.readexactly(2) == b"\r\n"
        assert await wire.reader.readexactly(2) == b"\r\n"
        await wire.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(mebibytes):
            await wire.send(b"%x\r\n%b\r\n" % (len(block), block))
        await wire.send(b"0\r\n\r\n")
        await closed_by_peer(wire)

    async def send(client: Wire) -> None:
        framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % (mebibytes << 20)
        await client.send(b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: e\r\n%b\r\n\r\n" % framing)
        for _ in range(mebibytes):
            await client.send(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
        if chunked:
            await client.send(b"0\r\n\r\n")

    async with (
        upstream(script_chunked if chunked else script) as engine,
        sidecar(engine.url) as proxy,
        connect(proxy.port) as client,
        anyio.create_task_group() as group,
    ):
        group.start_soon(send, client)
        with anyio.fail_after(60):
            assert b" 200 " in await client.reader.readuntil(b"\r\n\r\n")
            left = mebibytes << 20
            while left:
                if chunked:
                    size = int(await client.reader.readuntil(b"\r\n"), 16)
                    part = await client.reader.readexactly(size)
                    assert await client.reader.readexactly(2) == b"\r\n"
                else:
                    part = await client.reader.read(min(left, 1 << 20))
                back.update(part)
                left -= len(part)
    assert up.hexdigest() == want.hexdigest()
    assert back.hexdigest() == want.hexdigest()


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
