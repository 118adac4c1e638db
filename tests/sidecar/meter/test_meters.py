"""The meter against a slow, plain reading of the same stream, cut at random places; and what documents say."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.requests import Usage
from agent.sidecar.meter.lines import LinesMeter
from agent.sidecar.meter.meters import DocumentMeter, StreamMeter, is_metered, is_stream, meter_for
from agent.sidecar.meter.reading import Measured, usage_of
from agent.sidecar.meter.request import read_request


def plainly(body: bytes) -> dict[str, Any]:
    """The whole stream at once, every event parsed: the reference."""
    text = body.decode().replace("\r\n", "\n").replace("\r", "\n")
    found: dict[str, Any] = {"counted": 0, "usage": None, "finish": None, "error": False, "done": False, "first": None}
    position = 0
    for event in text.split("\n\n"):
        position += len(event) + 2
        data = "\n".join(line[5:].removeprefix(" ") for line in event.split("\n") if line.startswith("data:"))
        if data.strip() == "[DONE]":
            found["done"] = True
            continue
        try:
            said = json.loads(data)
        except ValueError:
            continue
        if isinstance(said.get("usage"), dict):
            found["usage"] = usage_of(said["usage"])
        found["error"] = found["error"] or bool(said.get("error"))
        for choice in said.get("choices", []):
            carrier = choice.get("delta", choice)
            found["finish"] = choice.get("finish_reason") or found["finish"]
            if any(carrier.get(key) for key in ("content", "reasoning_content", "text", "tool_calls")):
                found["counted"] += 1
                found["first"] = found["first"] or event
    return found


texts = st.one_of(
    st.sampled_from(
        ["", " ", "a", '"', '\\"', "\\", "\n", "\n\n", "data: {", "[DONE]", '"usage":{}', "}}]}", "é漢🙂", "\r\n"]
    ),
    st.text(max_size=8).filter(lambda text: text.isprintable()),
)


@st.composite
def events(draw: st.DrawFn) -> list[dict[str, Any] | str]:
    """What an engine might say: one style for a stream, now and then something else."""
    key = draw(st.sampled_from(["content", "reasoning_content", "text"]))
    logprobs = draw(st.sampled_from([{}, {"logprobs": None}, {"logprobs": {"content": [{"token": "x"}]}}]))
    continuous = draw(st.booleans())
    model = draw(st.sampled_from(["tiny", "org/model-7B"]))

    def chunk(carrier: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        choice = carrier if key == "text" else {"delta": carrier}
        return {
            "id": "c",
            "model": model,
            "choices": [{"index": 0, **choice, **logprobs, "finish_reason": finish}],
            **more,
        }

    said: list[dict[str, Any] | str] = [chunk({"role": "assistant", "content": ""})] if key != "text" else []
    for number in range(draw(st.integers(0, 12))):
        match draw(st.integers(0, 11)):
            case 0:
                said.append(": keep-alive")
            case 1:
                said.append({"model": model, "choices": [{"index": i, "delta": {"content": "x"}} for i in (0, 1)]})
            case 2:
                said.append(chunk({"tool_calls": [{"index": 0, "function": {"arguments": draw(texts)}}]}))
            case 3:
                said.append(chunk({key: ""}))
            case _:
                usage = {"usage": {"prompt_tokens": 5, "completion_tokens": number}} if continuous else {}
                said.append(chunk({key: draw(texts)}, **usage))
    if draw(st.booleans()):
        said.append(chunk({key: draw(texts)}, finish=draw(st.sampled_from(["stop", "length"]))))
    if draw(st.booleans()):
        cached = {"prompt_tokens_details": {"cached_tokens": 3}} if draw(st.booleans()) else {}
        said.append({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 7, **cached}})
    if draw(st.integers(0, 5)) == 0:
        said.append({"error": {"type": "Bad", "message": "no"}})
    if draw(st.booleans()):
        said.append("data: [DONE]")
    return said


def written(
    said: list[dict[str, Any] | str], end: str, separators: tuple[str, str], several_lines: bool, gap: str
) -> bytes:
    out = ""
    for event in said:
        if isinstance(event, str):
            out += event
        elif several_lines:
            out += end.join("data:" + line for line in json.dumps(event, indent=1).split("\n"))
        else:
            out += "data: " + json.dumps(event, separators=separators, ensure_ascii=len(event) % 2 == 0)
        out += end + end + gap
    return out.encode()


@settings(max_examples=400, deadline=None)
@given(
    said=events(),
    end=st.sampled_from(["\n", "\n", "\r\n", "\r"]),
    separators=st.sampled_from([(",", ":"), (", ", ": ")]),
    several_lines=st.sampled_from([False, False, False, True]),
    gap=st.sampled_from(["", "", "\n"]),
    cuts=st.lists(st.integers(0, 4000), max_size=20),
)
def test_any_stream_cut_anywhere_reads_like_the_plain_reading(
    said: list[Any], end: str, separators: tuple[str, str], several_lines: bool, gap: str, cuts: list[int]
) -> None:
    body = written(said, end, separators, several_lines, gap if end == "\n" else "")
    expected = plainly(body)
    meter = StreamMeter()
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    for start, stop in itertools.pairwise(edges):
        meter.feed(body[start:stop], stop)
    result = meter.finish(len(body) + 1)
    usage = expected["usage"] or Usage(output_tokens=expected["counted"], source="counted")
    assert result.usage == usage
    assert (result.finish_reason, bool(result.error), result.complete) == (
        expected["finish"],
        expected["error"],
        expected["done"],
    )
    if expected["first"] is None:
        assert result.first_token_at_ns is None
    elif end == "\n":
        # The instant of the piece that brought the blank line after the first token event.
        complete = body.index(expected["first"].encode()) + len(expected["first"].encode()) + 2
        assert result.first_token_at_ns == next(stop for stop in edges if stop >= complete)


def stream(*parts: str) -> Measured:
    meter = StreamMeter()
    meter.feed("".join(f"data: {part}\n\n" for part in parts).encode(), 5)
    return meter.finish(9)


def test_a_role_alone_is_no_token() -> None:
    assert stream('{"choices":[{"delta":{"role":"assistant","content":""}}]}', "[DONE]").first_token_at_ns is None


@pytest.mark.parametrize(
    "delta", ['"content":"a"', '"reasoning_content":"a"', '"reasoning":"a"', '"tool_calls":[{"index":0}]']
)
def test_the_first_token_may_be_of_any_channel(delta: str) -> None:
    assert stream(f'{{"choices":[{{"delta":{{{delta}}}}}]}}', "[DONE]").first_token_at_ns == 5


def test_llamacpp_timings_stand_in_for_usage() -> None:
    result = stream('{"choices":[],"timings":{"cache_n":2,"prompt_n":10,"prompt_ms":1.5,"predicted_n":4}}', "[DONE]")
    assert result.usage == Usage(input_tokens=10, input_cached_tokens=2, output_tokens=4, source="reported")


def test_an_aborted_stream_is_an_error() -> None:
    assert stream('{"choices":[{"delta":{},"finish_reason":"abort"}]}', "[DONE]").error == "finish reason abort"


def test_continuous_usage_is_known_when_the_stream_breaks() -> None:
    meter = StreamMeter()
    meter.feed(
        b'data: {"choices":[{"delta":{"content":"ab"}}],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\nda', 1
    )
    assert meter.output_tokens() == 2
    result = meter.finish(2)
    assert (result.usage.output_tokens, result.usage.source, result.complete) == (2, "reported", False)


def test_an_endless_event_is_given_up() -> None:
    meter = StreamMeter()
    for _ in range(40):
        meter.feed(b"x" * 65536, 1)
    assert meter.finish(2).usage == Usage()
    assert not meter._held


def test_a_document() -> None:
    meter = DocumentMeter()
    body = {
        "model": "m",
        "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 8}},
    }
    for byte in json.dumps(body).encode():
        meter.feed(bytes((byte,)), 1)
    result = meter.finish(2)
    assert result.usage == Usage(input_tokens=2, input_cached_tokens=8, output_tokens=2, source="reported")
    assert (result.finish_reason, result.model, result.first_token_at_ns) == ("stop", "m", None)


@pytest.mark.parametrize(
    ("tail", "output"), [('"usage": {"prompt_tokens": 1, "completion_tokens": 2}}', 2), ("}", None)]
)
def test_a_very_long_document_keeps_its_tail_only(tail: str, output: int | None) -> None:
    meter = DocumentMeter()
    meter.feed(b'{"x": "', 1)
    for _ in range(50):
        meter.feed(b'\\"usage\\":' * 10_000, 1)
        assert sum(map(len, meter._parts)) <= 1_300_000
    meter.feed(b'", ' + tail.encode(), 1)
    assert meter.finish(2).usage.output_tokens == output


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"nonsense", b'{"usage":{"prompt_tokens":-1}}', b'{"usage":[],"choices":{}}']
)
def test_a_strange_document_says_nothing(body: bytes) -> None:
    meter = DocumentMeter()
    meter.feed(body, 1)
    assert meter.finish(2).usage == Usage()


def test_what_is_metered() -> None:
    for path in (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/messages",
        "/v1/responses",
        "/v1/embeddings",
        "/api/chat",
        "/api/generate",
        "/api/embed",
        "/generate",
        "/generate_stream",
        "/mii/deployment",
        "/v2/models/m/generate",
        "/v2/models/m/versions/1/generate_stream",
    ):
        assert is_metered(path), path
    for path in (
        "/v1/messages/count_tokens",
        "/v1/responses/r/cancel",
        "/v2/models/m/infer",
        "/api/pull",
        "/x/generate",
    ):
        assert not is_metered(path), path
    assert meter_for("text/event-stream", "gzip") is None
    assert isinstance(meter_for("application/json; charset=utf-8", ""), DocumentMeter)
    assert meter_for("text/html", "") is None
    assert isinstance(meter_for("application/x-ndjson", ""), LinesMeter)


def test_what_is_a_stream() -> None:
    assert is_stream("text/event-stream; charset=utf-8")
    assert is_stream("application/x-ndjson")
    assert not is_stream("application/json")


def test_the_model_of_a_request() -> None:
    assert read_request(b'{"messages":[{"model":"no"}],"model":"yes","stream":true}').model == "yes"
    assert read_request(b'{"model": "y\\u0065s", "messages": [{"content": "\\"model\\":', complete=False).model == "yes"
    assert read_request(b'{"model": 5}').model is None
    assert read_request(b"\xff").model is None


def test_a_finish_reason_beside_the_last_text_is_read_where_a_usage_follows() -> None:
    token = '{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}'
    last = '{"choices":[{"index":0,"delta":{"content":"b"},"finish_reason":"length"}]}'
    usage = '{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}}'
    read = stream(token, token, last, usage, "[DONE]")
    assert (read.finish_reason, read.complete) == ("length", True)
    assert read.usage == Usage(input_tokens=9, output_tokens=3, source="reported")
