"""Ollama's answers in the shapes of its documentation."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.requests import Usage
from agent.sidecar.meter.ollama import OllamaReading
from tests.support.metered import JSON, LINES, assert_cut_alike, cuts, lines, measured, strange, take_strange

CHAT, GENERATE = "/api/chat", "/api/generate"
CAPTURES = Path(__file__).resolve().parents[3].parent / "shared" / "captures" / "ollama"


def chat(**message: Any) -> dict[str, Any]:
    return {"model": "llama3.2", "created_at": "2026-08-04T08:52:19Z", "message": {"role": "assistant", **message}}


TOKEN = {**chat(content="The"), "done": False}
END = {
    **chat(content=""),
    "done": True,
    "done_reason": "stop",
    "total_duration": 4883583458,
    "prompt_eval_count": 26,
    "eval_count": 282,
}
WHOLE = lines(TOKEN, TOKEN, END)


def test_a_chat_stream() -> None:
    result = measured(CHAT, LINES, WHOLE, range(len(WHOLE)))
    assert result.usage == Usage(input_tokens=26, output_tokens=282, source="reported")
    assert (result.model, result.finish_reason, result.error, result.complete) == ("llama3.2", "stop", None, True)
    assert result.first_token_at_ns == len(lines(TOKEN))


@pytest.mark.parametrize(
    ("said", "token"),
    [
        (TOKEN, True),
        (chat(content="", thinking="hm"), True),
        (chat(content="", tool_calls=[{"function": {"name": "f", "arguments": {}}}]), True),
        (chat(content=""), False),
        ({"response": "a", "done": False}, True),
        ({"response": "", "thinking": "a", "done": False}, True),
        ({"response": "", "done": False}, False),
    ],
)
def test_what_is_a_token(said: dict[str, Any], token: bool) -> None:
    assert (measured(GENERATE, LINES, lines(said)).first_token_at_ns is not None) is token


def test_a_stream_that_breaks_off_is_counted() -> None:
    result = measured(CHAT, LINES, lines(TOKEN, TOKEN) + b'{"model":')
    assert (result.usage, result.complete) == (Usage(output_tokens=2, source="counted"), False)


def test_the_last_line_may_carry_text_and_no_counts() -> None:
    result = measured(GENERATE, LINES, lines({"response": "a", "done": False}, {"response": "!", "done": True}))
    assert (result.usage, result.complete) == (Usage(output_tokens=2, source="counted"), True)


def test_a_prompt_count_that_is_left_out_is_unknown_not_zero() -> None:
    result = measured(CHAT, LINES, lines({**chat(content="a"), "done": True, "eval_count": 1}))
    assert result.usage == Usage(output_tokens=1, source="reported")


def test_an_error_inside_a_stream() -> None:
    result = measured(CHAT, LINES, lines(TOKEN, {"error": "an error was encountered while running the model"}))
    assert (result.error, result.complete) == ("error", False)


def test_a_document() -> None:
    result = measured(CHAT, JSON, json.dumps({**END, "message": {"content": "The sky"}}, indent=1).encode())
    assert result.usage == Usage(input_tokens=26, output_tokens=282, source="reported")
    assert (result.model, result.finish_reason, result.complete) == ("llama3.2", "stop", True)


def test_a_loaded_model_said_nothing() -> None:
    result = measured(GENERATE, JSON, b'{"model":"m","response":"","done":true,"done_reason":"load"}')
    assert (result.usage, result.finish_reason) == (Usage(), "load")


def test_a_full_queue_is_told_by_its_words() -> None:
    busy = b'{"error":"server busy, please try again.  maximum pending requests exceeded"}'
    assert measured(CHAT, JSON, busy).queue_full
    assert not measured(CHAT, JSON, b'{"error":"model not found"}').queue_full


@pytest.mark.skipif(not CAPTURES.is_dir(), reason="needs ../shared/captures/ollama")
def test_recorded_answers() -> None:
    streamed = measured(GENERATE, LINES, (CAPTURES / "api-generate-stream-docs.ndjson").read_bytes())
    assert (streamed.complete, streamed.finish_reason, streamed.usage.output_tokens) == (True, "stop", 7)
    broken = measured(GENERATE, LINES, (CAPTURES / "api-midstream-error-docs.ndjson").read_bytes())
    assert (broken.complete, broken.error, broken.usage.output_tokens) == (False, "error", 4)
    for name in ("api-generate-nonstream-docs.json", "api-chat-final-chunk-docs.json"):
        body = (CAPTURES / name).read_bytes()
        said = json.loads(body)
        expected = Usage(input_tokens=said["prompt_eval_count"], output_tokens=said["eval_count"], source="reported")
        assert measured(CHAT, JSON, body).usage == expected


@given(at=cuts)
def test_cuts_change_nothing(at: list[int]) -> None:
    assert_cut_alike(CHAT, LINES, WHOLE, at)


@settings(max_examples=200)
@given(values=st.lists(strange, min_size=1, max_size=5), done=st.booleans())
def test_strange_values_do_not_raise(values: list[Any], done: bool) -> None:
    reading = OllamaReading()
    keys = (
        "message",
        "response",
        "thinking",
        "done",
        "done_reason",
        "eval_count",
        "prompt_eval_count",
        "error",
        "model",
    )
    take_strange(reading, keys, values)
    reading.take({**dict.fromkeys(keys, values[0]), "done": done})
