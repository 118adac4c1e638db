"""A request as the sidecar saw it, and the events that carry it to the agent.

A request is told in up to three kinds of event: one start, a progress per second while it streams, one end. The end
repeats everything, so an end alone is a whole `RequestRecord`. Events are numbered per sidecar start (`epoch`);
repeating a batch, wholly or in part, late or out of order, is harmless.

Version 1: a batch is taken whole or answered 400. Version 2: the receipt names the events that were refused, one by
one; the rest is taken. The events themselves are the same in both.
"""

from typing import Literal

from msgspec import Struct

Outcome = Literal["ok", "error", "timeout", "client_abort", "rejected", "lost_record"]
"""How a request ended. ``lost_record``: the sidecar was killed while it ran, so nobody knows."""

UsageSource = Literal["reported", "counted"]

Witness = Literal["sidecar", "span"]
"""Who saw a request: the sidecar while it ran, or somebody who tells of it afterwards (a span of the engine or the
application). What only a span tells of is priced out of the engine's unattributed time, later and less precisely."""

RefusalKind = Literal["unreadable", "value", "tenant", "sender"]

SCHEMA_VERSION = 2
READ_VERSIONS = (1, 2)
"""What an agent of this version reads; a sidecar that is told so falls back to the newest it knows itself."""


class Usage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Token counts of one request; kinds are disjoint. `source` is ``counted`` when the engine reported none."""

    input_tokens: int | None = None  # without the cached ones
    input_cached_tokens: int | None = None
    output_tokens: int | None = None
    source: UsageSource | None = None


class RequestRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One finished request. Instants are Unix ns on the sidecar's clock; `id` is a UUIDv7."""

    id: str
    upstream: str  # host:port of the engine the request went to
    path: str
    started_at_ns: int  # first byte of the request's head arrived
    ended_at_ns: int
    outcome: Outcome
    streamed: bool = False
    model: str | None = None
    tenant: str | None = None
    status: int | None = None  # HTTP status the client got; None if it got none
    headers_at_ns: int | None = None
    first_token_at_ns: int | None = None
    usage: Usage = Usage()
    finish_reason: str | None = None
    error: str | None = None  # short reason when outcome is not ok
    request_bytes: int = 0
    response_bytes: int = 0
    trace_id: str | None = None
    tenant_source: str | None = None  # how the tenant is known: key, jwt, service_account, header, user
    queued_ns: int | None = None  # waited in the sidecar until a quota had room
    grpc_status: int | None = None  # of a gRPC call
    request_messages: int | None = None
    response_messages: int | None = None
    seen_by: Witness = "sidecar"
    max_output_tokens: int | None = None  # what the request allowed the engine to write; None: it did not say
    attempt: int = 0  # by the client's word (x-stainless-retry-count): 1 is its first retry
    input_tokens_estimate: int | None = None  # from the body's length, where nothing better was known in time


class RequestStarted(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="start"):
    """The head of a request and its model name are known; it is on its way to the engine."""

    sequence: int
    id: str
    upstream: str
    path: str
    started_at_ns: int
    model: str | None = None
    tenant: str | None = None
    input_tokens_estimate: int | None = None


class RequestProgressed(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="progress"):
    """`output_tokens` streamed so far, at most once a second."""

    sequence: int
    id: str
    at_ns: int
    output_tokens: int


class RequestEnded(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="end"):
    """The whole record; nothing follows."""

    sequence: int
    record: RequestRecord


RequestEvent = RequestStarted | RequestProgressed | RequestEnded


class RecordBatch(Struct, frozen=True, kw_only=True):
    """Body of ``POST /ingest/v1/records``, as msgpack.

    `sidecar` is a name that survives restarts, `epoch` grows with every start, `sent_at_ns` is the sidecar's clock
    at sending (the agent corrects event times by the difference to its own).
    """

    sidecar: str
    epoch: int
    sent_at_ns: int
    events: tuple[RequestEvent, ...]
    schema_version: int = SCHEMA_VERSION


class RefusedEvent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event that will never be taken, however often it is sent. `index` is its place in the batch, from 0.

    `kind`: ``unreadable``, no event by this schema; ``value``, a value that cannot be; ``tenant``, not the tenant that
    the sender is limited to; ``sender``, its request is another sender's.
    """

    index: int
    kind: RefusalKind
    reason: str
    sequence: int | None = None  # None: could not be read


class RecordReceipt(Struct, frozen=True, kw_only=True):
    """Answer to a batch: each of its events is stored durably, was so before (`repeated`), or is in `refused`.

    `accepted_through` is the highest number of this epoch that came in; nothing up to it has to be kept by a sender
    that delivers in order, but for copies of what was refused.
    """

    accepted_through: int
    repeated: int = 0
    refused: tuple[RefusedEvent, ...] = ()  # since version 2
