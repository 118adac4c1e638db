"""The real llama.cpp server, asked for usage: without the extra chunk its stream has the same events as unasked."""

import json
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from agent.sidecar.usage.option import ask_for_usage
from agent.sidecar.usage.strip import usage_strip_for
from tests.support.llamacpp import MODEL, llama_server

TOKENS = 6
PATH = "/v1/chat/completions"


def answered(url: str, body: bytes) -> tuple[str, bytes]:
    request = Request(url + PATH, body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        return answer.headers["Content-Type"], answer.read()


def events(body: bytes) -> list[Any]:
    """What each event says, less what differs from one request to the next: id and time."""
    found = []
    for event in body.decode().split("\n\n"):
        said = event.removeprefix("data: ")
        if said.startswith("{"):
            chunk = json.loads(said)
            found.append({k: v for k, v in chunk.items() if k not in ("id", "created", "timings")})
        else:
            found.append(said)
    return found


def test_the_extra_chunk_comes_and_goes(tmp_path: Path) -> None:
    question = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": TOKENS, "temperature": 0}
    body = json.dumps({**question, "model": MODEL, "stream": True, "ignore_eos": True, "cache_prompt": False}).encode()
    asked = ask_for_usage(body, PATH)
    assert asked is not None
    with llama_server(tmp_path) as server:
        _, unasked = answered(server.url, body)
        kind, said = answered(server.url, asked.body)
    assert b'"usage"' not in unasked
    assert said.count(b'"usage"') == 1
    strip = usage_strip_for(asked, kind, "")
    assert strip is not None
    passed = b"".join([*(strip.feed(said[at : at + 7]) for at in range(0, len(said), 7)), strip.finish()])
    assert strip.removed == 1
    assert events(passed) == events(unasked)
