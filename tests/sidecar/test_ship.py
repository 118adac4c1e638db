"""Records reach a real HTTP receiver: none lost, none twice, while it refuses, is away, or comes back."""

import aiohttp
import anyio
import pytest

from agent.core.requests import RequestEnded, RequestEvent, RequestProgressed, RequestRecord, RequestStarted
from agent.sidecar.settings import SidecarSettings
from agent.sidecar.ship import EventQueue, Shipper
from tests.support.sidecar import receiver, records, sidecar
from tests.support.upstream import connect, post, repeat, until, upstream, whole


def started(sequence: int) -> RequestEvent:
    return RequestStarted(sequence=sequence, id="i", upstream="u", path="/", started_at_ns=1)


def progressed(sequence: int) -> RequestEvent:
    return RequestProgressed(sequence=sequence, id="i", at_ns=1, output_tokens=1)


def ended(sequence: int) -> RequestEvent:
    record = RequestRecord(id="i", upstream="u", path="/", started_at_ns=1, ended_at_ns=2, outcome="ok")
    return RequestEnded(sequence=sequence, record=record)


def test_a_full_queue_keeps_room_for_ends_and_counts_what_it_drops() -> None:
    queue = EventQueue(10)
    for _ in range(12):
        queue.put(started)
    for _ in range(3):
        queue.put(ended)
    queue.put(progressed)
    assert queue.dropped == {"start": 3, "progress": 1, "end": 2}
    assert [event.sequence for event in queue.peek(100)] == [*range(1, 10), 13]
    assert queue.release(5) == 5
    assert [event.sequence for event in queue.peek(2)] == [6, 7]


async def ask(port: int, times: int) -> None:
    async with connect(port) as client:
        for _ in range(times):
            await client.send(post(b'{"model":"m"}'))
            await client.answer()


@pytest.mark.parametrize("status", [503, 500, 400])
async def test_a_receiver_that_refuses_some_times_gets_everything_once(status: int) -> None:
    async with (
        upstream(repeat(whole(b"{}"))) as engine,
        receiver(lambda attempt: status if attempt % 3 else None) as agent,
        sidecar(engine.url, agent_url=agent.url, ship_batch_events=7) as proxy,
    ):
        await ask(proxy.port, 20)
        await until(lambda: not proxy.queue)
        assert [event.sequence for event in agent.accepted] == list(range(1, 41))
        assert {batch.sidecar for batch in agent.batches} == {"test"}
        assert len({batch.epoch for batch in agent.batches}) == 1
        assert proxy.shipper.failures > 0


async def test_an_agent_that_is_away_and_comes_back() -> None:
    async with receiver() as gone:
        port = gone.port
    agent_url = f"http://127.0.0.1:{port}"
    async with upstream(repeat(whole(b"{}"))) as engine, sidecar(engine.url, agent_url=agent_url) as proxy:
        await ask(proxy.port, 5)
        await until(lambda: proxy.shipper.failures > 1)
        assert len(records(proxy)) == 5
        async with receiver(port=port) as agent:
            await until(lambda: not proxy.queue)
            await ask(proxy.port, 5)
            await until(lambda: len(agent.accepted) == 20)
            assert [event.sequence for event in agent.accepted] == list(range(1, 21))


async def test_the_rest_is_shipped_at_the_end() -> None:
    async with upstream(repeat(whole(b"{}"))) as engine, receiver() as agent:
        async with sidecar(engine.url, agent_url=agent.url, ship_interval_seconds=60) as proxy:
            await ask(proxy.port, 3)
            assert agent.attempts == 0
        assert len(agent.accepted) == 6


async def test_a_batch_is_cut_down_when_it_is_too_large() -> None:
    async with receiver(lambda attempt: 413 if attempt < 3 else None) as agent:
        settings = SidecarSettings(agent_url=agent.url, ship_batch_events=8, ship_interval_seconds=0.01)
        queue = EventQueue(100)
        for _ in range(8):
            queue.put(started)
        shipper = Shipper(queue, settings, epoch=1)
        shipper.drain()
        await shipper.run()
        assert [len(batch.events) for batch in agent.batches] == [2, 2, 2, 2]


async def test_own_metrics_and_probes() -> None:
    async with (
        upstream(repeat(whole(b"{}"))) as engine,
        receiver() as agent,
        sidecar(engine.url, agent_url=agent.url) as proxy,
        aiohttp.ClientSession() as session,
    ):
        await ask(proxy.port, 3)
        await until(lambda: len(agent.accepted) == 6)
        await until(lambda: proxy.shipper.shipped == 6)
        base = f"http://127.0.0.1:{proxy.admin_port}"
        text = await (await session.get(f"{base}/metrics")).text()
        assert "engineroom_sidecar_events_shipped_total 6.0" in text
        assert 'engineroom_sidecar_requests_total{outcome="ok"} 3.0' in text
        assert 'engineroom_sidecar_events_dropped_total{event="end"} 0.0' in text
        assert (await session.get(f"{base}/livez")).status == 200
        ready = await session.get(f"{base}/readyz")
        assert (ready.status, (await ready.text()).splitlines()[0]) == (200, "ready")


async def test_a_sidecar_with_an_open_request_is_heard_although_nothing_happens() -> None:
    async with receiver() as agent:
        queue = EventQueue(100)
        settings = SidecarSettings(agent_url=agent.url, ship_interval_seconds=0.02, heartbeat_seconds=0.05, name="test")
        shipper = Shipper(queue, settings, epoch=1)
        queue.put(started)
        async with anyio.create_task_group() as group:
            group.start_soon(shipper.run)
            await until(lambda: len([batch for batch in agent.batches if not batch.events]) >= 2)
            queue.put(ended)
            await until(lambda: len(agent.accepted) == 2)
            shipper.drain()
        assert queue.open == 0
        assert [event.sequence for event in agent.accepted] == [1, 2]
