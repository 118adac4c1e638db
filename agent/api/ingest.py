"""``POST /ingest/v1/records``: a sidecar's msgpack batch → settlement → receipt. Repeating a batch is harmless."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from agent.api.access import caller
from agent.api.problems import Problem, unavailable
from agent.api.services import NodeServices
from agent.core.admission import objection_to_batch, sifted
from agent.core.ports import TryLater
from agent.core.requests import (
    READ_VERSIONS,
    SCHEMA_VERSION,
    RecordBatch,
    RecordReceipt,
    RefusedEvent,
    RequestEvent,
)
from agent.doors.identity import Identity

MAX_BODY_BYTES = 8 << 20
MAX_HELD_BYTES = 4 * MAX_BODY_BYTES  # of all batches that are being read or wait for the ledger
MAX_EVENTS = 10_000  # a batch is judged in one go: 20 ms in which nobody else is answered
MAX_REASON = 200
MEDIA_TYPE = "application/msgpack"
_ACCEPTED_TYPES = (MEDIA_TYPE, "application/x-msgpack", "application/vnd.msgpack")
UNKNOWN_VERSION = "urn:engineroom:problem:schema-version"
UNREADABLE_BATCH = "urn:engineroom:problem:unreadable-batch"
# msgspec lets the last two through: text that is no UTF-8, and maps in maps without end.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Envelope(msgspec.Struct):
    """A batch of any version that is read; its events are still bytes."""

    sidecar: str
    epoch: int
    sent_at_ns: int
    events: tuple[msgspec.Raw, ...]


class _Versioned(msgspec.Struct):
    schema_version: int = 1


class _Numbered(msgspec.Struct):
    sequence: int | None = None


class _ReceiptV1(msgspec.Struct):
    accepted_through: int
    repeated: int


_version_decoder = msgspec.msgpack.Decoder(_Versioned)
_envelope_decoder = msgspec.msgpack.Decoder(_Envelope)
_batch_decoder = msgspec.msgpack.Decoder(RecordBatch)
_event_decoder: msgspec.msgpack.Decoder[RequestEvent] = msgspec.msgpack.Decoder(RequestEvent)
_number_decoder = msgspec.msgpack.Decoder(_Numbered)


class Told(NamedTuple):
    """A batch, without what is refused of it."""

    batch: RecordBatch
    refused: tuple[RefusedEvent, ...]


class _Room:
    """Memory for batches that are on their way to the ledger: bounded, however many sidecars send at once."""

    def __init__(self) -> None:
        self.held_bytes = 0

    @contextmanager
    def visitor(self) -> Iterator["_Visitor"]:
        visitor = _Visitor(self)
        try:
            yield visitor
        finally:
            self.held_bytes -= visitor.held_bytes


class _Visitor:
    def __init__(self, room: _Room) -> None:
        self._room = room
        self.held_bytes = 0

    def take(self, count: int) -> None:
        """Room for so many bytes more. Raises `TryLater` when there is none."""
        if self._room.held_bytes + count > MAX_HELD_BYTES:
            raise TryLater("too many batches are on their way to the ledger already", 1.0)
        self._room.held_bytes += count
        self.held_bytes += count


def ingest_router(node: NodeServices) -> APIRouter:
    """The path under ``/ingest``. A wrong body is answered 400, a body that cannot be stored now 503."""
    router = APIRouter(prefix="/ingest/v1", tags=["Ingest"])
    room = _Room()

    @router.post("/records", summary="Request records of a sidecar, as msgpack.", response_class=Response)
    async def records(request: Request) -> Response:
        identity = caller(request)
        try:
            with room.visitor() as visitor:
                told = read_batch(await _body(request, visitor), identity.tenant)
                receipt = await node.accept(told.batch, sender_of(identity), told.refused)
        except TryLater as error:
            raise unavailable("Cannot store the records now", error) from error
        return Response(encode_receipt(receipt, told.batch.schema_version), media_type=MEDIA_TYPE)

    return router


def sender_of(identity: Identity) -> str:
    """Under what a caller's event numbers and requests are kept: others cannot have it. Empty for the anonymous.

    A pod's name holds no colon, so that no two callers share one.
    """
    return "" if identity.kind == "anonymous" else f"{identity.kind}:{identity.pod}:{identity.name}"


async def _body(request: Request, visitor: _Visitor) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _ACCEPTED_TYPES:
        # Also keeps web pages of other origins out: a browser sends this type only after asking, and we do not answer.
        raise Problem(415, "Wrong content type", f"Content-Type is {kind or 'missing'}.", f"Send {MEDIA_TYPE}.")
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise Problem(415, "Wrong content encoding", f"Content-Encoding is {coding}.", "Send the body as it is.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MAX_BODY_BYTES:
        raise _too_large(f"The body is larger than {MAX_BODY_BYTES} bytes.")
    body = bytearray()
    async for chunk in request.stream():
        visitor.take(len(chunk))
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise _too_large(f"The body is larger than {MAX_BODY_BYTES} bytes.")
    return bytes(body)


def _too_large(detail: str) -> Problem:
    return Problem(413, "Batch too large", detail, "Send smaller batches.")


def read_batch(body: bytes, tenant: str | None = None) -> Told:
    """What may be stored of a batch, of any version that is read, by a sender that may be limited to one tenant.

    Raises `Problem` that says what was wrong with the whole of it.
    """
    try:
        version = _version_decoder.decode(body).schema_version
        if version not in READ_VERSIONS:
            raise _unknown_version(version)
        envelope = _envelope_decoder.decode(body)
    except _UNREADABLE as error:  # a ValidationError names the field
        raise _unreadable(f"The body is not a RecordBatch in msgpack: {_said(error)}.") from error
    if len(envelope.events) > MAX_EVENTS:
        raise _too_large(f"The batch has {len(envelope.events)} events; at most {MAX_EVENTS} are taken at once.")
    wrong = objection_to_batch(envelope.sidecar, envelope.epoch, envelope.sent_at_ns)
    if wrong is not None:
        raise _unreadable(f"The batch cannot be: {wrong}.")
    good, refused = sifted(_events(body, envelope.events, version), envelope.sent_at_ns, tenant)
    batch = RecordBatch(
        sidecar=envelope.sidecar,
        epoch=envelope.epoch,
        sent_at_ns=envelope.sent_at_ns,
        events=good,
        schema_version=version,
    )
    return Told(batch, refused)


def _events(body: bytes, raw: tuple[msgspec.Raw, ...], version: int) -> tuple[RequestEvent | RefusedEvent, ...]:
    """All at once, which is a quarter faster; one by one only when one of them is unreadable."""
    try:
        return _batch_decoder.decode(body).events
    except _UNREADABLE as error:
        if version == 1:  # such a sidecar knows no refusal of a single event
            raise _unreadable(f"The body is not a RecordBatch in msgpack: {_said(error)}.") from error
    return tuple(_event(index, one) for index, one in enumerate(raw))


def _event(index: int, raw: msgspec.Raw) -> RequestEvent | RefusedEvent:
    try:
        return _event_decoder.decode(raw)
    except _UNREADABLE as error:
        reason = _said(error)
    try:
        sequence = _number_decoder.decode(raw).sequence
    except _UNREADABLE:
        sequence = None
    return RefusedEvent(index=index, kind="unreadable", reason=reason, sequence=sequence)


def _said(error: Exception) -> str:
    """What msgspec says; it repeats what was sent."""
    return f"{error}"[:MAX_REASON]


def _unknown_version(version: int) -> Problem:
    known = " and ".join(map(str, READ_VERSIONS))
    return Problem(
        400,
        "Unknown schema version",
        f"The batch has schema version {version}; this agent reads {known}.",
        f"Send one of these, or upgrade the {'agent' if version > SCHEMA_VERSION else 'sidecar'}.",
        kind=UNKNOWN_VERSION,
        members={"accepts": READ_VERSIONS},
    )


def _unreadable(detail: str) -> Problem:
    remedy = "Sidecar and agent must be of the same or neighbouring versions."
    return Problem(400, "Unreadable batch", detail, remedy, kind=UNREADABLE_BATCH)


def encode_receipt(receipt: RecordReceipt, version: int) -> bytes:
    """The receipt as a sidecar of `version` knows it."""
    if version == 1:
        return msgspec.msgpack.encode(_ReceiptV1(receipt.accepted_through, receipt.repeated))
    return msgspec.msgpack.encode(receipt)
