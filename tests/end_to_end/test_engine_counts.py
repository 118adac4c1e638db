"""Real engines behind a real sidecar and a real agent: what the agent says of them is what their clients saw.

Counts agree exactly, of requests by how they ended and of tokens. Times to the first token agree within 5 ms: the
engine's clock starts when it has read the request, the sidecar's at the request's first byte, and the client's when it
begins to send; so each sum must grow, request by request, by what the client measured.
"""

from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from agent.engines.llamacpp import ENGINE as LLAMACPP
from agent.engines.vllm import ENGINE as VLLM
from tests.support.engine_pages import read_page
from tests.support.llamacpp import MODEL as LLAMA_MODEL
from tests.support.llamacpp import llama_server
from tests.support.vllm_rs import MODEL, TOKENS, VllmRs, vllm_rs
from tests.support.watched_engine import Client, Watched, watched

AGREE_SECONDS = 0.005
ONE_BY_ONE, AT_ONCE = 7, 12
UNKNOWN, BROKEN, LEAVING = 3, 2, 4
FIRST_SECONDS = 0.08
TTFT = "engineroom_llm_time_to_first_token_seconds"
REQUESTS, TOKENS_OF = "engineroom_llm_requests_total", "engineroom_llm_tokens_total"
SIDECAR = {"source": "sidecar"}


def asking(words: str) -> dict[str, Any]:
    """The template makes two tokens more of it."""
    return {"model": MODEL, "max_tokens": 16, "messages": [{"role": "user", "content": words}]}


def third_best(seconds: list[float]) -> float:
    """A wrong clock shows in all of them; a busy machine adds to some, and takes from none."""
    return sorted(seconds)[2]


async def crowd(client: Client) -> None:
    """Whole answers and streams, all at the same time."""
    async with anyio.create_task_group() as group:
        for number in range(AT_ONCE):
            group.start_soon(client.stream if number % 2 else client.ask, asking(f"hello {'there ' * number}"))


async def wrong(client: Client) -> None:
    """Models that nobody serves, and bodies that are no JSON."""
    for _ in range(UNKNOWN):
        await client.ask(asking("hello") | {"model": "missing"})
    for _ in range(BROKEN):
        await client.ask(b'{"model": "tiny", "messages": [')
    assert (client.statuses[404], client.statuses[400]) == (UNKNOWN, BROKEN)


async def leaving(client: Client, server: VllmRs) -> None:
    """Clients that go away when all but the last token have come."""
    server.held.clear()
    async with anyio.create_task_group() as group:
        for _ in range(LEAVING):
            group.start_soon(client.leave, asking("hello all"), TOKENS - 1)
    await anyio.to_thread.run_sync(server.until_aborted, LEAVING)
    server.held.set()


async def one_by_one(node: Watched, raw: str | None, ask: dict[str, Any], path: str) -> dict[str, list[float]]:
    """By how many seconds the sums of the sidecar and of the engine (`raw`) grew otherwise than the client measured."""
    apart: dict[str, list[float]] = {"sidecar": [], "engine": []}
    sums = {"sidecar": 0.0, "engine": 0.0}
    for number in range(1, ONE_BY_ONE + 1):
        await node.client.stream(ask, path)
        await node.until_shown(number, f"{TTFT}_count", **SIDECAR)
        now = {"sidecar": node.shown(f"{TTFT}_sum", **SIDECAR)}
        if raw is not None:
            await node.until(f"{raw}_count", number)
            now["engine"] = node.value(f"{raw}_sum")
        for name, total in now.items():
            assert total is not None
            apart[name].append(abs(total - sums[name] - node.client.first_seconds[-1]))
            sums[name] = total
    print(apart)
    return apart


@pytest.mark.component("vllm-rs")
async def test_vllm_rs_and_its_clients_count_the_same(tmp_path: Path) -> None:
    with vllm_rs(tmp_path) as server:
        server.caches, server.first_seconds = True, FIRST_SECONDS
        async with watched(tmp_path, server.url, "vllm") as node:
            raw = "vllm:time_to_first_token_seconds"
            apart = await one_by_one(node, raw, asking("hello you"), "/v1/chat/completions")
            server.first_seconds = 0.0
            await crowd(node.client)
            await wrong(node.client)
            prompts = node.client.input_tokens + LEAVING * 4  # user hello all assistant
            await leaving(node.client, server)
            await vllm_agrees(node, server, prompts)
            await the_sidecar_agrees(node, prompts)
    for name, seconds in apart.items():
        assert third_best(seconds) <= AGREE_SECONDS, name
    assert all(seconds >= FIRST_SECONDS for seconds in node.client.first_seconds[:ONE_BY_ONE])


async def vllm_agrees(node: Watched, server: VllmRs, prompts: int) -> None:
    """Its own series as the agent keeps them, and the reading made of its page."""
    client, finished = node.client, "vllm:request_success_total"
    await node.until(f'{finished}{{finished_reason="stop"}}', client.statuses[200])
    await node.until(f'{finished}{{finished_reason="abort"}}', client.left)
    await node.until("vllm:generation_tokens_total", client.output_tokens)
    assert node.value(f"sum({finished})") == client.statuses[200] + client.left
    assert node.value("vllm:prompt_tokens_total") == prompts
    assert node.value("vllm:prefix_cache_hits_total") == server.cached > 0
    (reading,) = read_page(VLLM, await anyio.to_thread.run_sync(server.metrics))
    requests, tokens = reading.requests_total or {}, reading.tokens_total or {}
    assert (requests["ok"], requests["client_abort"]) == (client.statuses[200], client.left)
    told = {kind: tokens[kind] for kind in ("input", "input_cached", "output")}
    assert told == {"input": prompts - server.cached, "input_cached": server.cached, "output": client.output_tokens}
    assert (reading.requests_running, reading.requests_waiting) == (0, 0)


async def the_sidecar_agrees(node: Watched, prompts: int) -> None:
    """The requests by how they ended. A client that left was told no usage: what it had heard is counted."""
    client = node.client
    model = SIDECAR | {"model": MODEL}
    await node.until_shown(client.statuses[200], REQUESTS, outcome="ok", **model)
    await node.until_shown(client.left, REQUESTS, outcome="client_abort", **model)
    await node.until(f'sum({REQUESTS}{{source="sidecar",outcome="rejected"}})', UNKNOWN + BROKEN)
    output = node.shown(TOKENS_OF, kind="output", **model)
    assert output == client.output_tokens == client.statuses[200] * TOKENS + client.left * (TOKENS - 1)
    assert node.shown(TOKENS_OF, kind="input", **model) == client.input_tokens < prompts


async def test_llama_cpp_and_its_clients_count_the_same(tmp_path: Path) -> None:
    """It counts tokens, and no requests: of these the sidecar knows."""
    ask: dict[str, Any] = {"model": LLAMA_MODEL, "temperature": 0, "seed": 1, "ignore_eos": True, "max_tokens": TOKENS}
    ask |= {"cache_prompt": False, "prompt": "hello"}
    path = "/v1/completions"
    with llama_server(tmp_path) as server:
        async with watched(tmp_path, server.url, "llamacpp") as node:
            apart = await one_by_one(node, None, ask, path)
            client = node.client
            async with anyio.create_task_group() as group:
                for number in range(AT_ONCE):
                    group.start_soon(client.stream if number % 2 else client.ask, ask, path)
            for _ in range(BROKEN):
                await client.ask(b'{"prompt": ', path)
            model = SIDECAR | {"model": LLAMA_MODEL}
            await node.until_shown(client.statuses[200], REQUESTS, outcome="ok", **model)
            told = [node.shown(TOKENS_OF, kind=kind, **model) for kind in ("input", "output")]
            await node.until("llamacpp:tokens_predicted_total", client.output_tokens)
            await node.until("llamacpp:prompt_tokens_total", client.input_tokens)
            (reading,) = read_page(LLAMACPP, await anyio.to_thread.run_sync(server.get, "/metrics"))
            tokens = reading.tokens_total or {}
            assert told == [tokens["input"], tokens["output"]] == [client.input_tokens, client.output_tokens]
            await client.leave(ask | {"max_tokens": 1500}, TOKENS, path)
            await node.until_shown(client.left, REQUESTS, outcome="client_abort", **model)
            await node.until("llamacpp:requests_processing", 0)
            await node.until(f'sum({REQUESTS}{{source="sidecar",outcome=~"rejected|error"}})', BROKEN)
    assert third_best(apart["sidecar"]) <= AGREE_SECONDS  # it keeps no such time itself
