"""How often a request was sent before, by the fields of its head."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.admission import MAX_ATTEMPT
from agent.sidecar.meter.attempts import attempt_of

SDK, GRPC, ENVOY = b"x-stainless-retry-count", b"grpc-previous-rpc-attempts", b"x-envoy-attempt-count"


@pytest.mark.parametrize(
    ("fields", "attempt"),
    [
        ({}, 0),
        ({SDK: b"0"}, 0),
        ({SDK: b"2"}, 2),
        ({GRPC: b"1"}, 1),
        ({ENVOY: b"1"}, 0),
        ({ENVOY: b"3"}, 2),
        ({ENVOY: b"0"}, 0),
        ({SDK: b"1", ENVOY: b"4"}, 3),
        ({SDK: b"5", ENVOY: b"1"}, 5),
        ({SDK: b"101"}, MAX_ATTEMPT),
        ({SDK: b"9" * 5000}, 0),
        ({SDK: b"-1"}, 0),
        ({SDK: b"1.5"}, 0),
        ({SDK: b"1, 1"}, 0),
        ({SDK: "²".encode()}, 0),
        ({SDK: b""}, 0),
    ],
)
def test_the_attempt_of_a_request(fields: dict[bytes, bytes], attempt: int) -> None:
    assert attempt_of(fields) == attempt


@given(st.dictionaries(st.sampled_from([SDK, GRPC, ENVOY]), st.binary(max_size=20)))
def test_whatever_is_said_it_is_a_small_number(fields: dict[bytes, bytes]) -> None:
    assert 0 <= attempt_of(fields) <= MAX_ATTEMPT
