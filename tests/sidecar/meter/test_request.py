import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sidecar.meter.request import RequestSaid, read_request


def said(**body: Any) -> RequestSaid:
    return read_request(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("body", "most"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
        ({"max_output_tokens": 6}, 6),
        ({"options": {"num_predict": 8}}, 8),
        ({"options": {"num_predict": -1}}, None),
        ({"parameters": {"max_new_tokens": 9}}, 9),
        ({"sampling_params": {"max_new_tokens": 10}}, 10),
        ({"max_tokens": 5, "n": 3}, 15),
        ({"max_tokens": "many", "n": "some"}, None),
        ({"max_tokens": True}, None),
    ],
)
def test_how_much_a_request_lets_the_engine_write(body: dict[str, Any], most: int | None) -> None:
    assert said(**body).most_output_tokens == most


@pytest.mark.parametrize(
    ("body", "user"),
    [
        ({"user": "ann"}, "ann"),
        ({"metadata": {"user_id": "bob"}}, "bob"),
        ({"metadata": "x"}, None),
        ({"user": 7}, None),
        ({"user": ""}, None),
    ],
)
def test_the_user_of_a_request(body: dict[str, Any], user: str | None) -> None:
    assert said(**body).shown_user == user


def test_a_field_of_a_strange_type_does_not_hide_the_model() -> None:
    assert said(model="tiny", stream=True, max_tokens=1.5, user=[], n={}).model == "tiny"


@given(st.binary(max_size=60), st.booleans())
def test_no_body_is_too_strange(body: bytes, complete: bool) -> None:
    assert isinstance(read_request(body, complete), RequestSaid)
