"""A gateway before three engines as clients see it: engines die, hang, break and come back; who asks gets an answer."""

import time
from collections import Counter
from contextlib import AsyncExitStack

import anyio
import pytest

from tests.support.gateway import BODY, STREAM, Member, gateway, member, under_way
from tests.support.sidecar import Proxy, records, sidecar
from tests.support.upstream import connect, post, until, upstream

CHAT = b'{"model":"tiny","messages":[]}'
STREAMED = b'{"model":"tiny","stream":true,"messages":[]}'
WATCHFUL = {
    "check_interval_seconds": 0.1,
    "check_timeout_seconds": 0.1,
    "check_failures": 1,
    "eject_seconds": 0.1,
    "eject_max_seconds": 0.2,
    "eject_after_failures": 1,
}


class Crowd:
    """Clients that ask again and again, and what became of it."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.statuses: Counter[int] = Counter()
        self.stop = False
        self.slowest_seconds = 0.0

    async def one(self) -> None:
        async with connect(self.proxy.port) as client:
            while not self.stop:
                began = time.monotonic()
                await client.send(post(CHAT))
                answer = await client.answer()
                self.statuses[answer.status] += 1
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
                assert answer.status != 200 or answer.body in (BODY, b"".join(STREAM))

    async def some_more(self, count: int = 40) -> None:
        wanted = self.statuses.total() + count
        await until(lambda: self.statuses.total() >= wanted)


async def test_engines_die_and_come_back_and_no_client_hears_of_it() -> None:
    """Each in turn is away, two at a time at the end; then all are there again and all of them work."""
    async with AsyncExitStack() as stack, member() as one, member("stream") as two:
        three = Member()
        third = AsyncExitStack()
        three.at = await third.enter_async_context(upstream(three.script))
        port = three.at.port
        entries = [{"url": engine.url} for engine in (one, two, three)]
        proxy = await stack.enter_async_context(sidecar(one.url, upstreams=entries, balance=WATCHFUL))
        crowd = Crowd(proxy)
        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(crowd.one)
            await crowd.some_more()
            await third.aclose()  # its connections are reset, nobody listens any more
            await crowd.some_more(120)
            assert not proxy.forwarder.upstreams.engines[2].serves
            one.mood = "reset"
            await crowd.some_more(120)
            assert [engine.serves for engine in proxy.forwarder.upstreams.engines] == [False, True, False]
            three.at = await stack.enter_async_context(upstream(three.script, port=port))
            one.mood = "good"
            await until(lambda: all(engine.serves for engine in proxy.forwarder.upstreams.engines))
            for engine in (one, two, three):
                engine.heard.clear()
            await crowd.some_more(150)
            crowd.stop = True
        assert set(crowd.statuses) == {200}
        shares = [len(engine.heard) for engine in (one, two, three)]
        assert min(shares) > 20, shares
        assert under_way(proxy) == [0, 0, 0]
        await until(lambda: len(records(proxy)) == crowd.statuses.total())
        assert {seen.outcome for seen in records(proxy)} == {"ok"}


async def test_an_engine_that_hangs_is_left_out_by_its_health_and_comes_back() -> None:
    """Those who were with it when it began to hang get their answer from another; the others notice nothing."""
    async with gateway("good", "good", "good", balance=WATCHFUL, first_byte_timeout_seconds=1.5) as (proxy, members):
        bad = members[0]
        await until(lambda: all(engine.ready for engine in proxy.forwarder.upstreams.engines))
        crowd = Crowd(proxy)
        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(crowd.one)
            await crowd.some_more()
            bad.mood = "hang"
            await until(lambda: not proxy.forwarder.upstreams.engines[0].serves)
            hanging = under_way(proxy)[0]
            assert 1 <= hanging <= 6
            await crowd.some_more(50) if hanging < 6 else None
            bad.mood = "good"
            await until(lambda: under_way(proxy)[0] == 0)
            await until(lambda: proxy.forwarder.upstreams.engines[0].serves)
            bad.heard.clear()
            await until(lambda: len(bad.heard) > 10)
            crowd.stop = True
        assert set(crowd.statuses) == {200}
        assert proxy.forwarder.tally.retries >= hanging
        assert under_way(proxy) == [0, 0, 0]


async def test_an_engine_that_says_it_is_not_ready_gets_nothing() -> None:
    async with gateway("broken", "good", balance={**WATCHFUL, "eject_after_failures": 0}) as (proxy, (bad, good)):
        await until(lambda: proxy.forwarder.upstreams.engines[0].ready is False)
        before = len(bad.heard)
        async with connect(proxy.port) as client:
            for _ in range(6):
                await client.send(post(CHAT))
                assert (await client.answer()).status == 200
        assert len(bad.heard) == before == 0
        assert len(good.heard) == 6
        bad.mood = "good"
        await until(lambda: proxy.forwarder.upstreams.engines[0].ready is True)


async def test_where_no_engine_serves_all_are_used_and_one_that_works_is_found() -> None:
    balance = {**WATCHFUL, "check": False}
    async with (
        gateway("broken", "broken", balance=balance) as (proxy, (one, two)),
        connect(proxy.port) as client,
    ):
        for _ in range(6):
            await client.send(post(CHAT))
            assert (await client.answer()).status == 500
        assert proxy.forwarder.upstreams.balance.panics > 0
        assert {engine.reason for engine in proxy.forwarder.upstreams.engines} == {"it answered 500"}
        one.mood = two.mood = "good"
        statuses = []
        with anyio.fail_after(10):
            while not all(engine.serves for engine in proxy.forwarder.upstreams.engines):
                await client.send(post(CHAT))
                statuses.append((await client.answer()).status)
        assert set(statuses) == {200}


@pytest.mark.parametrize("streams", [12])
async def test_long_streams_are_spread_by_what_is_under_way(streams: int) -> None:
    async with gateway("hold", "hold", "hold") as (proxy, members), AsyncExitStack() as clients:
        for number in range(1, streams + 1):
            client = await clients.enter_async_context(connect(proxy.port))
            await client.send(post(STREAMED))
            await until(lambda: sum(one.holding for one in members) == number)  # noqa: B023
        assert [one.holding for one in members] == [streams // 3] * 3
        members[0].let_go.set()
        await until(lambda: under_way(proxy)[0] == 0)
        members[0].hold_again()
        for number in range(1, 5):  # the one that has none gets all of the next ones
            client = await clients.enter_async_context(connect(proxy.port))
            await client.send(post(STREAMED))
            await until(lambda: members[0].holding == number)  # noqa: B023
        for one in members:
            one.let_go.set()
        await until(lambda: under_way(proxy) == [0, 0, 0])
