"""Codes of gRPC, HTTP/2 and HTTP ↔ each other and the outcome of a call. Pure.

Sources: grpc/doc/statuscodes.md, grpc/doc/PROTOCOL-HTTP2.md (resets, grpc-message, grpc-timeout),
grpc/doc/http-grpc-status-mapping.md.
"""

import re
from typing import Final
from urllib.parse import quote_from_bytes, unquote

from agent.core.requests import Outcome

OK: Final = 0
CANCELLED: Final = 1
UNKNOWN: Final = 2
INVALID_ARGUMENT: Final = 3
DEADLINE_EXCEEDED: Final = 4
NOT_FOUND: Final = 5
PERMISSION_DENIED: Final = 7
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14
UNAUTHENTICATED: Final = 16

# What HTTP would answer with 4xx: the caller's doing, not a failure of the engine.
_REFUSALS = frozenset((INVALID_ARGUMENT, NOT_FOUND, 6, PERMISSION_DENIED, RESOURCE_EXHAUSTED, 9, 11, UNAUTHENTICATED))
_QUEUE_FULL = ("queue size", "queue is full", "queue full")
_OF_RESET = {7: UNAVAILABLE, 8: CANCELLED, 11: RESOURCE_EXHAUSTED, 12: PERMISSION_DENIED}
_OF_HTTP = {400: INTERNAL, 401: UNAUTHENTICATED, 403: PERMISSION_DENIED, 404: UNIMPLEMENTED} | dict.fromkeys(
    (429, 502, 503, 504), UNAVAILABLE
)
_OF_REFUSAL = {401: UNAUTHENTICATED, 402: RESOURCE_EXHAUSTED, 403: PERMISSION_DENIED, 429: RESOURCE_EXHAUSTED}
_UNITS = {"H": 3600 * 10**9, "M": 60 * 10**9, "S": 10**9, "m": 10**6, "u": 10**3, "n": 1}
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_PLAIN = "".join(chr(c) for c in range(0x20, 0x7F) if c != 0x25)


def outcome_of(status: int, message: str = "") -> Outcome:
    """How a call ended that got this grpc-status. A full queue of Triton (UNAVAILABLE) is a refusal too."""
    if status == OK:
        return "ok"
    if status == CANCELLED:
        return "client_abort"
    if status == DEADLINE_EXCEEDED:
        return "timeout"
    if status in _REFUSALS or (status == UNAVAILABLE and any(words in message.lower() for words in _QUEUE_FULL)):
        return "rejected"
    return "error"


def status_of_reset(code: int) -> int:
    """What a client makes of RST_STREAM with this code of HTTP/2."""
    return _OF_RESET.get(code, INTERNAL)


def status_of_http(status: int) -> int:
    """What a client makes of an answer that is not gRPC."""
    return _OF_HTTP.get(status, UNKNOWN)


def status_of_refusal(status: int) -> int:
    """The gRPC status for a refusal of ours that HTTP would tell with `status`."""
    return _OF_REFUSAL.get(status, RESOURCE_EXHAUSTED)


def encode_message(message: str) -> bytes:
    """A text as `grpc-message`: percent-encoded UTF-8."""
    return quote_from_bytes(message.encode(), safe=_PLAIN).encode()


def decode_message(value: bytes) -> str:
    """`grpc-message` as text."""
    return unquote(value.decode("latin-1"), errors="replace")


def read_status(value: bytes | None) -> int:
    """`grpc-status` as a number; UNKNOWN when there is none."""
    return int(value) if value is not None and value.isdigit() and len(value) <= 3 else UNKNOWN


def timeout_ns(value: bytes | None) -> int | None:
    """`grpc-timeout` in ns; None when there is none, or none that can be read."""
    found = _TIMEOUT.fullmatch(value.decode("latin-1")) if value is not None else None
    return int(found[1]) * _UNITS[found[2]] if found else None
