"""OpenAI's responses in the shapes of its documentation."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.requests import Usage
from agent.sidecar.meter.responses import ENDS, ResponsesReading
from tests.support.metered import JSON, SSE, assert_cut_alike, cuts, events, measured, strange, take_strange

PATH = "/v1/responses"
USAGE = {"input_tokens": 36, "input_tokens_details": {"cached_tokens": 16}, "output_tokens": 87, "total_tokens": 123}
EXPECTED = Usage(input_tokens=20, input_cached_tokens=16, output_tokens=87, source="reported")


def response(status: str, **more: Any) -> dict[str, Any]:
    return {"id": "resp_1", "object": "response", "model": "m", "status": status, "error": None, "usage": None, **more}


CREATED = {"type": "response.created", "sequence_number": 0, "response": response("in_progress")}
ADDED = {"type": "response.output_item.added", "item": {"type": "message", "content": []}}
TOKEN = {"type": "response.output_text.delta", "item_id": "i", "delta": "Hi"}
TEXT = {"type": "response.output_text.done", "item_id": "i", "text": "Hi"}
COMPLETED = {"type": "response.completed", "response": response("completed", usage=USAGE)}
WHOLE = events(CREATED, ADDED, TOKEN, TOKEN, TEXT, COMPLETED, named=True)


def test_a_stream() -> None:
    result = measured(PATH, SSE, WHOLE, range(len(WHOLE)))
    assert result.usage == EXPECTED
    assert (result.model, result.finish_reason, result.error, result.complete) == ("m", "completed", None, True)
    assert result.first_token_at_ns == len(events(CREATED, ADDED, TOKEN, named=True))


@pytest.mark.parametrize(
    ("event", "token"),
    [
        (TOKEN, True),
        ({"type": "response.reasoning_text.delta", "delta": "a"}, True),
        ({"type": "response.reasoning_summary_text.delta", "delta": "a"}, True),
        ({"type": "response.function_call_arguments.delta", "delta": "{"}, True),
        ({"type": "response.refusal.delta", "delta": "No"}, True),
        ({"type": "response.output_text.delta", "delta": ""}, False),
        ({"type": "response.output_item.added", "item": {"type": "function_call", "name": "f"}}, True),
        (ADDED, False),
        (CREATED, False),
        (TEXT, False),
    ],
)
def test_what_is_a_token(event: dict[str, Any], token: bool) -> None:
    assert (measured(PATH, SSE, events(event, named=True)).first_token_at_ns is not None) is token


def test_an_incomplete_response() -> None:
    said = response("incomplete", usage=USAGE, incomplete_details={"reason": "max_output_tokens"})
    result = measured(PATH, SSE, events(TOKEN, {"type": "response.incomplete", "response": said}))
    assert (result.usage, result.finish_reason, result.error, result.complete) == (
        EXPECTED,
        "max_output_tokens",
        None,
        True,
    )


@pytest.mark.parametrize(
    ("event", "error", "complete"),
    [
        (
            {"type": "response.failed", "response": response("failed", error={"code": "server_error"})},
            "server_error",
            True,
        ),
        ({"type": "response.failed", "response": response("failed")}, "response failed", True),
        ({"type": "error", "code": "rate_limit", "message": "slow", "param": None}, "rate_limit", False),
        ({"type": "error", "error": {"type": "Bad", "message": "no"}}, "Bad", False),
        ({"error": {"type": "Bad", "message": "no"}}, "Bad", False),
    ],
)
def test_errors_inside_a_stream(event: dict[str, Any], error: str, complete: bool) -> None:
    result = measured(PATH, SSE, events(CREATED, TOKEN, event))
    assert (result.error, result.complete, result.usage.output_tokens) == (error, complete, 1)


def test_a_stream_that_breaks_off() -> None:
    result = measured(PATH, SSE, events(CREATED, TOKEN, TOKEN, "data: [DONE]"))
    assert (result.usage, result.complete) == (Usage(output_tokens=2, source="counted"), False)


def test_a_document() -> None:
    result = measured(PATH, JSON, json.dumps(response("completed", usage=USAGE)).encode())
    assert (result.usage, result.finish_reason, result.model, result.error) == (EXPECTED, "completed", "m", None)
    failed = measured(PATH, JSON, json.dumps(response("failed", error={"code": "server_error"})).encode())
    assert (failed.error, failed.usage) == ("server_error", Usage())


@given(at=cuts)
def test_cuts_change_nothing(at: list[int]) -> None:
    assert_cut_alike(PATH, SSE, WHOLE, at)


@settings(max_examples=200)
@given(kind=st.sampled_from([*ENDS, "error", "response.output_item.added"]), values=st.lists(strange, min_size=1))
def test_strange_values_do_not_raise(kind: str, values: list[Any]) -> None:
    reading = ResponsesReading()
    keys = ("response", "item", "delta", "usage", "status", "incomplete_details", "error", "object")
    take_strange(reading, keys, values)
    reading.take({"type": kind, **dict.fromkeys(keys, values[0])})
    reading.take({"type": kind, "response": {**dict.fromkeys(keys, values[0]), "status": "incomplete"}})
