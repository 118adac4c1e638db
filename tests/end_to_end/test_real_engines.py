"""Real engines, asked directly and through the sidecar: the same bytes, less what differs from answer to answer."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.support.llamacpp import MODEL as LLAMA_MODEL
from tests.support.llamacpp import llama_server
from tests.support.raw_client import Fields, Heard, hear_answer
from tests.support.sidecar import record, records, sidecar
from tests.support.upstream import connect, until
from tests.support.vllm_rs import MODEL, TOKENS, vllm_rs

HELLO = [{"role": "user", "content": "hello"}]
_VARYING = (
    rb'"(id|response_id|item_id|request_id)":"[^"]*"',
    rb'"(created|created_at|completed_at)":[0-9.]+',
    rb'"timings":\{[^}]*\}',
    rb'"[a-z_]*(?:_ms|_per_second)":[0-9.e-]+',
)
# `date` and ids differ from answer to answer; the others are between two neighbours only.
_OWN = (b"date", b"x-request-id", b"connection", b"keep-alive", b"x-engineroom-request-id")


def steady(body: bytes) -> bytes:
    """The body without what differs from one answer to the next."""
    for one in _VARYING:
        body = re.sub(one, b'"varies":0', body)
    return body


def told(fields: Fields) -> Fields:
    return [(name, value) for name, value in fields if name.lower() not in (*_OWN, b"content-length")]


async def asked(url: str, path: str, body: dict[str, Any]) -> Heard:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\ncontent-length: {len(content)}"
    async with connect(int(url.rpartition(":")[2])) as client:
        await client.send(f"{head}\r\n\r\n".encode() + content)
        return await hear_answer(client.reader)


async def compared(url: str, cases: list[tuple[str, dict[str, Any]]]) -> None:
    """Ask everything directly and through a sidecar; every answer must be recorded as it was."""
    async with sidecar(url) as proxy:
        for number, (path, body) in enumerate(cases, 1):
            direct, through = await asked(url, path, body), await asked(f"http://127.0.0.1:{proxy.port}", path, body)
            case = (path, body)
            assert (direct.whole, through.whole) == (True, True), case
            assert (through.status, through.framing) == (direct.status, direct.framing), case
            assert told(through.fields) == told(direct.fields), case
            assert through.trailers == direct.trailers
            assert steady(bytes(through.body)) == steady(bytes(direct.body)), case
            await until(lambda number=number: len(records(proxy)) == number)  # type: ignore[misc] # bound at once
            seen = records(proxy)[-1]
            assert (seen.status, seen.response_bytes, seen.path) == (direct.status, len(through.body), path)
            assert seen.outcome == ("ok" if direct.status < 400 else "rejected" if direct.status < 500 else "error"), (
                case
            )
            if direct.status == 200:
                assert seen.usage.output_tokens == TOKENS, case
                assert seen.streamed is body.get("stream", False)


def test_what_varies_is_nothing_else() -> None:
    said = (
        b'data: {"id":"a-1","created":12,"choices":[{"delta":{"content":"id created 12"}}],"timings":{"prompt_ms":1.5}}'
    )
    assert steady(said) == b'data: {"varies":0,"varies":0,"choices":[{"delta":{"content":"id created 12"}}],"varies":0}'


async def test_llama_cpp_says_the_same_through_the_sidecar(tmp_path: Path) -> None:
    common: dict[str, Any] = {
        "model": LLAMA_MODEL,
        "temperature": 0,
        "seed": 1,
        "ignore_eos": True,
        "cache_prompt": False,
    }
    cases: list[tuple[str, dict[str, Any]]] = []
    for stream in (False, True):
        more = {"stream": stream, "max_tokens": TOKENS}
        cases += [
            ("/v1/chat/completions", common | more | {"messages": HELLO, "stream_options": {"include_usage": True}}),
            ("/v1/completions", common | more | {"prompt": "hello", "stream_options": {"include_usage": True}}),
            ("/v1/messages", common | more | {"messages": HELLO}),
        ]
    cases += [
        ("/v1/chat/completions", {"messages": "no list"}),
        ("/v1/nothing", {}),
    ]
    with llama_server(tmp_path) as server:
        await compared(server.url, cases)


async def test_llama_cpp_stops_when_its_client_leaves(tmp_path: Path) -> None:
    asks = {"model": LLAMA_MODEL, "prompt": "hello", "max_tokens": 2000, "stream": True, "ignore_eos": True}
    content = json.dumps(asks).encode()
    with llama_server(tmp_path) as server:

        def busy() -> bool:
            return b"llamacpp:requests_processing 0\n" not in server.get("/metrics")

        async with sidecar(server.url) as proxy:
            async with connect(proxy.port) as client:
                await client.send(
                    b"POST /v1/completions HTTP/1.1\r\nhost: e\r\ncontent-length: %d\r\n\r\n" % len(content)
                )
                await client.send(content)
                await client.reader.readuntil(b"data: ")
            seen = await record(proxy)
            assert (seen.outcome, seen.status) == ("client_abort", 200)
            assert 0 < (seen.usage.output_tokens or 0) < 2000
            await _until_not(busy)


async def _until_not(busy: Callable[[], bool]) -> None:
    with anyio.fail_after(5):  # of two thousand tokens, most are left
        while await anyio.to_thread.run_sync(busy):  # noqa: ASYNC110 - it is another process
            await anyio.sleep(0.02)


@pytest.mark.component("vllm-rs")
async def test_vllm_rs_says_the_same_through_the_sidecar(tmp_path: Path) -> None:
    asks: dict[str, Any] = {"model": MODEL, "max_tokens": 16}
    usage = {"stream_options": {"include_usage": True}}
    every = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    chat, text = asks | {"messages": HELLO}, asks | {"prompt": "hello"}
    with vllm_rs(tmp_path) as server:
        await compared(
            server.url,
            [
                ("/v1/chat/completions", chat),
                ("/v1/chat/completions", chat | usage | {"stream": True}),
                ("/v1/chat/completions", chat | every | {"stream": True}),
                ("/v1/completions", text),
                ("/v1/completions", text | usage | {"stream": True}),
                ("/v1/chat/completions", chat | {"model": "missing"}),
                ("/v1/chat/completions", {"model": MODEL}),
                ("/v1/messages", chat),
            ],
        )


@pytest.mark.component("vllm-rs")
async def test_vllm_rs_is_told_at_once_when_a_client_leaves(tmp_path: Path) -> None:
    content = json.dumps({"model": MODEL, "messages": HELLO, "max_tokens": 16, "stream": True}).encode()
    with vllm_rs(tmp_path) as server:
        server.held.clear()
        async with sidecar(server.url) as proxy:
            async with connect(proxy.port) as client:
                head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: e\r\ncontent-type: application/json\r\n"
                await client.send(head + b"content-length: %d\r\n\r\n" % len(content) + content)
                for _ in range(TOKENS):  # the role, and all tokens but the last
                    await client.reader.readuntil(b"data: ")
                await client.reader.readuntil(b"\n\n")
            await anyio.to_thread.run_sync(server.until_aborted, 1)
            seen = await record(proxy)
    assert (seen.outcome, seen.status, seen.model) == ("client_abort", 200, MODEL)
    assert (seen.usage.output_tokens, seen.usage.source) == (TOKENS - 1, "counted")
