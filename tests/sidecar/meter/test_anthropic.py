"""Anthropic's messages as its documentation and the engines that imitate it write them."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.requests import Usage
from agent.sidecar.meter.anthropic import AnthropicReading
from tests.support.metered import JSON, SSE, assert_cut_alike, cuts, events, measured, strange, take_strange

PATH = "/v1/messages"
START: dict[str, Any] = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": "claude-tiny",
        "stop_reason": None,
        "usage": {
            "input_tokens": 25,
            "cache_creation_input_tokens": 5,
            "cache_read_input_tokens": 8,
            "output_tokens": 1,
        },
    },
}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
PING = {"type": "ping"}
END = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 15}}
STOP = {"type": "message_stop"}


def delta(**said: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": said}


TOKEN = delta(type="text_delta", text="Hello")
WHOLE = events(START, BLOCK, PING, TOKEN, TOKEN, {"type": "content_block_stop", "index": 0}, END, STOP, named=True)


def test_a_stream() -> None:
    result = measured(PATH, SSE, WHOLE, range(len(WHOLE)))
    assert result.usage == Usage(input_tokens=30, input_cached_tokens=8, output_tokens=15, source="reported")
    assert (result.model, result.finish_reason, result.error, result.complete) == (
        "claude-tiny",
        "end_turn",
        None,
        True,
    )
    assert result.first_token_at_ns == len(events(START, BLOCK, PING, TOKEN, named=True))


@pytest.mark.parametrize(
    ("event", "token"),
    [
        (TOKEN, True),
        (delta(type="thinking_delta", thinking="hm"), True),
        (delta(type="input_json_delta", partial_json='{"a'), True),
        (delta(type="input_json_delta", partial_json=""), False),
        (delta(type="signature_delta", signature="EqQ"), False),
        (BLOCK, False),
        ({"type": "content_block_start", "content_block": {"type": "tool_use", "name": "f", "input": {}}}, True),
        (PING, False),
        (START, False),
        (": comment", False),
    ],
)
def test_what_is_a_token(event: dict[str, Any], token: bool) -> None:
    assert (measured(PATH, SSE, events(event, named=isinstance(event, dict))).first_token_at_ns is not None) is token


def test_a_stream_that_breaks_off_keeps_the_reported_prompt_and_what_was_counted() -> None:
    result = measured(PATH, SSE, events(START, BLOCK, TOKEN, TOKEN, TOKEN, named=True))
    assert result.usage == Usage(input_tokens=30, input_cached_tokens=8, output_tokens=3, source="counted")
    assert not result.complete


def test_done_is_no_end_of_messages() -> None:
    assert not measured(PATH, SSE, events(START, TOKEN, END, "data: [DONE]")).complete


@pytest.mark.parametrize(("first", "last"), [(0, 12), (12, 0), (12, 12), (12, None)])
def test_the_prompt_may_be_counted_in_the_first_event_or_in_the_last(first: int, last: int | None) -> None:
    start = {"type": "message_start", "message": {"usage": {"input_tokens": first, "output_tokens": 0}}}
    end = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 4, "input_tokens": last}}
    assert measured(PATH, SSE, events(start, end, STOP)).usage == Usage(
        input_tokens=12, output_tokens=4, source="reported"
    )


def test_a_zero_of_the_first_event_is_kept() -> None:
    # Recorded from llama.cpp: nothing cached, and the last event counts the output only.
    start = {"type": "message_start", "message": {"usage": {"cache_read_input_tokens": 0, "input_tokens": 17}}}
    assert measured(PATH, SSE, events(start, END, STOP)).usage == Usage(
        input_tokens=17, input_cached_tokens=0, output_tokens=15, source="reported"
    )


def test_an_error_inside_a_stream() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    result = measured(PATH, SSE, events(START, TOKEN, error, named=True))
    assert (result.error, result.complete) == ("overloaded_error", False)


def test_a_document() -> None:
    body = {
        "id": "msg_1",
        "type": "message",
        "model": "m",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "max_tokens",
        "usage": {"input_tokens": 9, "output_tokens": 2, "cache_read_input_tokens": 0},
    }
    result = measured(PATH, JSON, json.dumps(body).encode())
    assert result.usage == Usage(input_tokens=9, input_cached_tokens=0, output_tokens=2, source="reported")
    assert (result.model, result.finish_reason, result.complete) == ("m", "max_tokens", True)
    long = json.dumps({"content": "x" * (1 << 20), "usage": body["usage"]}).encode()
    assert measured(PATH, JSON, long).usage == result.usage


def test_a_documents_error_has_no_usage() -> None:
    result = measured(PATH, JSON, b'{"type":"error","error":{"type":"not_found_error","message":"model"}}')
    assert (result.error, result.usage) == ("not_found_error", Usage())


@given(at=cuts)
def test_cuts_change_nothing(at: list[int]) -> None:
    assert_cut_alike(PATH, SSE, WHOLE, at)


@settings(max_examples=200)
@given(
    kind=st.sampled_from(
        ["message_start", "message_delta", "message", "content_block_delta", "content_block_start", "error"]
    ),
    values=st.lists(strange, min_size=1, max_size=5),
)
def test_strange_values_do_not_raise(kind: str, values: list[Any]) -> None:
    reading = AnthropicReading()
    keys = ("message", "delta", "content_block", "usage", "model", "error", "stop_reason")
    take_strange(reading, keys, values)
    reading.take({"type": kind, **dict.fromkeys(keys, values[0])})
