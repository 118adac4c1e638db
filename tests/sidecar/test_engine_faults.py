"""Engines that die, hang, reset, lie and babble: each client gets a clear end, each request a record."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from agent.core.requests import RequestRecord
from tests.support.raw_client import Heard, closed_by_peer, hear_answer, hear_request, reset
from tests.support.scripted_engine import Answer, Framed, blob, scripted_engine
from tests.support.sidecar import Proxy, record, records, sidecar
from tests.support.upstream import Wire, chunked, connect, until, upstream, whole

ASK = b"POST /v1/chat/completions HTTP/1.1\r\nhost: e\r\ncontent-length: 13\r\n\r\n" + b'{"model":"m"}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
ONE = b"%x\r\n%b\r\n" % (len(TOKEN), TOKEN)


async def asked(port: int, request: bytes = ASK) -> Heard:
    async with connect(port) as client:
        await client.send(request)
        return await hear_answer(client.reader)


# ways to end


@dataclass(frozen=True)
class End:
    """What the engine sends before it ends so, and what must come of it."""

    sends: bytes
    by: str
    status: int | None
    outcome: str


ENDS = {
    "dies-at-once": End(b"", "fin", 502, "error"),
    "resets-at-once": End(b"", "reset", 502, "error"),
    "dies-in-the-head": End(HEAD[:40], "fin", 502, "error"),
    "resets-in-the-head": End(HEAD[:40], "reset", 502, "error"),
    "dies-after-the-head": End(HEAD, "fin", 200, "error"),
    "dies-in-a-chunk": End(HEAD + ONE[:20], "fin", 200, "error"),
    "dies-between-chunks": End(HEAD + ONE, "fin", 200, "error"),
    "dies-before-the-last-chunk": End(HEAD + ONE + b"0\r\n", "fin", 200, "error"),
    "resets-between-chunks": End(HEAD + ONE, "reset", 200, "error"),
    "hangs-before-the-first-byte": End(b"", "hang", 504, "timeout"),
    "hangs-in-the-head": End(HEAD[:40], "hang", 504, "timeout"),
    "hangs-after-the-head": End(HEAD, "hang", 200, "timeout"),
    "hangs-after-a-token": End(HEAD + ONE, "hang", 200, "timeout"),
    "hangs-before-the-last-chunk": End(HEAD + ONE + b"0\r\n", "hang", 200, "timeout"),
    "hangs-after-an-interim-answer": End(b"HTTP/1.1 103 Early Hints\r\n\r\n", "hang", 504, "timeout"),
}


@pytest.mark.parametrize("name", ENDS)
async def test_an_engine_that_ends_badly(name: str) -> None:
    end = ENDS[name]
    read = anyio.Event()
    closed = anyio.Event()

    async def script(wire: Wire) -> None:
        assert await hear_request(wire.reader) is not None
        await wire.send(end.sends)
        if end.by == "reset":
            with anyio.fail_after(5):
                await read.wait()  # a reset would overtake what was sent
            reset(wire)
        elif end.by == "hang":
            await closed_by_peer(wire)
            closed.set()

    seconds = 0.3 if end.by == "hang" else 60
    async with upstream(script) as engine, sidecar(engine.url, request_timeout_seconds=seconds) as proxy:
        async with connect(proxy.port) as client:
            await client.send(ASK)
            if end.by == "reset" and end.status == 200:
                await client.reader.readuntil(b"\r\n\r\n")
                read.set()
                assert await closed_by_peer(client)
            else:
                read.set()
                got = await hear_answer(client.reader)
                assert (got.status, got.whole) == (end.status, end.status != 200)
        seen = await record(proxy)
        if end.by == "hang":
            with anyio.fail_after(2):
                await closed.wait()  # the engine is not left to work for nobody
    assert (seen.outcome, seen.status, seen.model) == (end.outcome, end.status, "m")
    assert seen.error
    assert seen.usage.output_tokens == (1 if ONE in end.sends else None) or seen.usage.output_tokens == 0


async def test_an_engine_that_answers_before_the_request_is_whole_and_dies() -> None:
    async def script(wire: Wire) -> None:
        await wire.reader.readuntil(b"\r\n\r\n")
        await wire.send(whole(b"no", status="400 Bad Request"))

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        await client.send(b"POST /v1/completions HTTP/1.1\r\nhost: e\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 1000)
        got = await hear_answer(client.reader)
        assert (got.status, bytes(got.body), got.whole) == (400, b"no", True)
        assert (await record(proxy)).outcome == "rejected"


# garbage

OK = b"HTTP/1.1 200 OK\r\n"
GARBAGE = {
    "random": blob("binary", 1, 5000),
    "nothing-but-line-ends": b"\r\n" * 3000,
    "json": b'{"model":"m"}\n',
    "a-request": b"GET / HTTP/1.1\r\nhost: e\r\n\r\n",
    "tls-alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "http-0.9": b"<html>hello</html>",
    "http-2": b"\0\0\x12\x04\0\0\0\0\0" + bytes(18),
    "version-2": b"HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
    "version-0.9": b"HTTP/0.9 200 OK\r\ncontent-length: 2\r\n\r\nhi",
    "no-version": b"HTTP 200 OK\r\ncontent-length: 2\r\n\r\nhi",
    "status-99": b"HTTP/1.1 99 Odd\r\ncontent-length: 2\r\n\r\nhi",
    "status-1000": b"HTTP/1.1 1000 Odd\r\ncontent-length: 2\r\n\r\nhi",
    "status-none": b"HTTP/1.1  OK\r\ncontent-length: 2\r\n\r\nhi",
    "status-signed": b"HTTP/1.1 +20 OK\r\ncontent-length: 2\r\n\r\nhi",
    "no-colon": OK + b"nothing\r\ncontent-length: 2\r\n\r\nhi",
    "name-space": OK + b"x : a\r\ncontent-length: 2\r\n\r\nhi",
    "name-empty": OK + b": a\r\ncontent-length: 2\r\n\r\nhi",
    "value-nul": OK + b"x: a\0b\r\ncontent-length: 2\r\n\r\nhi",
    "value-lf": OK + b"x: a\nset-cookie: b\r\ncontent-length: 2\r\n\r\nhi",
    "value-cr": OK + b"x: a\rset-cookie: b\r\ncontent-length: 2\r\n\r\nhi",
    "obs-fold": OK + b"x: a\r\n b\r\ncontent-length: 2\r\n\r\nhi",
    "fold-hides-length": OK + b"x: a\r\n content-length: 2\r\n\r\nhi",
    "lf-only": b"HTTP/1.1 200 OK\ncontent-length: 2\n\nhi",
    "lf-end": OK + b"content-length: 2\r\n\nhi",
    "two-lengths": OK + b"content-length: 2\r\ncontent-length: 20\r\n\r\nhi",
    "two-lengths-alike": OK + b"content-length: 2\r\ncontent-length: 2\r\n\r\nhi",
    "length-list": OK + b"content-length: 2, 20\r\n\r\nhi",
    "length-negative": OK + b"content-length: -2\r\n\r\nhi",
    "length-plus": OK + b"content-length: +2\r\n\r\nhi",
    "length-hex": OK + b"content-length: 0x2\r\n\r\nhi",
    "length-huge": OK + b"content-length: 18446744073709551618\r\n\r\nhi",
    "length-empty": OK + b"content-length:\r\n\r\nhi",
    "length-and-chunks": OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "coding-unknown": OK + b"transfer-encoding: xchunked\r\n\r\nhi",
    "coding-identity": OK + b"transfer-encoding: identity\r\n\r\nhi",
    "coding-gzip-chunked": OK + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "coding-twice": OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "coding-in-1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "coding-space-before-colon": OK + b"transfer-encoding : chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "chunk-no-number": OK + b"transfer-encoding: chunked\r\n\r\nhi\r\n0\r\n\r\n",
    "chunk-negative": OK + b"transfer-encoding: chunked\r\n\r\n-2\r\nhi\r\n0\r\n\r\n",
    "chunk-overflow": OK + b"transfer-encoding: chunked\r\n\r\n10000000000000002\r\nhi\r\n0\r\n\r\n",
    "chunk-too-short": OK + b"transfer-encoding: chunked\r\n\r\n1\r\nhi\r\n0\r\n\r\n",
    "chunk-lf": OK + b"transfer-encoding: chunked\r\n\r\n2\nhi\n0\n\n",
    "chunk-extension-lf": OK + b"transfer-encoding: chunked\r\n\r\n2;a\nhi\r\n0\r\n\r\n",
    "trailer-nonsense": OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nnonsense\r\n\r\n",
    "trailer-length": OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\ncontent-length: 5\r\n\r\n",
    "body-with-204": b"HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nhi",
    "chunks-with-204": b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "body-with-304": b"HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "more-than-the-length": OK + b"content-length: 2\r\n\r\nhi, you",
    "two-answers": whole(b"hi") + whole(b"you"),
    "interim-for-ever": b"HTTP/1.1 102 Processing\r\n\r\n" * 5000,
    "interim-with-length": b"HTTP/1.1 100 Continue\r\ncontent-length: 50\r\n\r\n" + whole(b"hi"),
    "unasked-upgrade": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "bomb-of-fields": OK + b"x: a\r\n" * 200_000,
    "sse-nonsense": chunked(b"data: {{{\n\n", b"\xff\xfe\0", b"event: \r\r\n" * 100, b"data: [DONE]\n\n"),
    "json-deep": whole(b"[" * 200_000),
    "json-numbers": whole(b'{"usage":{"prompt_tokens":-1,"completion_tokens":1e999,"total_tokens":"x"}}'),
}


@dataclass
class Babbler:
    """An engine that says `says` to /bad, and the truth to everybody else."""

    says: bytes = b""
    closes: bool = True

    async def serve(self, wire: Wire) -> None:
        while (heard := await hear_request(wire.reader)) is not None:
            if heard.target == b"/v1/chat/completions":
                wire.writer.write(self.says)
                if not self.closes:
                    continue
                return
            await wire.send(whole(b"truth " + heard.target, kind="text/plain"))


class Rig:
    def __init__(self, portal: BlockingPortal, babbler: Babbler, proxy: Proxy) -> None:
        self.portal = portal
        self.babbler = babbler
        self.proxy = proxy


@asynccontextmanager
async def babbler_and_sidecar() -> AsyncIterator[tuple[Babbler, Proxy]]:
    babbler = Babbler()
    async with upstream(babbler.serve) as engine, sidecar(engine.url, request_timeout_seconds=0.5) as proxy:
        yield babbler, proxy


@pytest.fixture(name="rig", scope="module")
def _rig() -> Iterator[Rig]:
    with (
        start_blocking_portal("asyncio", {"use_uvloop": True}) as portal,
        portal.wrap_async_context_manager(babbler_and_sidecar()) as (babbler, proxy),
    ):
        yield Rig(portal, babbler, proxy)


async def told_garbage(rig: Rig, says: bytes, closes: bool) -> None:
    rig.babbler.says, rig.babbler.closes = says, closes
    async with connect(rig.proxy.port) as bystander, connect(rig.proxy.port) as client:
        await client.send(ASK)
        got = await hear_answer(client.reader)  # raises `Malformed` when what comes has two meanings
        for number in range(3):
            for wire in (bystander, client):
                if wire is client and (not got.whole or got.one(b"connection") == b"close" or client.reader.at_eof()):
                    continue
                await wire.send(b"GET /truth/%d HTTP/1.1\r\nhost: e\r\n\r\n" % number)
                truth = await hear_answer(wire.reader)
                if wire is client and not truth.start:
                    continue  # the sidecar has closed what it could not trust
                assert (truth.status, bytes(truth.body)) == (200, b"truth /truth/%d" % number)
    assert got.start, "the client got no answer at all"
    wanted = (got.one(b"x-engineroom-request-id") or b"").decode()
    await until(lambda: any(one.id == wanted for one in records(rig.proxy)))
    (seen,) = [one for one in records(rig.proxy) if one.id == wanted]
    assert got.whole or seen.outcome != "ok"
    if got.status == 502:
        assert (seen.outcome, seen.status) == ("error", 502)


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_reaches_nobody_as_anything_else(rig: Rig, name: str) -> None:
    """The client gets a 502, a cut answer, or an answer with one meaning; others get the truth."""
    rig.portal.call(told_garbage, rig, GARBAGE[name], True)


@pytest.mark.parametrize(
    "name", ["two-answers", "more-than-the-length", "body-with-204", "chunks-with-204", "trailer-length"]
)
def test_what_an_engine_says_too_much_answers_no_other_request(rig: Rig, name: str) -> None:
    rig.portal.call(told_garbage, rig, GARBAGE[name], False)


async def test_a_late_second_answer_answers_nobody() -> None:
    """It comes when the connection lies unused: the next request must not get it."""

    async def script(wire: Wire) -> None:
        while (heard := await hear_request(wire.reader)) is not None:
            await wire.send(whole(b"truth " + heard.target))
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            wire.writer.write(whole(b"a lie"))

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        for number in range(30):
            await client.send(b"GET /%d HTTP/1.1\r\nhost: e\r\n\r\n" % number)
            got = await hear_answer(client.reader)
            assert got.status == 502 or bytes(got.body) == b"truth /%d" % number


# heads without an end


def memory_kib() -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


@pytest.mark.parametrize("piece", [b"x: " + b"a" * 1000 + b"\r\n", b"a" * 1000], ids=["fields", "one-field"])
async def test_a_gigabyte_of_headers_is_refused_early(piece: bytes) -> None:
    sent = 0

    async def script(wire: Wire) -> None:
        nonlocal sent
        assert await hear_request(wire.reader) is not None
        await wire.send(b"HTTP/1.1 200 OK\r\n" + (b"" if piece.endswith(b"\n") else b"x: "))
        block = piece * 64
        while sent < 1 << 30:
            wire.writer.write(block)
            await wire.writer.drain()
            sent += len(block)

    async with upstream(script) as engine, sidecar(engine.url) as proxy:
        before = memory_kib()
        got = await asked(proxy.port)
        assert (got.status, got.whole) == (502, True)
        assert (await record(proxy)).outcome == "error"
        assert sent < 16 << 20  # what lay in buffers when the sidecar had had enough
        assert memory_kib() - before < 32 << 10


@pytest.mark.parametrize(
    "start",
    [
        HEAD + b"5;",
        HEAD + b"5\r\nhello\r\n0\r\nx: ",
        b"HTTP/1.1 103 Early Hints\r\nx: ",
    ],
    ids=["chunk-extension", "trailer", "interim-head"],
)
async def test_what_has_no_length_has_a_bound_or_passes_through(start: bytes) -> None:
    """64 MiB of chunk extension, trailer or interim head: refused, or handed on; gathered never."""
    total = 64 << 20

    async def script(wire: Wire) -> None:
        assert await hear_request(wire.reader) is not None
        await wire.send(start)
        sent = 0
        while sent < total:
            wire.writer.write(b"a" * 65536)
            await wire.writer.drain()
            sent += 65536

    async with upstream(script) as engine, sidecar(engine.url) as proxy:
        before = memory_kib()
        most = 0
        async with connect(proxy.port) as client:
            await client.send(ASK.replace(b"host: e", b"host: e\r\nconnection: close"))
            try:
                while await client.reader.read(1 << 16):
                    most = max(most, memory_kib())
            except ConnectionError:
                pass
        assert most - before < 24 << 10
        assert (await record(proxy)).outcome != "ok"


async def test_interim_answers_without_an_end_do_not_keep_a_request_beyond_its_deadline() -> None:
    async def script(wire: Wire) -> None:
        assert await hear_request(wire.reader) is not None
        while not wire.writer.is_closing():
            await wire.send(b"HTTP/1.1 102 Processing\r\n\r\n")
            with anyio.move_on_after(0.02):
                await wire.reader.read(1)
                return

    async with upstream(script) as engine, sidecar(engine.url, request_timeout_seconds=0.5) as proxy:
        got = await asked(proxy.port)
        assert (got.status, got.whole) == (504, True)
        assert len(got.interim) > 2
        assert (await record(proxy)).outcome == "timeout"


@pytest.mark.parametrize(
    "path", [b"/v1/chat/completions", b"/api/chat", b"/v1/messages", b"/v1/responses", b"/generate"]
)
async def test_json_too_deep_to_read_costs_tokens_and_never_a_record(path: bytes) -> None:
    """In the request as in the answer: whatever a client or an engine says, each request has its record."""
    deep = b"[" * 200_000
    kinds = ("application/json", "text/event-stream", "application/x-ndjson")
    said = iter(
        [whole(deep, kind=kind) for kind in kinds] + [whole(b"{}"), whole(b'{"error":' + deep, status="500 Bad")]
    )

    async def script(wire: Wire) -> None:
        while await hear_request(wire.reader) is not None:
            await wire.send(next(said))

    head = b"POST %b HTTP/1.1\r\nhost: e\r\ncontent-length: %d\r\n\r\n"
    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        for body in (b"{}", b"{}", b"{}", b'{"model":"m","x":' + deep, b"{}"):
            await client.send(head % (path, len(body)) + body)
            assert (await hear_answer(client.reader)).whole
        with anyio.move_on_after(2):
            await until(lambda: len(records(proxy)) == 5)
        assert [one.status for one in records(proxy)] == [200, 200, 200, 200, 500]


# engines that come and go


@dataclass
class Moody:
    """Answers, resets, hangs up and babbles in turn."""

    turn: int = 0
    whole: int = 0

    async def serve(self, wire: Wire) -> None:
        while (heard := await hear_request(wire.reader)) is not None:
            self.turn += 1
            moods = (self._well, self._reset, self._well, self._half, self._mute, self._babble)
            if not await moods[self.turn * 7919 % len(moods)](wire, heard):
                return

    async def _well(self, wire: Wire, heard: Heard) -> bool:
        await wire.send(chunked(TOKEN, b"data: [DONE]\n\n") if b"stream" in heard.body else whole(bytes(heard.body)))
        self.whole += 1
        return True

    async def _reset(self, wire: Wire, _: Heard) -> bool:
        reset(wire)
        return False

    async def _half(self, wire: Wire, _: Heard) -> bool:
        await wire.send(HEAD + ONE)
        return False

    async def _mute(self, _wire: Wire, _: Heard) -> bool:
        return False

    async def _babble(self, wire: Wire, _: Heard) -> bool:
        await wire.send(b"nonsense")
        return False


async def test_every_request_to_a_moody_engine_has_one_right_end_and_one_record() -> None:
    moody = Moody()
    ends: list[Heard] = []

    async def ask(port: int, number: int) -> None:
        for turn in range(15):
            body = b'{"model":"m%d","n":%d%b}' % (number, turn, b',"stream":true' if turn % 3 else b"")
            head = b"POST /v1/completions HTTP/1.1\r\nhost: e\r\ncontent-length: %d\r\n\r\n" % len(body)
            got = await asked(port, head + body)
            assert got.start, "no answer"
            assert got.status in (200, 502)
            assert not got.whole or got.status == 502 or got.framing == "chunked" or got.body == body
            ends.append(got)

    async with upstream(moody.serve) as engine, sidecar(engine.url) as proxy:
        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(ask, proxy.port, number)
        await until(lambda: len(records(proxy)) == len(ends) == 180)
        seen: dict[str, RequestRecord] = {one.id: one for one in records(proxy)}
        assert len(seen) == 180
        for got in ends:
            one = seen[(got.one(b"x-engineroom-request-id") or b"").decode()]
            right = got.whole and got.status == 200
            assert (one.outcome, one.status) == ("ok" if right else "error", got.status)
        assert not proxy.forwarder.active


async def test_the_engine_of_the_plan_is_told_by_its_target() -> None:
    """A check of the instrument: two plans, two answers."""
    async with scripted_engine() as engine, sidecar(engine.url) as proxy:
        engine.plans[b"/a"] = Answer(Framed(b"one", "length"))
        engine.plans[b"/b"] = Answer(Framed(b"two", "chunked", (1,)))
        for target, body in ((b"/a", b"one"), (b"/b", b"two"), (b"/a", b"one")):
            got = await asked(proxy.port, b"GET %b HTTP/1.1\r\nhost: e\r\n\r\n" % target)
            assert bytes(got.body) == body
