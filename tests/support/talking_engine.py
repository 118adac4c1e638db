"""An engine that speaks the APIs that real clients speak: OpenAI, Anthropic and Ollama, streamed and whole.

The model's name says what happens: `tiny` answers, `missing`, `busy` and `broken` refuse, `slow` says its first word
and no more, `silent` says nothing, `halfway` breaks off. Every answer has INPUT and OUTPUT tokens.
"""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from aiohttp import web

INPUT, OUTPUT = 11, 3
WORDS = ("Hello", " there", "!")
TEXT = "".join(WORDS)
CALL = {"name": "weather", "arguments": '{"city": "Zürich"}'}
Said = dict[str, Any]
_USAGE = {"prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT}
_REFUSALS = {
    "missing": (404, "The model `missing` does not exist.", "NotFoundError"),
    "busy": (429, "Too many requests.", "rate_limit_error"),
    "broken": (500, "The engine is dead.", "InternalServerError"),
}


@dataclass
class TalkingEngine:
    """`left`: requests whose client went before the answer was whole. `authorized`: the keys that were sent."""

    url: str = ""
    left: int = 0
    authorized: list[str] = field(default_factory=list)
    asked: list[Said] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        said = await request.json()
        self.asked.append(said)
        self.authorized.append(request.headers.get("authorization") or request.headers.get("x-api-key") or "")
        model, path = said.get("model", ""), request.path
        if model in _REFUSALS:
            return _refusal(path, *_REFUSALS[model])
        if model == "silent":
            return await self._wait(request)
        whole, pieces, kind = _SPOKEN[path](said)
        if not said.get("stream", path.startswith("/api/")) or path == "/v1/embeddings":
            return web.json_response(whole)
        return await self._stream(request, model, pieces, kind)

    async def _stream(self, request: web.Request, model: str, pieces: Iterable[bytes], kind: str) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": kind})
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        last = 1 if kind == "application/x-ndjson" else 3  # some words are said by then, and not all
        for number, piece in enumerate(pieces):
            await answer.write(piece)
            if number == last and model == "slow":
                await self._wait(request)
            if number == last and model == "halfway":
                assert request.transport is not None
                request.transport.abort()
                return answer
        await answer.write_eof()
        return answer

    async def _wait(self, request: web.Request) -> web.StreamResponse:
        """Nothing happens until the client is gone; then aiohttp cancels us."""
        try:
            await anyio.sleep_forever()
        finally:
            self.left += 1
        raise AssertionError("unreachable")


def _refusal(path: str, status: int, message: str, kind: str) -> web.Response:
    body: Said = {"error": {"message": message, "type": kind, "param": None, "code": status}}
    if path == "/v1/messages":
        body = {"type": "error", "error": {"type": kind, "message": message}}
    elif path.startswith("/api/"):
        body = {"error": message}
    return web.json_response(body, status=status, headers={"retry-after": "1"} if status == 429 else None)


def _events(*said: Said, named: bool = False, done: bool = False) -> list[bytes]:
    out = [(f"event: {one['type']}\n" if named else "").encode() + b"data: " + _json(one) + b"\n\n" for one in said]
    return [*out, b"data: [DONE]\n\n"] if done else out


def _json(said: Said) -> bytes:
    return json.dumps(said, ensure_ascii=False).encode()


def _chat(asked: Said) -> tuple[Said, list[bytes], str]:
    common = {"id": "chatcmpl-1", "created": 1, "model": asked["model"]}
    tool = {"id": "call_1", "type": "function", "function": CALL}
    message = {"role": "assistant", "content": None, "tool_calls": [tool]} if asked.get("tools") else None
    choice = {
        "index": 0,
        "message": message or {"role": "assistant", "content": TEXT},
        "finish_reason": "tool_calls" if message else "stop",
    }
    whole = {**common, "object": "chat.completion", "choices": [choice], "usage": _USAGE}

    def chunk(delta: Said, finish: str | None = None) -> Said:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        return {**common, "object": "chat.completion.chunk", "choices": choices}

    deltas: list[Said] = [{"content": word} for word in WORDS]
    if message:
        first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
        parts = (CALL["arguments"][:5], CALL["arguments"][5:])
        deltas = [{"tool_calls": [first]}]
        deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in parts]
    chunks = [chunk({"role": "assistant", "content": ""}), *map(chunk, deltas)]
    chunks.append(chunk({}, choice["finish_reason"]))
    if (asked.get("stream_options") or {}).get("include_usage"):
        chunks.append({**common, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE})
    return whole, _events(*chunks, done=True), "text/event-stream; charset=utf-8"


def _completion(asked: Said) -> tuple[Said, list[bytes], str]:
    common = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": asked["model"]}

    def said(text: str, finish: str | None) -> Said:
        return {**common, "choices": [{"index": 0, "text": text, "finish_reason": finish, "logprobs": None}]}

    chunks = [said(word, None) for word in WORDS[:-1]] + [said(WORDS[-1], "stop")]
    if (asked.get("stream_options") or {}).get("include_usage"):
        chunks.append({**common, "choices": [], "usage": _USAGE})
    return {**said(TEXT, "stop"), "usage": _USAGE}, _events(*chunks, done=True), "text/event-stream"


def _embeddings(asked: Said) -> tuple[Said, list[bytes], str]:
    vector: Any = [0.5, -0.25] if asked.get("encoding_format") != "base64" else "AAAAPwAAgL4="
    data = [{"object": "embedding", "index": 0, "embedding": vector}]
    usage = {"prompt_tokens": INPUT, "total_tokens": INPUT}
    return {"object": "list", "model": asked["model"], "data": data, "usage": usage}, [], ""


def _responses(asked: Said) -> tuple[Said, list[bytes], str]:
    usage = {
        "input_tokens": INPUT,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": OUTPUT,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": INPUT + OUTPUT,
    }
    part = {"type": "output_text", "text": TEXT, "annotations": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    begun = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": asked["model"],
        "status": "in_progress",
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
    }
    whole = {**begun, "status": "completed", "output": [item], "usage": usage}
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    said = [
        {"type": "response.created", "response": begun},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**item, "status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **at, "part": {**part, "text": ""}},
        *({"type": "response.output_text.delta", **at, "delta": word, "logprobs": []} for word in WORDS),
        {"type": "response.output_text.done", **at, "text": TEXT, "logprobs": []},
        {"type": "response.content_part.done", **at, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole},
    ]
    numbered = [{**one, "sequence_number": number} for number, one in enumerate(said)]
    return whole, _events(*numbered, named=True), "text/event-stream"


def _messages(asked: Said) -> tuple[Said, list[bytes], str]:
    tool = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": json.loads(CALL["arguments"])}
    content = tool if asked.get("tools") else {"type": "text", "text": TEXT}
    stop = "tool_use" if asked.get("tools") else "end_turn"
    usage = {"input_tokens": INPUT, "output_tokens": OUTPUT}
    begun = {"id": "msg_1", "type": "message", "role": "assistant", "model": asked["model"], "stop_sequence": None}
    whole = {**begun, "content": [content], "stop_reason": stop, "usage": usage}
    if asked.get("tools"):
        first: Said = {**tool, "input": {}}
        halves = (CALL["arguments"][:5], CALL["arguments"][5:])
        deltas = [{"type": "input_json_delta", "partial_json": half} for half in halves]
    else:
        first, deltas = {"type": "text", "text": ""}, [{"type": "text_delta", "text": word} for word in WORDS]
    first_usage = {"input_tokens": INPUT, "output_tokens": 0}
    said: list[Said] = [
        {"type": "message_start", "message": {**begun, "content": [], "stop_reason": None, "usage": first_usage}},
        {"type": "content_block_start", "index": 0, "content_block": first},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": stop, "stop_sequence": None},
            "usage": {"output_tokens": OUTPUT},
        },
        {"type": "message_stop"},
    ]
    return whole, _events(*said, named=True), "text/event-stream"


def _ollama(asked: Said, chat: bool) -> tuple[Said, list[bytes], str]:
    def said(text: str) -> Said:
        spoken = {"message": {"role": "assistant", "content": text}} if chat else {"response": text}
        return {"model": asked["model"], "created_at": "2026-11-23T00:00:00Z", **spoken, "done": False}

    counts = {"prompt_eval_count": INPUT, "eval_count": OUTPUT, "prompt_eval_duration": 1, "eval_duration": 1}
    end = {"done": True, "done_reason": "stop", "total_duration": 5, "load_duration": 1, **counts}
    lines = [_json(said(word)) + b"\n" for word in WORDS] + [_json({**said(""), **end}) + b"\n"]
    return {**said(TEXT), **end}, lines, "application/x-ndjson"


_SPOKEN = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/embeddings": _embeddings,
    "/v1/responses": _responses,
    "/v1/messages": _messages,
    "/api/chat": lambda asked: _ollama(asked, True),
    "/api/generate": lambda asked: _ollama(asked, False),
}


@asynccontextmanager
async def talking_engine() -> AsyncIterator[TalkingEngine]:
    """Serve on a free loopback port until the body ends."""
    engine = TalkingEngine()

    async def upload(request: web.Request) -> web.Response:
        size = 0
        async for part in request.content.iter_any():
            size += len(part)
        return web.json_response({"text": "words", "bytes": size})

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "tiny", "object": "model", "owned_by": "vllm"}]})

    app = web.Application(client_max_size=1 << 30)
    for path in _SPOKEN:
        app.router.add_post(path, engine.answer)
    app.router.add_post("/v1/audio/transcriptions", upload)
    app.router.add_get("/v1/models", models)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    engine.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield engine
    finally:
        await runner.cleanup()
