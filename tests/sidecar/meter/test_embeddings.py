"""Answers of embedding endpoints: a prompt, no output."""

import json

from hypothesis import given

from agent.core.requests import Usage
from tests.support.metered import JSON, assert_cut_alike, cuts, measured

PATH = "/v1/embeddings"
BODY = json.dumps(
    {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}],
        "model": "m",
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }
).encode()


def test_openai() -> None:
    result = measured(PATH, JSON, BODY)
    assert result.usage == Usage(input_tokens=8, source="reported")
    assert (result.model, result.error, result.complete, result.first_token_at_ns) == ("m", None, True, None)


def test_a_batch_of_megabytes_keeps_its_usage() -> None:
    body = {"data": [{"embedding": [0.123] * 400_000}], "usage": {"prompt_tokens": 9, "total_tokens": 9}}
    assert measured(PATH, JSON, json.dumps(body).encode()).usage == Usage(input_tokens=9, source="reported")


def test_ollama() -> None:
    body = b'{"model":"m","embeddings":[[0.1,0.2]],"total_duration":1,"prompt_eval_count":8}'
    assert measured("/api/embed", JSON, body).usage == Usage(input_tokens=8, source="reported")


def test_errors() -> None:
    assert measured(PATH, JSON, b'{"error":{"type":"NotFoundError","message":"x"}}').error == "NotFoundError"
    assert measured(PATH, JSON, b'{"object":"error","type":"Bad","message":"x"}').error == "Bad"


def test_vectors_that_are_no_json_are_read_all_the_same() -> None:
    body = b'{"data":[{"embedding":[NaN]}],"usage":{"prompt_tokens":3}}'
    assert measured(PATH, JSON, body).usage == Usage(input_tokens=3, source="reported")


def test_no_document() -> None:
    for body in (b"", b"[]", b"nonsense"):
        assert measured(PATH, JSON, body).usage == Usage()


@given(at=cuts)
def test_cuts_change_nothing(at: list[int]) -> None:
    assert_cut_alike(PATH, JSON, BODY, at)
