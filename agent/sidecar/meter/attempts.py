"""Fields of a request's head → whether its client, or a proxy before us, sends it again. Pure."""

from collections.abc import Mapping

from agent.core.admission import MAX_ATTEMPT

MULTIPART = b"multipart/"  # files: their length says nothing of tokens

_CLIENT = b"x-stainless-retry-count"  # SDKs of OpenAI and Anthropic: 0 for the first attempt
_GRPC = b"grpc-previous-rpc-attempts"  # gRFC A6: not sent with the first attempt
_ENVOY = b"x-envoy-attempt-count"  # 1 for the first attempt
_DIGITS = 9


def attempt_of(fields: Mapping[bytes, bytes]) -> int:
    """How often this request was sent before, by the word of whoever sends it; 0: never, or nobody says.

    `fields`: lower-case name → value. The SDK and Envoy count on their own; the higher number is told.
    """
    most = 0
    if _CLIENT in fields:
        most = _number(fields[_CLIENT])
    if _GRPC in fields:
        most = max(most, _number(fields[_GRPC]))
    if _ENVOY in fields:
        most = max(most, _number(fields[_ENVOY]) - 1)
    return min(most, MAX_ATTEMPT)


def _number(value: bytes) -> int:
    return int(value) if len(value) <= _DIGITS and value.isdigit() else 0
