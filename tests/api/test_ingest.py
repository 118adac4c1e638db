import io
from typing import Any

import aiohttp
import msgspec
import pytest

from agent.api.ingest import MAX_BODY_BYTES, decode_batch
from agent.core.ports import TryLater
from agent.core.requests import (
    SCHEMA_VERSION,
    RecordBatch,
    RecordReceipt,
    RequestEnded,
    RequestProgressed,
    RequestRecord,
    RequestStarted,
)
from tests.support.api import NOW_NS, node, served

Api = aiohttp.ClientSession
TYPE = {"Content-Type": "application/msgpack"}
PATH = "/ingest/v1/records"


def batch(version: int = SCHEMA_VERSION) -> RecordBatch:
    record = RequestRecord(id="r1", upstream="127.0.0.1:8000", path="/v1", started_at_ns=1, ended_at_ns=2, outcome="ok")
    events = (
        RequestStarted(sequence=1, id="r1", upstream="127.0.0.1:8000", path="/v1", started_at_ns=1),
        RequestProgressed(sequence=2, id="r1", at_ns=2, output_tokens=7),
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
    seen: list[RecordBatch] = []

    async def accept(records: RecordBatch) -> RecordReceipt:
        seen.append(records)
        return RecordReceipt(accepted_through=3, repeated=1)

    async with served(node(accept=accept)) as url, Api(url) as api:
        answer = await post(api, msgspec.msgpack.encode(batch()))
    assert answer == (200, RecordReceipt(accepted_through=3, repeated=1), "application/msgpack")
    assert seen == [batch()]


async def test_what_cannot_be_stored_now_is_asked_for_again():
    async def accept(_records: RecordBatch) -> RecordReceipt:
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
        (msgspec.msgpack.encode({"schema_version": "new"}), "schema_version"),
        (msgspec.msgpack.encode(batch())[:-9], "msgpack"),
        (msgspec.msgpack.encode(batch(SCHEMA_VERSION + 1)), f"schema version {SCHEMA_VERSION + 1}"),
        (msgspec.msgpack.encode(batch(SCHEMA_VERSION - 2)), f"schema version {SCHEMA_VERSION - 2}"),
    ],
)
async def test_a_wrong_body_is_told_what_is_wrong(api: Api, body: bytes, says: str):
    status, problem, _ = await post(api, body)
    assert status == 400
    assert says in problem["detail"]
    assert problem["remedy"]


@pytest.mark.parametrize("version", [SCHEMA_VERSION, SCHEMA_VERSION - 1])
def test_this_version_and_the_one_before_are_read(version: int):
    assert decode_batch(msgspec.msgpack.encode(batch(version))).schema_version == version


def test_fields_of_a_newer_sidecar_are_skipped():
    fields = msgspec.to_builtins(batch())
    assert decode_batch(msgspec.msgpack.encode({**fields, "later": 1})) == batch()


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
