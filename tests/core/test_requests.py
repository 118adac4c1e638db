"""Events of this version read by the one before, and the other way round: a node is upgraded part by part."""

from typing import Any

import msgspec
from msgspec import Struct

from agent.core.requests import (
    RecordBatch,
    RequestEnded,
    RequestEvent,
    RequestProgressed,
    RequestRecord,
    RequestStarted,
    Usage,
)

NEW = frozenset(("seen_by", "max_output_tokens", "attempt", "input_tokens_estimate"))
"""Fields that the release before this one did not have."""


def _before(kind: type[Struct], **changed: Any) -> type[Struct]:
    """The same message without the new fields, as that release defined it."""
    fields = []
    for field in msgspec.structs.fields(kind):
        if field.name in NEW:
            continue
        of = changed.get(field.name, field.type)
        fields.append((field.name, of) if field.required else (field.name, of, field.default))
    config = kind.__struct_config__
    return msgspec.defstruct(
        kind.__name__, fields, frozen=True, kw_only=True, omit_defaults=config.omit_defaults, tag=config.tag
    )


OldRecord = _before(RequestRecord)
OldStarted = _before(RequestStarted)
OldEnded = _before(RequestEnded, record=OldRecord)
OldProgressed = _before(RequestProgressed)
OldBatch = _before(RecordBatch, events=tuple[OldStarted | OldProgressed | OldEnded, ...])  # type: ignore[valid-type]

TOLD: dict[str, Any] = {"id": "r1", "upstream": "e:8000", "path": "/v1", "started_at_ns": 5, "model": "m"}
ENDED: dict[str, Any] = {**TOLD, "ended_at_ns": 9, "outcome": "ok", "usage": Usage(output_tokens=3)}


def _batch(kind: Any, *events: Any) -> bytes:
    return msgspec.msgpack.encode(kind(sidecar="s", epoch=1, sent_at_ns=9, events=events))


def test_the_release_before_reads_what_this_one_writes() -> None:
    events: tuple[RequestEvent, ...] = (
        RequestStarted(sequence=1, input_tokens_estimate=11, **TOLD),
        RequestEnded(
            sequence=2,
            record=RequestRecord(max_output_tokens=64, attempt=2, input_tokens_estimate=11, **ENDED),
        ),
    )
    found: Any = msgspec.msgpack.decode(_batch(RecordBatch, *events), type=OldBatch)
    assert found.events == (OldStarted(sequence=1, **TOLD), OldEnded(sequence=2, record=OldRecord(**ENDED)))


def test_this_release_reads_what_the_one_before_writes() -> None:
    raw = _batch(OldBatch, OldStarted(sequence=1, **TOLD), OldEnded(sequence=2, record=OldRecord(**ENDED)))
    started, ended = msgspec.msgpack.decode(raw, type=RecordBatch).events
    assert started == RequestStarted(sequence=1, **TOLD)
    assert isinstance(started, RequestStarted)
    assert started.input_tokens_estimate is None
    assert isinstance(ended, RequestEnded)
    record = ended.record
    assert (record.seen_by, record.max_output_tokens, record.attempt, record.input_tokens_estimate) == (
        "sidecar",
        None,
        0,
        None,
    )


def test_what_is_not_said_takes_no_room() -> None:
    """A plain first attempt is as small as it was: a spool holds as many as before."""
    assert len(msgspec.msgpack.encode(RequestRecord(**ENDED))) == len(msgspec.msgpack.encode(OldRecord(**ENDED)))
