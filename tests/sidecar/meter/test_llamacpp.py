"""Answers of the real llama.cpp server, streamed and whole: the meter reads of both APIs what the server counted."""

import json
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from tests.support.llamacpp import MODEL, llama_server
from tests.support.metered import assert_cut_alike, measured

TOKENS = 6
ASKED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}], "max_tokens": TOKENS}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "hello"}], "max_tokens": TOKENS}),
    ("/v1/responses", {"input": "hello", "max_output_tokens": TOKENS}),
)


def test_every_api_of_the_server_counts_alike(tmp_path: Path) -> None:
    prompts = set()
    with llama_server(tmp_path) as server:
        for path, asked in ASKED:
            for stream in (True, False):
                body = json.dumps(
                    {**asked, "model": MODEL, "stream": stream, "temperature": 0, "ignore_eos": True}
                ).encode()
                request = Request(server.url + path, body, {"Content-Type": "application/json"})
                with urlopen(request, timeout=60) as answer:
                    kind, said = answer.headers["Content-Type"], answer.read()
                result = measured(path, kind, said)
                usage = result.usage
                assert (usage.output_tokens, usage.source) == (TOKENS, "reported"), (path, stream)
                assert usage.input_tokens is not None
                prompts.add(usage.input_tokens + (usage.input_cached_tokens or 0))
                assert (result.model, result.error, result.complete) == (MODEL, None, True), (path, stream)
                assert result.finish_reason in ("length", "max_tokens", "completed")
                assert (result.first_token_at_ns is not None) is stream
                assert_cut_alike(path, kind, said, [7, 400, 401, 900])
    assert len(prompts) == 1
