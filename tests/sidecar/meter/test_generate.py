"""The engines' own generate endpoints in the shapes their sources and schemas give."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.requests import Usage
from agent.sidecar.meter.generate import GenerateReading, TritonReading
from agent.sidecar.meter.meters import StreamMeter
from tests.support.metered import JSON, SSE, assert_cut_alike, cuts, events, measured, strange, take_strange

GENERATE, STREAM, TRITON = "/generate", "/generate_stream", "/v2/models/ensemble/generate_stream"
DONE = "data: [DONE]"


def sglang(text: str, output: int, finish: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    meta = {"id": "r", "finish_reason": finish, "prompt_tokens": 10, "cached_tokens": 4, "completion_tokens": output}
    return {"text": text, "meta_info": meta, **more}


def tgi(number: int, text: str, *, special: bool = False, **end: Any) -> dict[str, Any]:
    token = {"id": 5, "text": text, "logprob": -0.1, "special": special}
    return {"index": number, "token": token, "generated_text": None, "details": None, **end}


STOPPED = {"type": "stop", "matched": 2}
SGLANG = events(sglang("", 0), sglang("a", 1), sglang("a b", 3), sglang("a b c", 4, STOPPED), DONE)
DETAILS = {"finish_reason": "length", "generated_tokens": 3, "seed": None, "input_length": 7}
TGI = events(tgi(1, "a"), tgi(2, " b"), tgi(3, "", special=True, generated_text="a b", details=DETAILS))


def test_sglang_stream() -> None:
    result = measured(GENERATE, SSE, SGLANG, range(len(SGLANG)))
    assert result.usage == Usage(input_tokens=6, input_cached_tokens=4, output_tokens=4, source="reported")
    assert (result.finish_reason, result.error, result.complete) == ("stop", None, True)
    assert result.first_token_at_ns == len(events(sglang("", 0), sglang("a", 1)))


def test_a_token_of_half_a_character_has_no_text_yet() -> None:
    assert measured(GENERATE, SSE, events(sglang("", 1))).first_token_at_ns is not None


def test_sglang_stream_that_breaks_off_has_its_counts_so_far() -> None:
    result = measured(GENERATE, SSE, events(sglang("a", 1), sglang("a b", 3)))
    assert (result.usage.output_tokens, result.usage.source, result.complete) == (3, "reported", False)


def test_sglang_batches_are_summed() -> None:
    both = Usage(input_tokens=12, input_cached_tokens=8, output_tokens=7, source="reported")
    parts = (sglang("a", 1, index=0), sglang("b", 2, index=1), sglang("a c", 5, STOPPED, index=0))
    assert measured(GENERATE, SSE, events(*parts, DONE)).usage == both
    assert measured(GENERATE, JSON, json.dumps([sglang("a", 5), sglang("b", 2)]).encode()).usage == both
    meter = StreamMeter(GenerateReading())
    meter.feed(events(*parts), 1)
    assert meter.output_tokens() == 7


def test_sglang_document_and_errors() -> None:
    result = measured(GENERATE, JSON, json.dumps(sglang("a b", 2, {"type": "length", "length": 2})).encode())
    assert (result.usage.output_tokens, result.finish_reason, result.complete) == (2, "length", True)
    abort = {"type": "abort", "message": "Abort", "status_code": 503}
    assert measured(GENERATE, SSE, events(sglang("a", 1, abort), DONE)).error == "finish reason abort"
    said = {"error": {"message": "no", "type": "BadRequestError"}}
    assert measured(GENERATE, SSE, events(said, DONE)).error == "BadRequestError"


def test_tgi_stream() -> None:
    result = measured(STREAM, SSE, TGI.replace(b"data: ", b"data:"))
    assert result.usage == Usage(input_tokens=7, output_tokens=3, source="reported")
    assert (result.finish_reason, result.complete) == ("length", True)
    assert measured(STREAM, SSE, TGI, range(len(TGI))).first_token_at_ns == len(events(tgi(1, "a")))


def test_tgi_stream_without_details_is_counted() -> None:
    result = measured(STREAM, SSE, events(tgi(1, "a"), tgi(2, "b", generated_text="ab")))
    assert (result.usage, result.complete) == (Usage(output_tokens=2, source="counted"), True)
    assert not measured(STREAM, SSE, events(tgi(1, "a"))).complete


def test_tgi_error_keeps_its_kind_only() -> None:
    said = {"error": "Request failed during generation: secret", "error_type": "generation"}
    result = measured(STREAM, SSE, events(tgi(1, "a"), said))
    assert (result.error, result.complete) == ("generation", False)


def test_tgi_document() -> None:
    details = {"finish_reason": "eos_token", "generated_tokens": 3, "prefill": [{"id": 1}, {"id": 2}]}
    result = measured(GENERATE, JSON, json.dumps({"generated_text": "x", "details": details}).encode())
    assert result.usage == Usage(input_tokens=2, output_tokens=3, source="reported")
    assert result.finish_reason == "eos_token"
    assert measured(GENERATE, JSON, b'{"generated_text":"x"}').usage == Usage()


def test_mii() -> None:
    result = measured(GENERATE, SSE, events({"text": ["a"]}, {"text": [""]}, {"text": ["b"]}, DONE))
    assert (result.usage, result.complete) == (Usage(output_tokens=2, source="counted"), True)
    answer = {"generated_text": "x", "prompt_length": 5, "generated_length": 2, "finish_reason": "length"}
    result = measured("/mii/deployment", JSON, json.dumps([answer, answer]).encode())
    assert (result.usage, result.finish_reason) == (
        Usage(input_tokens=10, output_tokens=4, source="reported"),
        "length",
    )


def triton(text: str, **more: Any) -> dict[str, Any]:
    return {"model_name": "ensemble", "model_version": "1", "text_output": text, **more}


def test_triton_stream_ends_with_its_body() -> None:
    result = measured(TRITON, SSE, events(triton(""), triton("a"), triton("b")))
    assert result.usage == Usage(output_tokens=2, source="counted")
    assert (result.model, result.error, result.complete) == ("ensemble", None, True)
    assert result.first_token_at_ns is not None
    assert measured(TRITON, SSE, events(triton("a"), {"error": "failed"})).error == "error"


def test_triton_document_has_counts_if_they_were_asked_for() -> None:
    path = "/v2/models/ensemble/generate"
    said = triton("a b", num_input_tokens=4, num_output_tokens=2)
    assert measured(path, JSON, json.dumps(said).encode()).usage == Usage(
        input_tokens=4, output_tokens=2, source="reported"
    )
    assert measured(path, JSON, json.dumps(triton("a b")).encode()).usage == Usage()


def test_triton_model_with_outputs_of_its_own_is_not_counted() -> None:
    assert measured(TRITON, SSE, events({"model_name": "m", "OUTPUT": [1, 2]})).usage == Usage()


@pytest.mark.parametrize(("path", "body"), [(GENERATE, SGLANG), (STREAM, TGI)])
@given(at=cuts)
def test_cuts_change_nothing(path: str, body: bytes, at: list[int]) -> None:
    assert_cut_alike(path, SSE, body, at)


@settings(max_examples=200)
@given(values=st.lists(strange, min_size=1, max_size=5))
def test_strange_values_do_not_raise(values: list[Any]) -> None:
    keys = ("text", "meta_info", "index", "token", "generated_text", "details", "error", "error_type", "text_output")
    counts = ("finish_reason", "num_input_tokens", "num_output_tokens", "prompt_tokens", "completion_tokens")
    for reading in (GenerateReading(), TritonReading()):
        take_strange(reading, keys, values)
        take_strange(reading, counts, values)
        reading.take({"meta_info": dict.fromkeys(counts, values[0])})
        reading.take({"generated_text": "x", "details": dict.fromkeys(counts, values[0])})
