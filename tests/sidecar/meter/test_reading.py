"""What one JSON object says, told apart from framing."""

from typing import Any

import pytest

from agent.core.requests import Usage
from agent.sidecar.meter.reading import Reading, count, decode, disjoint, timings_of, usage_of


@pytest.mark.parametrize(("value", "expected"), [(3, 3), (0, 0), (-1, None), (True, None), (1.0, None), ("1", None)])
def test_a_count(value: Any, expected: int | None) -> None:
    assert count(value) == expected


def test_kinds_are_disjoint() -> None:
    assert disjoint(None, 3, None) is None
    assert disjoint(10, 4, None) == Usage(input_tokens=6, input_cached_tokens=4, source="reported")
    assert disjoint(3, 9, 1) == Usage(input_tokens=0, input_cached_tokens=3, output_tokens=1, source="reported")


def test_usage_and_timings_without_counts() -> None:
    assert usage_of({"total_tokens": 3}) is None
    assert timings_of({"prompt_n": 3}) is None


def test_decoding() -> None:
    assert decode(b'{"a":1}') == {"a": 1}
    assert decode(b'{"a":Infinity}') == {"a": float("inf")}
    assert decode(b"\xff") is None
    assert decode(b"") is None


@pytest.mark.parametrize(
    ("said", "tokens", "plain"),
    [
        ({"choices": [{"delta": {"content": "a"}}]}, 1, True),
        ({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, 0, True),
        ({"choices": [{"text": "a", "finish_reason": "stop"}]}, 1, False),
        ({"choices": [{"delta": {"content": "a"}}], "usage": {"prompt_tokens": 1}}, 1, False),
        ({"error": {"type": "Bad"}}, 0, False),
        ({"choices": [3, None]}, 0, True),
    ],
)
def test_one_object(said: dict[str, Any], tokens: int, plain: bool) -> None:
    assert Reading().take(said) == (tokens, plain)


def test_a_message_is_never_kept() -> None:
    reading = Reading()
    reading.take({"error": {"message": "the queue is full of secrets"}})
    assert (reading.error, reading.queue_full) == ("error", True)


def test_a_list_is_no_document() -> None:
    assert not Reading().take_document([{"usage": {"prompt_tokens": 1}}])
