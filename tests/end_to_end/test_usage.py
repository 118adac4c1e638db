"""Usage asked of an engine for clients that did not ask: their stream is as it was, records get the engine's counts."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from aiohttp import web

from tests.support.llamacpp import MODEL, llama_server
from tests.support.raw_client import Heard, hear_answer
from tests.support.sidecar import Proxy, record, records, sidecar
from tests.support.upstream import Message, Wire, connect, post, until, upstream

INPUT, WORDS = 7, ("Hel", "lo", " wörld", "!")
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
Ask = Literal["at_end", "continuous"]


def chunks(asked: dict[str, Any], path: str) -> list[bytes]:
    """What an engine such as vLLM says to this request, event by event."""
    options = asked.get("stream_options") or {}
    wants, always = options.get("include_usage"), options.get("continuous_usage_stats")
    out = []
    for number, word in enumerate(WORDS, 1):
        choice = {"index": 0, "delta": {"content": word}} if path == CHAT else {"index": 0, "text": word}
        chunk: dict[str, Any] = {"id": "c", "model": asked["model"], "choices": [choice]}
        if always:
            chunk["usage"] = usage(number)
        out.append(chunk)
    if wants:
        out.append({"id": "c", "model": asked["model"], "choices": [], "usage": usage(len(WORDS))})
    said = [b"data: " + json.dumps(one, ensure_ascii=False).encode() + b"\n\n" for one in out]
    return [*said, b"data: [DONE]\n\n"]


def usage(output: int) -> dict[str, int]:
    return {"prompt_tokens": INPUT, "completion_tokens": output, "total_tokens": INPUT + output}


class Honest:
    """An engine that honours `stream_options`. `cut`: it breaks off after so many events; `pieces`: of its writes."""

    def __init__(self, *, cut: int | None = None, pieces: int = 10_000, closes: bool = False) -> None:
        self.asked: list[dict[str, Any]] = []
        self.heads: list[Message] = []
        self.cut = cut
        self.pieces = pieces
        self.closes = closes
        self.url = ""

    async def script(self, wire: Wire) -> None:
        while True:
            message = await wire.message()
            self.heads.append(message)
            self.asked.append(json.loads(message.body))
            said = chunks(self.asked[-1], message.start.split()[1])
            framing = b"connection: close\r\n\r\n" if self.closes else b"transfer-encoding: chunked\r\n\r\n"
            await wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n" + framing)
            body = b"".join(said[: self.cut])
            for at in range(0, len(body), self.pieces):
                piece = body[at : at + self.pieces]
                await wire.send(piece if self.closes else b"%x\r\n%b\r\n" % (len(piece), piece))
            if self.cut is not None:
                wire.reset()
                return
            if self.closes:
                return
            await wire.send(b"0\r\n\r\n")


@asynccontextmanager
async def rig(asks: Ask | None, engine: Honest, **settings: Any) -> AsyncIterator[Proxy]:
    async with upstream(engine.script) as here:
        given = settings if asks is None else {"usage": {"ask": asks}, **settings}
        async with sidecar(here.url, **given) as proxy:
            yield proxy


async def stream(proxy: Proxy, body: dict[str, Any], path: str = CHAT, more: str = "") -> Heard:
    async with connect(proxy.port) as client:
        await client.send(post(json.dumps(body).encode(), path=path, more=more))
        return await hear_answer(client.reader)


def question(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "stream": True, "messages": [], **more}


@pytest.mark.parametrize("path", [CHAT, COMPLETION])
@pytest.mark.parametrize("pieces", [10_000, 50, 1])
@pytest.mark.parametrize("asks", ["at_end", "continuous"])
async def test_the_client_gets_the_bytes_it_would_have_got(asks: Ask, pieces: int, path: str) -> None:
    async with rig(None, Honest(pieces=pieces)) as proxy:
        plain = await stream(proxy, question(), path)
        assert (await record(proxy)).usage.source == "counted"
    engine = Honest(pieces=pieces)
    async with rig(asks, engine) as proxy:
        for number in range(1, 3):
            through = await stream(proxy, question(), path)
            assert bytes(through.body) == bytes(plain.body)
            assert (through.status, through.framing, through.whole) == (200, "chunked", True)
            await until(lambda: len(records(proxy)) == number)  # noqa: B023
        for seen in records(proxy):
            assert (seen.usage.source, seen.usage.input_tokens, seen.usage.output_tokens) == ("reported", INPUT, 4)
            assert seen.outcome == "ok"
    wished = {"include_usage": True} | ({"continuous_usage_stats": True} if asks == "continuous" else {})
    assert engine.asked == [question(stream_options=wished)] * 2
    assert all(head.field("content-length") == str(len(head.body)) for head in engine.heads)


@pytest.mark.parametrize("asks", ["at_end", "continuous"])
async def test_who_asks_itself_gets_what_it_asked_for(asks: Ask) -> None:
    engine = Honest()
    body = question(stream_options={"include_usage": True})
    async with rig(asks, engine) as proxy:
        through = await stream(proxy, body)
        assert (await record(proxy)).usage.source == "reported"
    assert engine.asked == [body]
    assert bytes(through.body) == b"".join(chunks(body, CHAT))


async def test_what_is_no_stream_is_not_touched() -> None:
    engine = Honest()
    async with rig("at_end", engine) as proxy:
        for body in (question(stream=False), {"model": "tiny", "input": "x", "stream": True}):
            await stream(proxy, body, path="/v1/completions" if body.get("messages") == [] else "/v1/responses")
    assert all("stream_options" not in asked for asked in engine.asked)


async def test_an_old_client_gets_its_stream_without_chunks() -> None:
    async with rig("at_end", Honest(pieces=40)) as proxy, connect(proxy.port) as client:
        body = json.dumps(question()).encode()
        await client.send(b"POST %b HTTP/1.0\r\ncontent-length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body))
        assert (await client.head()).field("transfer-encoding") is None
        assert await client.until_closed() == b"".join(chunks(question(), CHAT))
        assert (await record(proxy)).usage.source == "reported"


@pytest.mark.parametrize("asks", ["at_end", "continuous"])
async def test_a_stream_that_ends_with_its_connection_has_no_extra_chunk_either(asks: Ask) -> None:
    async with rig(asks, Honest(closes=True)) as proxy:
        through = await stream(proxy, question())
        assert bytes(through.body) == b"".join(chunks(question(), CHAT))
        assert (await record(proxy)).usage.source == "reported"


async def test_continuous_counts_are_exact_also_where_the_engine_breaks_off() -> None:
    async with rig("continuous", Honest(cut=2)) as proxy:
        through = await stream(proxy, question())
        assert bytes(through.body) == b"".join(chunks(question(), CHAT)[:2])
        assert not through.whole
        seen = await record(proxy)
        assert (seen.outcome, seen.usage.source, seen.usage.output_tokens) == ("error", "reported", 2)


async def test_a_compressed_answer_is_not_asked_for() -> None:
    engine = Honest()
    async with rig("at_end", engine) as proxy:
        await stream(proxy, question(), more="accept-encoding: gzip, br\r\n")
    assert engine.heads[0].field("accept-encoding") is None


async def test_a_body_that_comes_late_or_is_too_long_to_wait_for() -> None:
    engine = Honest()
    async with rig("at_end", engine, usage={"ask": "at_end", "max_body_bytes": 2000}) as proxy:
        async with connect(proxy.port) as client:
            request = post(json.dumps(question()).encode())
            await client.send(request[:-9])
            await until(lambda: len(proxy.forwarder.active) == 1)
            await client.send(request[-9:])
            answer = await hear_answer(client.reader)
            assert bytes(answer.body) == b"".join(chunks(question(), CHAT))
        for size in (3000, 2 << 20):
            long = question(pad="x" * size)
            assert bytes((await stream(proxy, long)).body) == b"".join(chunks(question(), CHAT))
    assert [("stream_options" in asked) for asked in engine.asked] == [True, False, False]


async def test_quotas_count_what_the_engine_reported() -> None:
    rules = [{"name": "r", "mode": "block", "tokens_per_minute": 1000, "concurrent_requests": 1}]
    engine = Honest()
    async with rig("at_end", engine, quotas={"rules": rules}) as proxy:
        for number in range(1, 4):
            through = await stream(proxy, question(max_tokens=50))
            assert bytes(through.body) == b"".join(chunks(question(), CHAT))
            left = 1000 - int(dict(through.fields)[b"x-ratelimit-remaining-tokens"])
            assert left >= (number - 1) * (INPUT + 4) + 50
            await until(lambda: len(records(proxy)) == number)  # noqa: B023
        (bucket,) = proxy.forwarder.quotas.book._buckets.values()
        counted = {share.kind: share.used(proxy.forwarder.quotas._clock()) for share in bucket.shares}
        assert counted == {"tokens": 3 * (INPUT + 4), "concurrent": 0}


async def test_a_retry_asks_again() -> None:
    """The body that another engine gets is the one with the wish."""
    good = Honest()

    async def bad(wire: Wire) -> None:
        asked.append(json.loads((await wire.message()).body))
        wire.reset()

    asked: list[dict[str, Any]] = []
    async with upstream(bad) as one, upstream(good.script) as two:
        settings = {"upstreams": [{"url": one.url}, {"url": two.url}], "balance": {"check": False}}
        async with sidecar(one.url, usage={"ask": "at_end"}, **settings) as proxy:
            while not asked:
                through = await stream(proxy, question())
                assert bytes(through.body) == b"".join(chunks(question(), CHAT))
    assert asked[0] == good.asked[-1] == question(stream_options={"include_usage": True})


@pytest.mark.component("xllamacpp")
@pytest.mark.parametrize("asks", ["at_end", "continuous"])
async def test_llama_cpp_with_and_without_the_question(tmp_path: Path, asks: Ask) -> None:
    body = question(model=MODEL, max_tokens=6, temperature=0, ignore_eos=True, cache_prompt=False)
    body["messages"] = [{"role": "user", "content": "hello"}]

    def events(raw: bytes) -> list[Any]:
        found = []
        for event in raw.decode().split("\n\n"):
            said = event.removeprefix("data: ")
            if said.startswith("{"):
                found.append({k: v for k, v in json.loads(said).items() if k not in ("id", "created", "timings")})
            else:
                found.append(said)
        return found

    with llama_server(tmp_path) as server:
        async with sidecar(server.url) as plain, sidecar(server.url, usage={"ask": asks}) as asking:
            direct, through = await stream(plain, body), await stream(asking, body)
            assert events(bytes(through.body)) == events(bytes(direct.body))
            seen = await record(asking)
            assert (seen.usage.source, seen.usage.output_tokens) == ("reported", 6)
            assert seen.usage.input_tokens


async def test_an_engine_with_a_framework_of_its_own() -> None:
    """aiohttp frames each write as one chunk; the extra one goes, the end stays."""

    async def answer(request: web.Request) -> web.StreamResponse:
        said = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        said.enable_chunked_encoding()
        await said.prepare(request)
        for event in chunks(await request.json(), request.path):
            await said.write(event)
        await said.write_eof()
        return said

    app = web.Application()
    app.router.add_post(CHAT, answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with sidecar(f"http://127.0.0.1:{runner.addresses[0][1]}", usage={"ask": "at_end"}) as proxy:
            for number in range(1, 3):
                through = await stream(proxy, question())
                assert bytes(through.body) == b"".join(chunks(question(), CHAT))
                await until(lambda: len(records(proxy)) == number)  # noqa: B023
            assert {seen.usage.source for seen in records(proxy)} == {"reported"}
            assert proxy.forwarder.upstreams.idle == 1  # the connection was kept
    finally:
        await runner.cleanup()
