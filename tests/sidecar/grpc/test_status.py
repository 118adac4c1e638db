"""Codes and what they come to."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sidecar.grpc import status


def test_the_codes_are_those_of_grpc() -> None:
    for name in ("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "UNAVAILABLE"):
        assert getattr(status, name) == grpc.StatusCode[name].value[0]
    for name in ("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "INTERNAL", "UNAUTHENTICATED"):
        assert getattr(status, name) == grpc.StatusCode[name].value[0]


@pytest.mark.parametrize(
    ("code", "message", "outcome"),
    [
        (0, "", "ok"),
        (1, "", "client_abort"),
        (2, "x", "error"),
        (3, "x", "rejected"),
        (4, "", "timeout"),
        (5, "", "rejected"),
        (7, "", "rejected"),
        (8, "", "rejected"),
        (12, "", "error"),
        (13, "", "error"),
        (14, "", "error"),
        (14, "[request id: 1] Exceeds maximum queue size", "rejected"),
        (16, "", "rejected"),
        (99, "", "error"),
    ],
)
def test_outcomes(code: int, message: str, outcome: str) -> None:
    assert status.outcome_of(code, message) == outcome


@given(st.text())
def test_messages_survive_the_wire(message: str) -> None:
    encoded = status.encode_message(message.encode("utf-8", "replace").decode())
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert status.decode_message(encoded) == message.encode("utf-8", "replace").decode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"1S", 10**9),
        (b"250m", 250 * 10**6),
        (b"99999999n", 99999999),
        (b"2H", 7200 * 10**9),
        (b"3M", 180 * 10**9),
        (b"5u", 5000),
        (b"999999999S", None),
        (b"S", None),
        (b"-1S", None),
        (None, None),
    ],
)
def test_timeouts(value: bytes | None, expected: int | None) -> None:
    assert status.timeout_ns(value) == expected


@pytest.mark.parametrize(("value", "expected"), [(b"0", 0), (b"13", 13), (b"", 2), (b"x", 2), (None, 2), (b"9999", 2)])
def test_a_status_that_cannot_be_read_is_unknown(value: bytes | None, expected: int) -> None:
    assert status.read_status(value) == expected


def test_resets_and_http() -> None:
    assert [status.status_of_reset(code) for code in (8, 7, 11, 12, 2)] == [1, 14, 8, 7, 13]
    assert [status.status_of_http(code) for code in (404, 503, 401, 403, 400, 418)] == [12, 14, 16, 7, 13, 2]
    assert [status.status_of_refusal(code) for code in (401, 402, 403, 429)] == [16, 8, 7, 8]
