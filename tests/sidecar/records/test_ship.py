"""Batches to a real HTTP receiver: what each of its answers means for the events, and which version is spoken."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import msgspec
import pytest
from aiohttp import web

from agent.core.ports import Paused, Rejected, TooLarge, TryLater
from agent.core.requests import SCHEMA_VERSION, RecordReceipt, RefusedEvent, RequestEvent, RequestStarted
from agent.sidecar.records.queue import SpooledEvent, read_item
from agent.sidecar.records.ship import VERSION_PROBLEM, RecordsExporter


def started(sequence: int) -> RequestEvent:
    return RequestStarted(sequence=sequence, id="i", upstream="u", path="/", started_at_ns=1)


def spooled(sequence: int, epoch: int = 7, sidecar: str = "me") -> SpooledEvent:
    return read_item(msgspec.msgpack.encode((epoch, sidecar, started(sequence))))


class Body(msgspec.Struct):
    """A batch as it lies on the wire."""

    sidecar: str
    epoch: int
    events: list[dict[str, object]]
    schema_version: int


@dataclass
class Agent:
    """Answers one after the other; the last one for ever."""

    answers: Sequence[web.Response]
    url: str = ""
    bodies: list[Body] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        self.bodies.append(msgspec.msgpack.decode(await request.read(), type=Body))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        answer = self.answers[min(len(self.bodies), len(self.answers)) - 1]
        return web.Response(body=answer.body, status=answer.status, headers=answer.headers)


def receipt(through: int = 3, repeated: int = 0, refused: tuple[RefusedEvent, ...] = ()) -> web.Response:
    said = RecordReceipt(accepted_through=through, repeated=repeated, refused=refused)
    return web.Response(body=msgspec.msgpack.encode(said))


def problem(status: int, kind: str = "about:blank", accepts: tuple[int, ...] = ()) -> web.Response:
    body = {"type": kind, "title": "No", "detail": "because", "accepts": accepts}
    return web.Response(status=status, body=msgspec.json.encode(body))


@asynccontextmanager
async def exporter(*answers: web.Response) -> AsyncIterator[tuple[RecordsExporter, Agent]]:
    agent = Agent(answers)
    app = web.Application()
    app.router.add_post("/ingest/v1/records", agent.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    agent.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with aiohttp.ClientSession() as session:
            yield (
                RecordsExporter(
                    agent.url,
                    session,
                    timeout_seconds=5,
                    credentials=lambda: {"authorization": "Bearer abc"},
                ),
                agent,
            )
    finally:
        await runner.cleanup()


async def test_a_batch_goes_out_as_it_was_recorded_with_our_credentials() -> None:
    async with exporter(receipt()) as (records, agent):
        before = records.heard_boot_ns
        assert await records.send([spooled(1), spooled(2)]) is None
        assert records.heard_boot_ns > before
    (body,) = agent.bodies
    assert (body.sidecar, body.epoch, body.schema_version) == ("me", 7, SCHEMA_VERSION)
    assert [event["sequence"] for event in body.events] == [1, 2]
    assert agent.headers[0]["authorization"] == "Bearer abc"


async def test_repeats_and_refusals_are_told_apart_item_by_item() -> None:
    refused = (RefusedEvent(index=2, kind="value", reason="no sane id"),)
    async with exporter(receipt(repeated=1, refused=refused)) as (records, _):
        verdicts = await records.send([spooled(1), spooled(2), spooled(3)])
    assert verdicts is not None
    assert verdicts[:2] == ["duplicate", "delivered"]
    assert isinstance(verdicts[2], Rejected)
    assert verdicts[2].reason == "value: no sane id"


async def test_events_of_two_starts_do_not_go_in_one_batch() -> None:
    async with exporter(receipt()) as (records, agent):
        verdicts = await records.send([spooled(8, epoch=7), spooled(9, epoch=7), spooled(1, epoch=9)])
    assert [len(body.events) for body in agent.bodies] == [2]
    assert verdicts is not None
    assert verdicts[:2] == ["delivered", "delivered"]
    assert isinstance(verdicts[2], TryLater)


async def test_events_go_under_the_name_that_the_sidecar_had_when_they_happened() -> None:
    async with exporter(receipt()) as (records, agent):
        verdicts = await records.send([spooled(8, sidecar="before"), spooled(9, sidecar="after")])
    assert [(body.sidecar, len(body.events)) for body in agent.bodies] == [("before", 1)]
    assert verdicts is not None
    assert isinstance(verdicts[1], TryLater)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Rejected),
        (401, Paused),
        (403, Paused),
        (404, Paused),
        (413, TooLarge),
        (415, Paused),
        (429, TryLater),
        (500, TryLater),
        (503, TryLater),
        (302, Paused),
        (204, TryLater),
    ],
)
async def test_what_each_status_means(status: int, error: type[Exception]) -> None:
    async with exporter(problem(status)) as (records, agent):
        with pytest.raises(error) as caught:
            await records.send([spooled(1)])
    assert type(caught.value) is error
    assert len(agent.bodies) == 1


async def test_an_answer_that_is_no_receipt_is_asked_for_again() -> None:
    async with exporter(web.Response(text="<html>")) as (records, _):
        with pytest.raises(TryLater, match="no receipt"):
            await records.send([spooled(1)])


async def test_an_older_agent_is_spoken_to_in_its_version() -> None:
    older = problem(400, VERSION_PROBLEM, (SCHEMA_VERSION - 2, SCHEMA_VERSION - 1))
    async with exporter(older, receipt()) as (records, agent):
        with pytest.raises(TryLater, match=f"schema version {SCHEMA_VERSION - 1}"):
            await records.send([spooled(1)])
        assert await records.send([spooled(1)]) is None
        assert await records.send([spooled(2)]) is None
    assert [body.schema_version for body in agent.bodies] == [SCHEMA_VERSION, SCHEMA_VERSION - 1, SCHEMA_VERSION - 1]


async def test_an_agent_of_version_1_does_not_say_what_it_reads() -> None:
    said = {"type": "about:blank", "title": "Unknown schema version", "status": 400, "detail": "..."}
    older = web.Response(status=400, body=msgspec.json.encode(said))
    async with exporter(older, receipt()) as (records, agent):
        with pytest.raises(TryLater):
            await records.send([spooled(1)])
        assert await records.send([spooled(1)]) is None
    assert [body.schema_version for body in agent.bodies] == [SCHEMA_VERSION, 1]


async def test_an_agent_that_shares_no_version_is_named_and_waited_for() -> None:
    async with exporter(problem(400, VERSION_PROBLEM, (97, 98))) as (records, _):
        with pytest.raises(Paused, match=r"\[97, 98\].*upgrade"):
            await records.send([spooled(1)])


async def test_after_a_lost_connection_the_newest_version_is_tried_again() -> None:
    async with exporter(problem(400, VERSION_PROBLEM, (SCHEMA_VERSION - 1,)), receipt()) as (records, agent):
        with pytest.raises(TryLater):
            await records.send([spooled(1)])
        url, records._url = records._url, "http://127.0.0.1:9/ingest/v1/records"
        with pytest.raises(TryLater):
            await records.send([spooled(1)])
        records._url = url
        assert await records.send([spooled(1)]) is None
    assert [body.schema_version for body in agent.bodies] == [SCHEMA_VERSION, SCHEMA_VERSION]


async def test_a_heartbeat_is_an_empty_batch_of_its_epoch() -> None:
    async with exporter(receipt(0)) as (records, agent):
        await records.beat(11, "me")
    assert [(body.epoch, body.events) for body in agent.bodies] == [(11, [])]
