"""Unmodified real clients through the sidecar: they get what the engine says, and the records say what they got."""

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import anyio
import httpx
import ollama
import openai
import pytest

from agent.core.requests import RequestRecord, Usage
from tests.support.components import need
from tests.support.llamacpp import MODEL, llama_server
from tests.support.sidecar import Proxy, records, sidecar
from tests.support.talking_engine import CALL, INPUT, OUTPUT, TEXT, WORDS, TalkingEngine, talking_engine
from tests.support.upstream import until

HELLO: Any = [{"role": "user", "content": "hello"}]
WEATHER: Any = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
REPORTED = Usage(input_tokens=INPUT, output_tokens=OUTPUT, source="reported")


@asynccontextmanager
async def through(**settings: Any) -> AsyncIterator[tuple[TalkingEngine, Proxy, str]]:
    async with talking_engine() as engine, sidecar(engine.url, **settings) as proxy:
        yield engine, proxy, f"http://127.0.0.1:{proxy.port}"


@asynccontextmanager
async def openai_client(url: str, **more: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-test", max_retries=0, **more) as client:
        yield client


@asynccontextmanager
async def anthropic_client(url: str, **more: Any) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="sk-ant-test", max_retries=0, **more) as client:
        yield client


async def recorded(proxy: Proxy, count: int = 1) -> list[RequestRecord]:
    """All records, once there are so many; there must never be more."""
    await until(lambda: len(records(proxy)) >= count)
    found = records(proxy)
    assert len(found) == count
    return found


def right(seen: RequestRecord, *, streamed: bool, usage: Usage = REPORTED, finish: str | None = "stop") -> None:
    assert (seen.outcome, seen.status, seen.model, seen.error) == ("ok", 200, "tiny", None)
    assert (seen.streamed, seen.usage, seen.finish_reason) == (streamed, usage, finish)
    assert (seen.first_token_at_ns is not None) is streamed
    assert seen.headers_at_ns is not None
    assert seen.started_at_ns <= seen.headers_at_ns <= (seen.first_token_at_ns or seen.ended_at_ns) <= seen.ended_at_ns


# openai


async def test_openai_chat() -> None:
    async with through() as (engine, proxy, url), openai_client(url) as client:
        answer = await client.chat.completions.create(model="tiny", messages=HELLO)
        assert answer.choices[0].message.content == TEXT
        (seen,) = await recorded(proxy)
        right(seen, streamed=False)
        assert engine.authorized == ["Bearer sk-test"]


@pytest.mark.parametrize("usage", [True, False])
async def test_openai_chat_stream(usage: bool) -> None:
    more: Any = {"stream_options": {"include_usage": True}} if usage else {}
    async with through() as (_, proxy, url), openai_client(url) as client:
        stream = await client.chat.completions.create(model="tiny", messages=HELLO, stream=True, **more)
        chunks = [chunk async for chunk in stream]
        words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
        assert words == list(WORDS)
        assert (chunks[-1].usage is not None) is usage
        assert [chunk for chunk in chunks if not chunk.choices] == (chunks[-1:] if usage else [])
        (seen,) = await recorded(proxy)
        right(seen, streamed=True, usage=REPORTED if usage else Usage(output_tokens=OUTPUT, source="counted"))


@pytest.mark.parametrize("stream", [False, True])
async def test_openai_tool_calls(stream: bool) -> None:
    tools: Any = [{"type": "function", "function": WEATHER}]
    async with through() as (_, proxy, url), openai_client(url) as client:
        if stream:
            answer: Any = await client.chat.completions.create(model="tiny", messages=HELLO, tools=tools, stream=True)
            deltas = [c.choices[0].delta.tool_calls[0].function async for c in answer if c.choices[0].delta.tool_calls]
            name, arguments = deltas[0].name, "".join(delta.arguments for delta in deltas)
        else:
            answer = await client.chat.completions.create(model="tiny", messages=HELLO, tools=tools)
            call = answer.choices[0].message.tool_calls[0].function
            name, arguments = call.name, call.arguments
        assert (name, arguments) == (CALL["name"], CALL["arguments"])
        (seen,) = await recorded(proxy)
        assert (seen.outcome, seen.finish_reason, seen.streamed) == ("ok", "tool_calls", stream)
        assert (seen.first_token_at_ns is not None) is stream
        assert seen.usage.output_tokens is not None


async def test_openai_completions_embeddings_and_models() -> None:
    async with through() as (_, proxy, url), openai_client(url) as client:
        whole = await client.completions.create(model="tiny", prompt="hello")
        assert whole.choices[0].text == TEXT
        stream = await client.completions.create(
            model="tiny", prompt="hello", stream=True, stream_options={"include_usage": True}
        )
        assert "".join([chunk.choices[0].text async for chunk in stream if chunk.choices]) == TEXT
        embedded = await client.embeddings.create(model="tiny", input="hello")
        assert embedded.data[0].embedding == [0.5, -0.25]
        assert [model.id async for model in client.models.list()] == ["tiny"]
        first, second, third = await recorded(proxy, 3)  # the list of models is none of the engine's work
        right(first, streamed=False)
        right(second, streamed=True)
        assert (third.path, third.usage) == ("/v1/embeddings", Usage(input_tokens=INPUT, source="reported"))


@pytest.mark.parametrize("stream", [False, True])
async def test_openai_responses(stream: bool) -> None:
    async with through() as (_, proxy, url), openai_client(url) as client:
        if stream:
            events = [event async for event in await client.responses.create(model="tiny", input="hello", stream=True)]
            assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == TEXT
            assert events[-1].type == "response.completed"
        else:
            assert (await client.responses.create(model="tiny", input="hello")).output_text == TEXT
        (seen,) = await recorded(proxy)
        right(seen, streamed=stream, usage=seen.usage, finish="completed")
        assert (seen.usage.input_tokens, seen.usage.output_tokens) == (INPUT, OUTPUT)


@pytest.mark.parametrize(
    ("model", "raised", "status", "outcome"),
    [
        ("missing", openai.NotFoundError, 404, "rejected"),
        ("busy", openai.RateLimitError, 429, "rejected"),
        ("broken", openai.InternalServerError, 500, "error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_openai_errors(
    model: str, raised: type[openai.APIStatusError], status: int, outcome: str, stream: bool
) -> None:
    async with through() as (_, proxy, url), openai_client(url) as client:
        with pytest.raises(raised) as caught:
            await client.chat.completions.create(model=model, messages=HELLO, stream=stream)
        assert caught.value.status_code == status
        assert (caught.value.response.headers.get("retry-after") == "1") is (status == 429)
        (seen,) = await recorded(proxy)
        assert (seen.outcome, seen.status, seen.model) == (outcome, status, model)


async def test_openai_retries_are_requests_of_their_own() -> None:
    async with through() as (_, proxy, url), openai_client(url) as client:
        with pytest.raises(openai.InternalServerError):
            await client.with_options(max_retries=2).chat.completions.create(model="broken", messages=HELLO)
        assert [seen.outcome for seen in await recorded(proxy, 3)] == ["error"] * 3


async def test_openai_client_timeout_is_a_client_abort() -> None:
    async with through() as (engine, proxy, url), openai_client(url, timeout=0.3) as client:
        with pytest.raises(openai.APITimeoutError):
            await client.chat.completions.create(model="silent", messages=HELLO)
        (seen,) = await recorded(proxy)
        assert (seen.outcome, seen.status, seen.model) == ("client_abort", None, "silent")
        await until(lambda: engine.left == 1)  # the engine was told at once


async def test_openai_stream_that_is_left() -> None:
    async with through() as (engine, proxy, url), openai_client(url) as client:
        stream = await client.chat.completions.create(model="slow", messages=HELLO, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content == WORDS[2]:
                break
        await stream.close()
        (seen,) = await recorded(proxy)
        assert (seen.outcome, seen.status, seen.streamed) == ("client_abort", 200, True)
        assert seen.usage == Usage(output_tokens=OUTPUT, source="counted")
        await until(lambda: engine.left == 1)


async def test_openai_stream_that_breaks_off() -> None:
    async with through() as (_, proxy, url), openai_client(url) as client:
        stream = await client.chat.completions.create(model="halfway", messages=HELLO, stream=True)
        with pytest.raises(openai.APIConnectionError):
            await anext(chunk async for chunk in stream if chunk.choices[0].finish_reason)
        (seen,) = await recorded(proxy)
        assert (seen.outcome, seen.status) == ("error", 200)
        assert seen.usage.source == "counted"


async def test_openai_deadline_of_the_sidecar() -> None:
    async with through(request_timeout_seconds=0.3) as (_, proxy, url), openai_client(url) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="silent", messages=HELLO)
        assert caught.value.status_code == 504
        (seen,) = await recorded(proxy)
        assert (seen.outcome, seen.status) == ("timeout", 504)


async def test_openai_upload() -> None:
    async with through() as (_, proxy, url), openai_client(url) as client:
        sound = bytes(range(256)) * 20_000
        answer = await client.audio.transcriptions.create(model="tiny", file=("sound.wav", sound))
        assert answer.text == "words"
        (seen,) = await recorded(proxy)
        assert (seen.outcome, seen.path) == ("ok", "/v1/audio/transcriptions")
        assert seen.request_bytes > len(sound)


# anthropic


@pytest.mark.parametrize("stream", [False, True])
async def test_anthropic_messages(stream: bool) -> None:
    async with through() as (engine, proxy, url), anthropic_client(url) as client:
        if stream:
            async with client.messages.stream(model="tiny", max_tokens=9, messages=HELLO) as events:
                assert [text async for text in events.text_stream] == list(WORDS)
                final = await events.get_final_message()
        else:
            final = await client.messages.create(model="tiny", max_tokens=9, messages=HELLO)
        assert (final.content[0].text, final.usage.output_tokens) == (TEXT, OUTPUT)  # type: ignore[union-attr] # it is
        (seen,) = await recorded(proxy)
        right(seen, streamed=stream, finish="end_turn")
        assert engine.authorized[0].endswith("sk-ant-test")


@pytest.mark.parametrize("stream", [False, True])
async def test_anthropic_tool_use(stream: bool) -> None:
    tools: Any = [{"name": "weather", "input_schema": WEATHER["parameters"]}]
    asked: Any = {"model": "tiny", "max_tokens": 9, "messages": HELLO, "tools": tools}
    async with through() as (_, proxy, url), anthropic_client(url) as client:
        if stream:
            async with client.messages.stream(**asked) as events:
                final: Any = await events.get_final_message()
        else:
            final = await client.messages.create(**asked)
        assert (final.stop_reason, final.content[0].input) == ("tool_use", json.loads(CALL["arguments"]))
        (seen,) = await recorded(proxy)
        right(seen, streamed=stream, finish="tool_use")


@pytest.mark.parametrize(
    ("model", "raised", "outcome"),
    [
        ("missing", anthropic.NotFoundError, "rejected"),
        ("busy", anthropic.RateLimitError, "rejected"),
        ("broken", anthropic.InternalServerError, "error"),
    ],
)
async def test_anthropic_errors(model: str, raised: type[anthropic.APIStatusError], outcome: str) -> None:
    async with through() as (_, proxy, url), anthropic_client(url) as client:
        with pytest.raises(raised):
            await client.messages.create(model=model, max_tokens=9, messages=HELLO)
        (seen,) = await recorded(proxy)
        assert (seen.outcome, seen.model) == (outcome, model)


async def test_anthropic_stream_that_is_left_and_client_timeout() -> None:
    async with through() as (engine, proxy, url), anthropic_client(url) as client:
        async with client.messages.stream(model="slow", max_tokens=9, messages=HELLO) as events:
            async for text in events.text_stream:
                assert text == WORDS[0]
                break
        await recorded(proxy)
        with pytest.raises(anthropic.APITimeoutError):
            await client.with_options(timeout=0.3).messages.create(model="silent", max_tokens=9, messages=HELLO)
        first, second = await recorded(proxy, 2)
        assert (first.outcome, first.status, first.usage.output_tokens) == ("client_abort", 200, 1)
        assert (second.outcome, second.status) == ("client_abort", None)
        await until(lambda: engine.left == 2)


# ollama


@pytest.mark.parametrize("stream", [False, True])
async def test_ollama_chat_and_generate(stream: bool) -> None:
    async with through() as (_, proxy, url), ollama.AsyncClient(host=url) as client:
        if stream:
            chat = [part async for part in await client.chat(model="tiny", messages=HELLO, stream=True)]
            assert "".join(part.message.content or "" for part in chat) == TEXT
            said = [part async for part in await client.generate(model="tiny", prompt="hello", stream=True)]
            assert "".join(part.response for part in said) == TEXT
            assert (said[-1].done, said[-1].eval_count) == (True, OUTPUT)
        else:
            assert (await client.chat(model="tiny", messages=HELLO)).message.content == TEXT
            assert (await client.generate(model="tiny", prompt="hello")).response == TEXT
        first, second = await recorded(proxy, 2)
        right(first, streamed=stream)
        right(second, streamed=stream)
        assert (first.path, second.path) == ("/api/chat", "/api/generate")


@pytest.mark.parametrize(("model", "status", "outcome"), [("missing", 404, "rejected"), ("broken", 500, "error")])
async def test_ollama_errors(model: str, status: int, outcome: str) -> None:
    async with through() as (_, proxy, url), ollama.AsyncClient(host=url) as client:
        with pytest.raises(ollama.ResponseError) as caught:
            await client.chat(model=model, messages=HELLO)
        assert caught.value.status_code == status
        (seen,) = await recorded(proxy)
        assert (seen.outcome, seen.status) == (outcome, status)


async def test_ollama_stream_that_is_left_and_client_timeout() -> None:
    async with through() as (engine, proxy, url):
        async with ollama.AsyncClient(host=url) as client:
            stream = await client.chat(model="slow", messages=HELLO, stream=True)
            async for _part in stream:
                break
            await stream.aclose()  # type: ignore[attr-defined] # it is an asynchronous generator
        await recorded(proxy)
        async with ollama.AsyncClient(host=url, timeout=0.3) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.generate(model="silent", prompt="hello")
        first, second = await recorded(proxy, 2)
        assert (first.outcome, second.outcome) == ("client_abort", "client_abort")
        assert (first.usage.source, second.status) == ("counted", None)
        await until(lambda: engine.left == 2)


# curl


async def curl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    with anyio.fail_after(20):
        return await anyio.run_process([need("curl"), "-sS", *arguments], check=False)


ASK = ("-H", "content-type: application/json", "-d", '{"model":"tiny","stream":true,"messages":[]}')


@pytest.mark.component("curl")
async def test_curl_streams_and_speaks_the_old_version() -> None:
    async with through() as (engine, proxy, url):
        direct = await curl("-N", *ASK, f"{engine.url}/v1/chat/completions")
        for more in ((), ("--http1.0",), ("--http2",), ("--no-keepalive",), ("-H", "Connection: close")):
            got = await curl("-N", *more, *ASK, f"{url}/v1/chat/completions")
            assert (got.returncode, got.stdout) == (0, direct.stdout), more
            assert got.stdout.endswith(b"data: [DONE]\n\n")
        assert [seen.outcome for seen in await recorded(proxy, 5)] == ["ok"] * 5


@pytest.mark.component("curl")
@pytest.mark.parametrize(
    "how", [("-T",), ("-H", "Transfer-Encoding: chunked", "-T"), ("-H", "Expect: 100-continue", "-T")]
)
async def test_curl_uploads_a_file(tmp_path: Path, how: tuple[str, ...]) -> None:
    file = tmp_path / "sound"
    file.write_bytes(bytes(range(256)) * 40_000)
    async with through() as (_, proxy, url):
        got = await curl("-X", "POST", *how, str(file), f"{url}/v1/audio/transcriptions")
        assert json.loads(got.stdout) == {"text": "words", "bytes": file.stat().st_size}
        (seen,) = await recorded(proxy)
        assert (seen.outcome, seen.request_bytes) == ("ok", file.stat().st_size)


@pytest.mark.component("curl")
async def test_curl_that_gives_up_is_a_client_abort() -> None:
    slow = ASK[-1].replace("tiny", "slow")
    async with through() as (engine, proxy, url):
        got = await curl("-N", "-m", "0.4", *ASK[:-1], slow, f"{url}/v1/chat/completions")
        assert got.returncode == 28
        (seen,) = await recorded(proxy)
        assert (seen.outcome, seen.status, seen.usage.output_tokens) == ("client_abort", 200, OUTPUT)
        await until(lambda: engine.left == 1)


@pytest.mark.component("curl")
async def test_curl_uses_its_connection_again_and_reads_heads() -> None:
    async with through() as (_, proxy, url):
        got = await curl("-w", "%{num_connects} ", *ASK, *[f"{url}/v1/chat/completions"] * 3)
        assert got.stdout.count(b"[DONE]") == 3
        assert [int(word) for word in got.stdout.split() if word in (b"0", b"1")] == [1, 0, 0]
        head = await curl("-I", f"{url}/v1/models")
        assert head.stdout.startswith(b"HTTP/1.1 200")
        await recorded(proxy, 3)


# a real engine


async def test_real_clients_of_a_real_engine(tmp_path: Path) -> None:
    """llama.cpp counts: what the clients read of it and what the records say are the same numbers."""
    asked: Any = {"model": MODEL, "messages": HELLO, "temperature": 0}
    more: Any = {"ignore_eos": True}
    counts: list[tuple[int, int]] = []

    def count(tokens_in: int, tokens_out: int) -> None:
        counts.append((tokens_in, tokens_out))

    with llama_server(tmp_path) as server:
        async with sidecar(server.url) as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            async with openai_client(url) as client:
                whole = await client.chat.completions.create(**asked, max_tokens=5, extra_body=more)
                count(whole.usage.prompt_tokens, whole.usage.completion_tokens)
                stream = await client.chat.completions.create(
                    **asked, max_tokens=7, stream=True, stream_options={"include_usage": True}, extra_body=more
                )
                usage: Any = [chunk async for chunk in stream][-1].usage
                count(usage.prompt_tokens, usage.completion_tokens)
            async with anthropic_client(url) as client:
                async with client.messages.stream(
                    model=MODEL, messages=HELLO, max_tokens=6, extra_body=more | {"temperature": 0}
                ) as events:
                    final = await events.get_final_message()
                cached = final.usage.cache_read_input_tokens or 0
                count(final.usage.input_tokens + cached, final.usage.output_tokens)
            seen = await recorded(proxy, 3)
    assert [one.outcome for one in seen] == ["ok"] * 3
    assert [one.model for one in seen] == [MODEL] * 3
    assert [out for _, out in counts] == [5, 7, 6]
    told = [
        ((one.usage.input_tokens or 0) + (one.usage.input_cached_tokens or 0), one.usage.output_tokens) for one in seen
    ]
    assert told == counts
    assert [one.streamed for one in seen] == [False, True, True]
