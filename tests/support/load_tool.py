"""aiperf, a load generator nobody here wrote, in an environment of its own; and an engine that keeps a known pace."""

import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

MODEL = "paced"
INPUT, OUTPUT = 11, 6
FIRST_SECONDS, NEXT_SECONDS = 0.04, 0.004
PATIENCE_SECONDS = 240
FLAGS = ("--streaming", "--use-server-token-count", "--no-server-metrics", "--no-gpu-telemetry")
WARM_UP = 5  # requests that come before those that the tool counts
ENVIRONMENT = "ENGINEROOM_LOADTOOL"  # folder of the environment made from requirements/loadtool.txt


def need_load_tool() -> str:
    """Path of `aiperf`. Skips the test, naming what is missing; fails where CI demands all."""
    folder = os.environ.get(ENVIRONMENT)
    path = shutil.which("aiperf", path=f"{folder}/bin" if folder else None)
    if path is None:
        message = (
            f"aiperf is not installed: install requirements/loadtool.txt into a folder, and name that in {ENVIRONMENT}"
        )
        if os.environ.get("ENGINEROOM_NEED_ALL_COMPONENTS"):
            pytest.fail(message)
        pytest.skip(message)
    return path


@asynccontextmanager
async def paced_engine() -> AsyncIterator[str]:
    """Streams OUTPUT tokens, the first after FIRST_SECONDS; gives its URL."""

    async def answer(request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
        stream.enable_chunked_encoding()
        await stream.prepare(request)
        common = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": asked["model"]}

        async def say(choices: list[Any], **more: Any) -> None:
            await stream.write(b"data: " + json.dumps({**common, "choices": choices, **more}).encode() + b"\n\n")

        await say([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
        await anyio.sleep(FIRST_SECONDS)
        for number in range(OUTPUT):
            last = number == OUTPUT - 1
            finish = "length" if last else None
            await say([{"index": 0, "delta": {"content": f"word{number} "}, "finish_reason": finish}])
            if not last:
                await anyio.sleep(NEXT_SECONDS)
        await say([], usage={"prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT})
        await stream.write(b"data: [DONE]\n\n")
        await stream.write_eof()
        return stream

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    app.router.add_get("/v1/models", models)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer of five words: the tool wants one, though the engine tells what it counted."""
    folder.mkdir()
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "hello": 3, "there": 4}
    special = [
        {"id": words[one], "content": one, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        for one in ("<unk>", "<s>", "</s>")
    ]
    tokenizer = {
        "version": "1.0",
        "added_tokens": [one | {"special": True} for one in special],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def _write_prompts(folder: Path, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"text": f"question {number}"}) + "\n" for number in range(count)))
    return prompts


async def run_load(folder: Path, url: str, *, requests: int, concurrency: int) -> dict[str, Any]:
    """The tool's own summary (`profile_export_aiperf.json`) of so many streamed chats."""
    prompts = _write_prompts(folder, requests)
    options = {
        "--model": MODEL,
        "--url": url,
        "--endpoint-type": "chat",
        "--input-file": prompts,
        "--custom-dataset-type": "single_turn",
        "--tokenizer": write_tokenizer(folder / "tokenizer"),
        "--request-count": requests,
        "--concurrency": concurrency,
        "--output-artifact-dir": folder / "out",
        "--ui-type": "none",
        "--workers-max": 1,
        "--record-processors": 1,
        "--warmup-request-count": WARM_UP,
        "--random-seed": 1,
    }
    given = [str(word) for option in options.items() for word in option]
    command = [need_load_tool(), "profile", *FLAGS, *given]
    with anyio.fail_after(PATIENCE_SECONDS):
        done = await anyio.run_process(command, env=os.environ | {"HOME": str(folder)}, check=False, cwd=folder)
    said = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
    found = list((folder / "out").rglob("profile_export_aiperf.json"))
    assert done.returncode == 0, said[-4000:]
    assert found, said[-4000:]
    summary: dict[str, Any] = json.loads(found[0].read_text())
    return summary
