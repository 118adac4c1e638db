import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import aiohttp
import anyio
import anyio.lowlevel
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.api.ingest import (
    MAX_BODY_BYTES,
    MAX_EVENTS,
    MAX_HELD_BYTES,
    UNKNOWN_VERSION,
    UNREADABLE_BATCH,
    encode_receipt,
    read_batch,
    sender_of,
)
from agent.api.problems import Problem
from agent.core.ports import TryLater
from agent.core.requests import (
    READ_VERSIONS,
    SCHEMA_VERSION,
    Outcome,
    RecordBatch,
    RecordReceipt,
    RefusedEvent,
    RequestEnded,
    RequestProgressed,
    RequestRecord,
    RequestStarted,
)
from agent.doors.identity import ALL_SCOPES, Identity
from agent.ledger.tables import requests
from agent.runners.settlement import Settlement
from tests.support.api import NOW_NS, node, open_doors, served
from tests.support.ledger import T0, fresh, rows
from tests.support.money import HandClock, record

Api = aiohttp.ClientSession
TYPE = {"Content-Type": "application/msgpack"}
PATH = "/ingest/v1/records"
RECORDS = Path(__file__).parent / "records"  # what sidecars and agents of older versions wrote


def batch(version: int = SCHEMA_VERSION) -> RecordBatch:
    told: dict[str, Any] = {"id": "r1", "upstream": "127.0.0.1:8000", "path": "/v1", "started_at_ns": NOW_NS - 2}
    record = RequestRecord(**told, ended_at_ns=NOW_NS, outcome="ok")
    events = (
        RequestStarted(sequence=1, **told),
        RequestProgressed(sequence=2, id="r1", at_ns=NOW_NS - 1, output_tokens=7),
        RequestEnded(sequence=3, record=record),
    )
    return RecordBatch(sidecar="s", epoch=1, sent_at_ns=NOW_NS, events=events, schema_version=version)


async def post(api: Api, body: bytes | io.BytesIO, headers: dict[str, str] = TYPE) -> tuple[int, Any, str]:
    async with api.post(PATH, data=body, headers=headers) as answer:
        raw = await answer.read()
        if answer.status == 200:
            return 200, msgspec.msgpack.decode(raw, type=RecordReceipt), answer.content_type
        return answer.status, msgspec.json.decode(raw), answer.headers.get("Retry-After", "")


async def test_a_batch_is_handed_over_whole_and_the_receipt_comes_back():
    seen: list[Any] = []

    async def accept(*told: Any) -> RecordReceipt:
        seen.append(told)
        return RecordReceipt(accepted_through=3, repeated=1)

    async with served(node(accept=accept)) as url, Api(url) as api:
        answer = await post(api, msgspec.msgpack.encode(batch()))
    assert answer == (200, RecordReceipt(accepted_through=3, repeated=1), "application/msgpack")
    assert seen == [(batch(), "", ())]


async def test_what_cannot_be_stored_now_is_asked_for_again():
    async def accept(_records: RecordBatch, _sender: str, _refused: Sequence[RefusedEvent]) -> RecordReceipt:
        raise TryLater("the disk is full", 2.3)

    async with served(node(accept=accept)) as url, Api(url) as api:
        status, problem, retry = await post(api, msgspec.msgpack.encode(batch()))
    assert (status, retry) == (503, "3")
    assert "the disk is full" in problem["detail"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "msgpack"),
        (b"\xc1", "msgpack"),
        (b'{"sidecar": 1}', "msgpack"),
        (msgspec.msgpack.encode({"schema_version": 1}), "missing required field `sidecar`"),
        (msgspec.msgpack.encode({"schema_version": 2}), "missing required field `sidecar`"),
        (msgspec.msgpack.encode(msgspec.to_builtins(batch()) | {"events": {}}), "Expected `array`"),
        (msgspec.msgpack.encode(msgspec.to_builtins(batch()) | {"epoch": -1}), "epoch -1"),
        (msgspec.msgpack.encode(msgspec.to_builtins(batch()) | {"sidecar": ""}), "sidecar is no"),
        (msgspec.msgpack.encode(msgspec.to_builtins(batch()) | {"sent_at_ns": 1 << 63}), "sent_at_ns"),
        (b"\x81\xa1x" * 200_000, "maximum recursion depth"),
        (b"\x81\xafschema_version\xa2\xff\xff", "msgpack"),
        (b"\x81\xa7sidecar\xa2\xff\xff", "utf-8"),
        (msgspec.msgpack.encode({"schema_version": "new"}), "schema_version"),
        (msgspec.msgpack.encode(batch())[:-9], "msgpack"),
        (msgspec.msgpack.encode(batch(SCHEMA_VERSION + 1)), f"schema version {SCHEMA_VERSION + 1}"),
        (msgspec.msgpack.encode(batch(0)), "schema version 0"),
    ],
)
async def test_a_wrong_body_is_told_what_is_wrong(api: Api, body: bytes, says: str):
    status, problem, _ = await post(api, body)
    assert status == 400
    assert says in problem["detail"]
    assert problem["remedy"]
    assert problem["type"] == (UNKNOWN_VERSION if "schema version" in says else UNREADABLE_BATCH)
    assert problem.get("accepts") == ([1, 2] if "schema version" in says else None)


@pytest.mark.parametrize("version", READ_VERSIONS)
def test_this_version_and_the_ones_before_are_read(version: int):
    assert read_batch(msgspec.msgpack.encode(batch(version))) == (batch(version), ())


def test_a_batch_that_names_no_version_is_of_the_first():
    fields = msgspec.to_builtins(batch())
    del fields["schema_version"]
    assert read_batch(msgspec.msgpack.encode(fields)).batch == batch(1)


def test_fields_of_a_newer_sidecar_are_skipped():
    fields = msgspec.to_builtins(batch())
    assert read_batch(msgspec.msgpack.encode({**fields, "later": 1})).batch == batch()


@pytest.mark.parametrize("outcome", get_args(Outcome))
def test_every_outcome_is_read(outcome: Outcome):
    ended = RequestEnded(sequence=1, record=record("a", T0, T0 + 1, outcome=outcome))
    told = read_batch(msgspec.msgpack.encode(RecordBatch(sidecar="s", epoch=1, sent_at_ns=T0, events=(ended,))))
    assert (told.batch.events, told.refused) == ((ended,), ())


def test_what_a_sidecar_of_version_1_wrote_is_read_for_ever():
    told = read_batch((RECORDS / "batch-v1.msgpack").read_bytes())
    found = told.batch
    assert (found.sidecar, found.epoch, found.schema_version) == ("gpu-node-17/engine-0", 1_799_999_999_000, 1)
    assert [event.sequence for event in found.events] == [1, 2, 3, 4, 5, 6]
    assert told.refused == ()
    end = found.events[3]
    assert isinstance(end, RequestEnded)
    assert (end.record.model, end.record.usage.input_cached_tokens, end.record.usage.source) == (
        "Qwen/Qwen3-32B",
        28,
        "reported",
    )
    assert read_batch((RECORDS / "heartbeat-v1.msgpack").read_bytes()).batch.events == ()


def test_a_sidecar_of_version_1_gets_the_receipt_it_knows():
    receipt = RecordReceipt(
        accepted_through=6, repeated=2, refused=(RefusedEvent(index=0, kind="value", reason="no", sequence=1),)
    )
    assert encode_receipt(receipt, 1) == (RECORDS / "receipt-v1.msgpack").read_bytes()

    class ReceiptV1(msgspec.Struct, frozen=True, kw_only=True):  # as version 1 had it
        accepted_through: int
        repeated: int = 0

    newer = encode_receipt(receipt, 2)
    assert msgspec.msgpack.decode(newer, type=ReceiptV1) == ReceiptV1(accepted_through=6, repeated=2)
    assert msgspec.msgpack.decode(newer, type=RecordReceipt) == receipt
    old = (RECORDS / "receipt-v1.msgpack").read_bytes()
    assert msgspec.msgpack.decode(old, type=RecordReceipt) == RecordReceipt(accepted_through=6, repeated=2)


def spoilt(version: int, *events: Any) -> bytes:
    """A batch of which `events` stand after its first, as they are."""
    fields = msgspec.to_builtins(batch(version))
    first, *rest = fields["events"]
    fields["events"] = [first, *events, *rest]
    return msgspec.msgpack.encode(fields)


UNREADABLE: list[tuple[Any, int | None, str]] = [
    ({"type": "later", "sequence": 9}, 9, "Invalid value 'later'"),
    ({"type": "start", "sequence": 9}, 9, "missing required field `id`"),
    ({"type": "progress", "sequence": "9", "id": "r", "at_ns": 1, "output_tokens": 1}, None, "Expected `int`"),
    ({"type": "end", "sequence": 9, "record": {"outcome": "fine"}}, 9, "Invalid enum value"),
    (7, None, "Expected `object`"),
    (None, None, "Expected `object`"),
    ([[[[]]]], None, "Expected `object`"),
]


@pytest.mark.parametrize(("event", "sequence", "says"), UNREADABLE)
async def test_one_unreadable_event_does_not_spoil_a_batch(api: Api, event: Any, sequence: int | None, says: str):
    told = read_batch(spoilt(2, event))
    assert told.batch == batch()
    (refused,) = told.refused
    assert (refused.index, refused.kind, refused.sequence) == (1, "unreadable", sequence)
    assert says in refused.reason
    status, receipt, _ = await post(api, spoilt(2, event))
    assert (status, receipt.accepted_through, receipt.refused) == (200, 3, (refused,))


@pytest.mark.parametrize(("event", "sequence", "says"), UNREADABLE)
async def test_a_sidecar_of_version_1_is_told_of_the_whole_batch(api: Api, event: Any, sequence: int | None, says: str):
    status, problem, _ = await post(api, spoilt(1, event))
    assert (status, problem["type"]) == (400, UNREADABLE_BATCH)
    assert says in problem["detail"]


def test_a_reason_does_not_repeat_what_was_sent_without_end():
    told = read_batch(spoilt(2, {"type": "end", "sequence": 9, "record": {"outcome": "x" * 100_000}}))
    assert len(told.refused[0].reason) <= 200
    with pytest.raises(Problem) as caught:
        read_batch(spoilt(1, {"type": "end", "sequence": 9, "record": {"outcome": "x" * 100_000}}))
    assert len(caught.value.detail) <= 300


def test_text_that_is_no_utf8_is_refused_alone():
    body = msgspec.msgpack.encode(batch()).replace(b"\xa2r1", b"\xa2\xff\xfe", 1)
    told = read_batch(body)
    assert [(event.index, event.kind, event.sequence) for event in told.refused] == [(0, "unreadable", 1)]
    assert len(told.batch.events) == 2


def test_impossible_values_are_left_out_of_a_batch_of_any_version():
    for version in READ_VERSIONS:
        impossible = {"type": "progress", "sequence": 9, "id": "r1", "at_ns": NOW_NS, "output_tokens": 1 << 63}
        told = read_batch(spoilt(version, impossible))
        assert told.batch == batch(version)
        assert [(event.index, event.kind, event.sequence) for event in told.refused] == [(1, "value", 9)]


def identity(**fields: Any) -> Identity:
    return Identity(**{"name": "gw", "kind": "token", "scopes": ALL_SCOPES, **fields})


def test_no_two_callers_share_a_sender():
    assert sender_of(identity(kind="anonymous")) == ""
    callers = [
        identity(),
        identity(name="gw2"),
        identity(kind="certificate"),
        identity(kind="service_account", name="ns/x", pod="p-1"),
        identity(kind="service_account", name="ns/x", pod="p-2"),
        identity(kind="service_account", name="ns/x"),
        identity(kind="service_account", name="p-1:ns/x"),
    ]
    assert len({sender_of(caller) for caller in callers}) == len(callers)


async def test_the_callers_identity_and_tenant_go_with_the_batch():
    seen: list[Any] = []

    async def accept(*told: Any) -> RecordReceipt:
        seen.append(told)
        return RecordReceipt(accepted_through=3, refused=told[2])

    doors = open_doors(identify=lambda _header, _names: identity(tenant="acme"))
    foreign = {"type": "start", "sequence": 9, "id": "r", "upstream": "u", "path": "/", "started_at_ns": NOW_NS}
    async with served(node(accept=accept), doors) as url, Api(url) as api:
        status, receipt, _ = await post(api, spoilt(2, {**foreign, "tenant": "zeta"}))
    ((records, sender, _),) = seen
    assert (status, sender) == (200, "token::gw")
    assert [event.tenant for event in records.events if isinstance(event, RequestStarted)] == ["acme"]
    assert [(event.index, event.kind) for event in receipt.refused] == [(1, "tenant")]


async def test_too_many_events_are_too_large_a_batch(api: Api):
    body = msgspec.msgpack.encode(
        RecordBatch(sidecar="s", epoch=1, sent_at_ns=NOW_NS, events=(batch().events[1],) * (MAX_EVENTS + 1))
    )
    status, problem, _ = await post(api, body)
    assert (status, problem["title"]) == (413, "Batch too large")
    assert str(MAX_EVENTS) in problem["detail"]


async def test_bodies_that_wait_for_a_slow_ledger_are_bounded():
    going_on = anyio.Event()
    waiting: list[RecordBatch] = []

    async def accept(records: RecordBatch, *_: Any) -> RecordReceipt:
        waiting.append(records)
        await going_on.wait()
        return RecordReceipt(accepted_through=3)

    filled = msgspec.msgpack.encode(msgspec.to_builtins(batch()) | {"later": bytes(MAX_BODY_BYTES - 1000)})
    answers: list[int] = []
    async with served(node(accept=accept)) as url, Api(url) as api, anyio.create_task_group() as group:

        async def send() -> None:
            answers.append((await post(api, io.BytesIO(filled)))[0])

        with anyio.fail_after(20):
            for count in range(MAX_HELD_BYTES // len(filled)):
                group.start_soon(send)
                while len(waiting) <= count:
                    await anyio.lowlevel.checkpoint()
            status, problem, retry = await post(api, io.BytesIO(filled))
        assert (status, retry, problem["title"]) == (503, "1", "Cannot store the records now")
        going_on.set()
        while len(answers) < 4:
            await anyio.lowlevel.checkpoint()
        assert answers == [200] * 4
        assert (await post(api, io.BytesIO(filled)))[0] == 200, "there is room again"


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=4)
    | st.sampled_from(["start", "progress", "end", "ok", "r1", NOW_NS, "x" * 300])
)
KEYS = st.sampled_from(sorted({*RequestStarted.__struct_fields__, *RequestRecord.__struct_fields__, "type", "at_ns"}))


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """A good batch in which some values became others."""
    fields = msgspec.to_builtins(batch())
    for _ in range(draw(st.integers(1, 4))):
        event = draw(st.sampled_from(fields["events"]))
        target = draw(st.sampled_from([event, event.get("record", event), fields]))
        if target is fields:
            target[draw(st.sampled_from(["sidecar", "epoch", "sent_at_ns", "later"]))] = draw(LEAVES)
        else:
            target[draw(KEYS)] = draw(LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(KEYS, LEAVES, max_size=3))
    body = bytearray(msgspec.msgpack.encode(fields))
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    return bytes(body)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies=st.lists(hostile(), min_size=1, max_size=5))
async def test_whatever_is_sent_ends_in_a_receipt_or_a_problem(tmp_path: Path, bodies: list[bytes]):
    async with await fresh(tmp_path / "node") as ledger:
        settlement = Settlement(ledger, None, "node-a", HandClock(T0))
        for body in bodies:
            try:
                told = read_batch(body, "acme")
            except Problem as problem:
                assert problem.status == 400  # noqa: PT017
                continue
            receipt = await settlement.accept(told.batch, "token::gw", told.refused)
            assert len(receipt.refused) + receipt.repeated <= len(told.batch.events) + len(told.refused)
            encode_receipt(receipt, told.batch.schema_version)
        assert all(row["tenant"] in (None, "acme") for row in rows(ledger, requests))


async def test_a_body_over_the_cap_is_refused(api: Api):
    status, problem, _ = await post(api, io.BytesIO(bytes(MAX_BODY_BYTES + 1)))
    assert (status, problem["title"]) == (413, "Batch too large")


async def test_a_body_without_length_is_capped_too(api: Api):
    async def chunks():
        for _ in range(MAX_BODY_BYTES // 65_536 + 2):
            yield bytes(65_536)

    async with api.post(PATH, data=chunks(), headers=TYPE) as answer:
        assert answer.status == 413


async def test_other_content_types_are_refused(api: Api):
    # A web page of another origin can send text/plain without asking first.
    status, _, _ = await post(api, msgspec.msgpack.encode(batch()), {"Content-Type": "text/plain"})
    assert status == 415


@pytest.mark.parametrize(("coding", "status"), [("zstd", 415), ("gzip", 415), ("identity", 200), ("", 200)])
async def test_compressed_bodies_are_refused(api: Api, coding: str, status: int):
    got, answer, _ = await post(api, msgspec.msgpack.encode(batch()), {**TYPE, "Content-Encoding": coding})
    assert got == status
    if status == 415:
        assert coding in answer["detail"]
