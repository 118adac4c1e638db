"""What a request asks for, and how it is refused: values that tenancy, quotas and the request path hand on."""

import json
import math
from typing import NamedTuple

from msgspec import Struct


class Caller(NamedTuple):
    """Whose request it is. `tenant` None: nobody said, or nobody who may be believed."""

    tenant: str | None = None
    source: str | None = None  # how it is known: key, jwt, service_account, header, user
    valid_until_ns: int | None = None  # Unix ns; None: as long as the same files of credentials are in use


class Refusal(NamedTuple):
    """A request that does not go to the engine. `code` is for programs, `message` for people."""

    status: int  # 401, 402, 403 or 429
    code: str
    message: str
    retry_after_seconds: float | None = None


class Ask(Struct, frozen=True, kw_only=True):
    """What a request wants, as far as its head and body tell."""

    id: str
    tenant: str | None
    model: str | None
    path: str
    input_tokens: int  # an estimate
    max_output_tokens: int | None  # what it allows the engine to write; None: it does not say
    priority: str | None = None  # a class named by the caller


_TITLES = {401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 429: "Too Many Requests"}
_TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_error",
}


def refusal_answer(refusal: Refusal, path: str, added: bytes = b"", *, head_only: bool = False) -> bytes:
    """A whole HTTP/1.1 response in the shape that clients of this path read: Anthropic's, Ollama's or OpenAI's."""
    kind = _TYPES.get(refusal.status, "invalid_request_error")
    body: dict[str, object]
    if path.endswith("/v1/messages"):
        body = {"type": "error", "error": {"type": kind, "message": refusal.message}}
    elif path.startswith("/api/"):
        body = {"error": refusal.message}
    else:
        body = {"error": {"message": refusal.message, "type": kind, "param": None, "code": refusal.code}}
    content = json.dumps(body).encode()
    lines = [
        f"HTTP/1.1 {refusal.status} {_TITLES.get(refusal.status, 'Refused')}".encode(),
        b"content-type: application/json",
        b"content-length: %d" % len(content),
    ]
    if refusal.retry_after_seconds is not None:
        lines.append(b"retry-after: %d" % max(1, math.ceil(refusal.retry_after_seconds)))
    return b"\r\n".join(lines) + b"\r\n" + added + b"\r\n" + (b"" if head_only else content)
