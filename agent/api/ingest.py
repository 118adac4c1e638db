"""``POST /ingest/v1/records``: a sidecar's msgpack batch → settlement → receipt. Repeating a batch is harmless."""

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from agent.api.problems import Problem, unavailable
from agent.api.services import NodeServices
from agent.core.ports import TryLater
from agent.core.requests import SCHEMA_VERSION, RecordBatch

MAX_BODY_BYTES = 8 << 20
MEDIA_TYPE = "application/msgpack"
_ACCEPTED_TYPES = (MEDIA_TYPE, "application/x-msgpack", "application/vnd.msgpack")

_decoder = msgspec.msgpack.Decoder(RecordBatch)


class _Versioned(msgspec.Struct):
    schema_version: int = 1


_version_decoder = msgspec.msgpack.Decoder(_Versioned)


def ingest_router(node: NodeServices) -> APIRouter:
    """The path under ``/ingest``. A wrong body is answered 400, a body that cannot be stored now 503."""
    router = APIRouter(prefix="/ingest/v1", tags=["Ingest"])

    @router.post("/records", summary="Request records of a sidecar, as msgpack.", response_class=Response)
    async def records(request: Request) -> Response:
        batch = decode_batch(await _body(request))
        try:
            receipt = await node.accept(batch)
        except TryLater as error:
            raise unavailable("Cannot store the records now", error) from error
        return Response(msgspec.msgpack.encode(receipt), media_type=MEDIA_TYPE)

    return router


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _ACCEPTED_TYPES:
        # Also keeps web pages of other origins out: a browser sends this type only after asking, and we do not answer.
        raise Problem(415, "Wrong content type", f"Content-Type is {kind or 'missing'}.", f"Send {MEDIA_TYPE}.")
    if int(request.headers.get("content-length") or 0) > MAX_BODY_BYTES:
        raise _too_large()
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
    return bytes(body)


def _too_large() -> Problem:
    return Problem(413, "Batch too large", f"The body is larger than {MAX_BODY_BYTES} bytes.", "Send smaller batches.")


def decode_batch(body: bytes) -> RecordBatch:
    """The batch, of this schema version or the one before. Raises `Problem` that says what was wrong."""
    version: Any = None
    try:
        version = _version_decoder.decode(body).schema_version
        if version not in (SCHEMA_VERSION, SCHEMA_VERSION - 1):
            newer = version > SCHEMA_VERSION
            raise Problem(
                400,
                "Unknown schema version",
                f"The batch has schema version {version}; this agent reads {SCHEMA_VERSION - 1} and {SCHEMA_VERSION}.",
                f"Upgrade the {'agent' if newer else 'sidecar'}: the two may differ by one version.",
            )
        return _decoder.decode(body)
    except msgspec.DecodeError as error:  # also its subclass ValidationError, which names the field
        raise Problem(
            400,
            "Unreadable batch",
            f"The body is not a RecordBatch in msgpack: {error}.",
            "Sidecar and agent must be of the same or neighbouring versions.",
        ) from error
