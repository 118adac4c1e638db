"""The admin address: the names on /metrics, their values after some traffic, and what the probes say."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.core.catalogue import BY_NAME
from agent.core.requests import RecordReceipt, RefusedEvent
from tests.support.agent import free_port
from tests.support.sidecar import Proxy, Receiver, receiver, records, sidecar
from tests.support.upstream import Wire, connect, post, repeat, until, upstream, whole


@asynccontextmanager
async def answer(proxy: Proxy, path: str) -> AsyncIterator[tuple[int, str]]:
    url = f"http://127.0.0.1:{proxy.admin_port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        yield response.status, await response.text()


async def values(proxy: Proxy) -> dict[str, float]:
    """Every sample of our own by name, and label value where there is one."""
    async with answer(proxy, "/metrics") as (status, text):
        assert status == 200
    return {
        ".".join((sample.name.removeprefix("engineroom_sidecar_"), *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("engineroom_sidecar_")
    }


async def test_the_names_and_types_of_the_metrics() -> None:
    async with sidecar("http://127.0.0.1:9") as proxy, answer(proxy, "/metrics") as (_, text):
        families = {family.name: family for family in text_string_to_metric_families(text)}
    own = {name: family for name, family in families.items() if name.startswith("engineroom_sidecar_")}
    assert {name for name in families if name.startswith(("engineroom_delivery_", "engineroom_spool_"))} >= {
        "engineroom_delivery_accepted_items",
        "engineroom_delivery_items",
        "engineroom_delivery_waiting_items",
        "engineroom_spool_blocked",
    }
    told = {name + "_total" * (family.type == "counter"): family.type for name, family in own.items()}
    assert told == {name: BY_NAME[name].type for name in told}
    assert {"engineroom_sidecar_requests_total", "engineroom_sidecar_upstream_up"} <= set(told)
    assert all(family.documentation for family in own.values())
    assert "process_resident_memory_bytes" in families


async def test_the_values_follow_the_traffic() -> None:
    go_on = anyio.Event()

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(whole(b"{}"))
        await wire.message()
        await go_on.wait()
        await wire.send(whole(b"no", status="429 Too Many"))
        await wire.until_closed()

    async with upstream(script) as engine, sidecar(engine.url) as proxy, connect(proxy.port) as client:
        before = await values(proxy)
        assert (before["forwarded_total"], before["requests_total.ok"], before["upstream_up"]) == (0, 0, 1)
        await client.send(post(b"{}"))
        await client.answer()
        await client.send(post(b"{}"))
        await until(lambda: len(proxy.forwarder.active) == 1)
        during = await values(proxy)
        assert (during["requests_in_flight"], during["client_connections"]) == (1, 1)
        go_on.set()
        await client.answer()
        await until(lambda: len(records(proxy)) == 2)
        after = await values(proxy)
    assert (after["requests_in_flight"], after["forwarded_total"], after["upstream_connects_total"]) == (0, 2, 1)
    assert (after["requests_total.ok"], after["requests_total.rejected"], after["requests_total.error"]) == (1, 1, 0)
    assert after["upstream_idle_connections"] == 1
    assert after["events_total"] == 2


async def test_an_engine_that_is_away_shows_and_makes_the_sidecar_unready() -> None:
    async with sidecar("http://127.0.0.1:9") as proxy, connect(proxy.port) as client:
        await client.send(post(b"{}"))
        assert (await client.answer()).status == 502
        found = await values(proxy)
        assert (found["upstream_up"], found["requests_total.error"]) == (0, 1)
        async with answer(proxy, "/readyz") as (status, text):
            assert (status, text.splitlines()[0]) == (503, "not ready: no engine can be reached")
            assert "upstream: no connection to 127.0.0.1:9" in text


async def test_readiness_asks_an_engine_that_nobody_has_used_and_hears_when_it_comes_back() -> None:
    port = free_port()
    async with sidecar(f"http://127.0.0.1:{port}") as proxy:
        async with answer(proxy, "/readyz") as (status, _):
            assert status == 503
        async with upstream(repeat(whole(b"{}")), port=port):
            for _ in range(3):
                async with answer(proxy, "/readyz") as (status, text):
                    assert (status, text.splitlines()[0]) == (200, "ready")
            assert proxy.forwarder.upstreams.idle == 1  # one connection is enough to know
        async with answer(proxy, "/livez") as (status, _):
            assert status == 200


@pytest.mark.parametrize(("refuses", "said"), [(False, "agent: reachable"), (True, "agent: not reachable (HTTP 503")])
async def test_readiness_tells_of_the_agent(refuses: bool, said: str) -> None:
    async with (
        upstream(repeat(whole(b"{}"))) as engine,
        receiver(lambda _: 503 if refuses else None) as agent,
        sidecar(engine.url, agent_url=agent.url, ship_drain_seconds=0) as proxy,
        connect(proxy.port) as client,
    ):
        async with answer(proxy, "/readyz") as (status, text):
            assert (status, text.splitlines()[2]) == (200, "agent: not asked yet")
        await client.send(post(b"{}"))
        await client.answer()
        await until(lambda: proxy.shipping.delivery.state().ok is not None)
        async with answer(proxy, "/readyz") as (status, text):
            assert (status, text.splitlines()[0]) == (200, "ready")
            assert said in text
            assert text.splitlines()[4] == "spool: ok"


async def test_a_sidecar_that_drains_is_alive_and_not_ready() -> None:
    async with sidecar("http://127.0.0.1:9") as proxy:
        proxy.forwarder.draining = True
        async with answer(proxy, "/readyz") as (status, text):
            assert (status, text.splitlines()[0]) == (503, "not ready: draining")
        async with answer(proxy, "/livez") as (status, text):
            assert (status, text) == (200, "ok\n")


def fickle(chance: random.Random) -> Callable[[int], RecordReceipt]:
    """Receipts that tell of repeats and refusals at random."""

    def receipt(count: int) -> RecordReceipt:
        refused = [index for index in range(count) if chance.random() < 0.2]
        told = tuple(RefusedEvent(index=index, kind="value", reason="no") for index in refused)
        return RecordReceipt(accepted_through=1, repeated=chance.randrange(count - len(told) + 1), refused=told)

    return receipt


async def test_accepted_is_accounted_for_at_every_scrape() -> None:
    chance = random.Random(3)
    agent = Receiver(receipt=fickle(chance), refuse=lambda _: chance.choice((None,) * 9 + (503,)))
    seen: list[dict[str, float]] = []
    async with (
        upstream(repeat(whole(b"{}"))) as engine,
        receiver(state=agent),
        sidecar(engine.url, agent_url=agent.url, ship_batch_events=40) as proxy,
        connect(proxy.port) as client,
        anyio.create_task_group() as group,
    ):

        async def scrape() -> None:
            while True:
                async with answer(proxy, "/metrics") as (_, text):
                    seen.append(delivery(text))
                await anyio.sleep(0.001)

        group.start_soon(scrape)
        for _ in range(200):
            await client.send(post(b"{}"))
            await client.answer()
        await until(lambda: (state := proxy.shipping.records.state()).accepted == 200 and not state.waiting)
        last = proxy.shipping.records.state()
        group.cancel_scope.cancel()
    for values_then in seen:
        assert values_then["accepted"] == values_then["waiting"] + values_then["settled"]
    assert len({values_then["waiting"] for values_then in seen}) > 3
    assert set(last.results) == {"delivered", "duplicate", "dead"}
    assert sum(last.results.values()) == last.accepted == 200


def delivery(text: str) -> dict[str, float]:
    """The identity's parts of the records' stream in one page."""
    found = {"accepted": 0.0, "waiting": 0.0, "settled": 0.0}
    names = {
        "engineroom_delivery_accepted_items_total": "accepted",
        "engineroom_delivery_waiting_items": "waiting",
        "engineroom_delivery_items_total": "settled",
    }
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in names and sample.labels["stream"] == "records":
                found[names[sample.name]] += sample.value
    return found
