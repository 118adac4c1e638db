"""A request's way through a sidecar: retried where that is safe, and counted at its engine until its end, any end."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Literal, get_args

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.requests import RequestRecord
from tests.support.gateway import BODY, STREAM, Member, Mood, free_port, gateway, member, under_way
from tests.support.sidecar import Proxy, record, records, sidecar
from tests.support.upstream import Message, Wire, chunked, connect, post, until, upstream, whole

TIMES = 10 if os.environ.get("ENGINEROOM_LONG") else 1
CHAT = b'{"model":"tiny","messages":[]}'
STREAMED = b'{"model":"tiny","stream":true,"messages":[]}'
MIB = 1 << 20


async def ask(proxy: Proxy, request: bytes = post(CHAT)) -> Message:
    async with connect(proxy.port) as client:
        await client.send(request)
        return await client.answer()


async def settled(proxy: Proxy, count: int) -> list[RequestRecord]:
    """The records of so many requests; by then no engine is counted to have any."""
    await until(lambda: len(records(proxy)) >= count and not proxy.forwarder.active)
    assert len(records(proxy)) == count
    assert set(under_way(proxy)) == {0}
    return records(proxy)


@asynccontextmanager
async def with_a_dead_one(**more: object) -> AsyncIterator[tuple[Proxy, Member]]:
    """A gateway before a port where nobody listens, and a good engine."""
    async with member() as good:
        entries = [{"url": f"http://127.0.0.1:{free_port()}"}, {"url": good.url}]
        async with sidecar(good.url, upstreams=entries, **{"balance": {"check": False}, **more}) as proxy:
            yield proxy, good


# before the first byte: another engine


async def test_an_engine_that_refuses_the_connection_is_passed_over() -> None:
    async with with_a_dead_one() as (proxy, good):
        for _ in range(6):
            assert (await ask(proxy)).body == BODY
        assert len(good.heard) == 6
        found = await settled(proxy, 6)
        assert {(seen.outcome, seen.status, seen.upstream) for seen in found} == {("ok", 200, good.name)}
        dead = proxy.forwarder.upstreams.engines[0]
        assert dead.failures == dead.chosen == proxy.forwarder.tally.retries
        assert dead.ejected


@pytest.mark.parametrize("mood", ["reset", "close"])
async def test_an_engine_that_breaks_off_before_a_byte_is_replaced_once(mood: Mood) -> None:
    async with gateway(mood, "good") as (proxy, (bad, good)):
        body = os.urandom(MIB - 4096)
        while not bad.heard:
            answer = await ask(proxy, post(body, more="x-mine: 1\r\n"))
            assert answer.body == BODY
        assert good.heard[-1].body == bad.heard[-1].body == body
        assert good.heard[-1].field("x-request-id") == bad.heard[-1].field("x-request-id")
        assert good.heard[-1].field("x-mine") == "1"
        assert proxy.forwarder.tally.retries == 1
        await settled(proxy, len(good.heard))


async def test_a_chunked_body_is_sent_again_as_it_was() -> None:
    async with gateway("reset", "good") as (proxy, (bad, good)):
        head = b"POST /v1/completions HTTP/1.1\r\nhost: e\r\ntransfer-encoding: chunked\r\n\r\n"
        while not bad.heard:
            assert (await ask(proxy, head + b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n")).body == BODY
        assert good.heard[-1].body == bad.heard[-1].body == b"hello world"
        await settled(proxy, len(good.heard))


async def test_a_body_that_is_still_coming_goes_on_to_the_second_engine() -> None:
    """The first one dies in the middle of the upload."""
    gone = anyio.Event()

    async def dies(wire: Wire) -> None:
        await wire.head()
        await wire.reader.readexactly(100_000)
        wire.reset()
        gone.set()

    async with upstream(dies) as bad, member() as good:
        entries = [{"url": bad.url}, {"url": good.url}]
        async with sidecar(bad.url, upstreams=entries, balance={"check": False}) as proxy:
            body = os.urandom(400_000)
            while not gone.is_set():
                async with connect(proxy.port) as client:
                    request = post(body)
                    await client.send(request[:200_000])
                    await until(lambda: gone.is_set() or under_way(proxy)[1] > 0)
                    await client.send(request[200_000:])
                    assert (await client.answer()).body == BODY
            assert good.heard[-1].body == body
            await settled(proxy, len(good.heard))


async def test_two_bad_engines_are_a_502_and_a_third_is_not_asked() -> None:
    async with gateway("reset", "reset", "reset") as (proxy, members):
        answer = await ask(proxy)
        assert answer.status == 502
        assert sum(len(one.heard) for one in members) == 2
        assert max(len(one.heard) for one in members) == 1
        (seen,) = await settled(proxy, 1)
        assert (seen.outcome, seen.status) == ("error", 502)
        assert sum(engine.failures for engine in proxy.forwarder.upstreams.engines) == 2


async def test_a_body_that_is_no_longer_at_hand_is_not_sent_again() -> None:
    async with gateway("reset", "good") as (proxy, (bad, good)):
        answers = []
        while not bad.heard:
            answers.append(await ask(proxy, post(os.urandom(MIB + 4096))))
        assert [answer.status for answer in answers][-1] == 502
        assert b"closed the connection" in answers[-1].body
        assert len(bad.heard) == 1
        assert len(good.heard) == len(answers) - 1
        assert proxy.forwarder.tally.retries == 0
        found = await settled(proxy, len(answers))
        assert found[-1].outcome == "error"


async def test_no_connection_is_made_up_for_however_long_the_body_is() -> None:
    """Nothing of it was sent yet."""
    async with with_a_dead_one() as (proxy, good):
        body = os.urandom(3 * MIB)
        for _ in range(3):
            assert (await ask(proxy, post(body))).body == BODY
        assert {message.body == body for message in good.heard} == {True}
        await settled(proxy, 3)


async def test_after_the_first_byte_nothing_is_sent_again() -> None:
    async with gateway("half", "stream") as (proxy, (bad, good)):
        while not bad.heard:
            async with connect(proxy.port) as client:
                await client.send(post(STREAMED))
                head = await client.head()
                assert head.status == 200
                got = await client.until_closed() if bad.heard else b""
        assert b"[DONE]" not in got
        assert proxy.forwarder.tally.retries == 0
        found = await settled(proxy, len(bad.heard) + len(good.heard))
        assert [seen.outcome for seen in found].count("error") == 1
        assert len(bad.heard) == 1


async def test_an_interim_answer_is_a_first_byte() -> None:
    async def early(wire: Wire) -> None:
        await wire.message()
        await wire.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
        wire.reset()

    async with upstream(early) as one, upstream(early) as two:
        entries = [{"url": one.url}, {"url": two.url}]
        async with sidecar(one.url, upstreams=entries, balance={"check": False}) as proxy:
            assert (await ask(proxy)).status == 502
            assert one.connections + two.connections == 1
            await settled(proxy, 1)


async def test_garbage_is_an_answer_and_a_failure() -> None:
    async with gateway("garbage", "good") as (proxy, (bad, _)):
        answer = None
        while not bad.heard:
            answer = await ask(proxy)
        assert answer is not None
        assert answer.status == 502
        await until(lambda: proxy.forwarder.upstreams.engines[0].failures == 1)


# kept-alive connections


async def test_a_kept_connection_that_dies_is_replaced_at_the_same_engine() -> None:
    async with gateway("good", "good") as (proxy, (one, two)), connect(proxy.port) as client:
        for _ in range(2):
            await client.send(post(CHAT))
            await client.answer()
        one.mood = two.mood = "close_once"
        for _ in range(2):
            await client.send(post(CHAT))
            assert (await client.answer()).body == BODY
        for engine in (one, two):
            ids = [message.field("x-request-id") for message in engine.heard]
            assert len(ids) == 3
            assert ids[1] == ids[2] != ids[0]
            assert engine.at.connections == 2
        assert [engine.failures for engine in proxy.forwarder.upstreams.engines] == [0, 0]
        assert [engine.chosen for engine in proxy.forwarder.upstreams.engines] == [2, 2]
        assert proxy.forwarder.tally.retries == 2
        await settled(proxy, 4)


async def test_one_that_dies_again_goes_to_the_other_engine_then() -> None:
    async with gateway("good", "good") as (proxy, (one, two)), connect(proxy.port) as client:
        for _ in range(2):
            await client.send(post(CHAT))
            await client.answer()
        one.mood = "close"
        while len(one.heard) == 1:
            await client.send(post(CHAT))
            assert (await client.answer()).body == BODY
        assert len(one.heard) == 3  # first, over the kept connection, over a new one
        assert one.heard[2].field("x-request-id") == two.heard[-1].field("x-request-id")
        assert [engine.failures for engine in proxy.forwarder.upstreams.engines] == [1, 0]
        await settled(proxy, 1 + len(two.heard))


# what counts against an engine


@pytest.mark.parametrize(("mood", "status"), [("broken", 500), ("busy", 503)])
async def test_a_5xx_is_the_clients_and_counts_against_the_engine(mood: Mood, status: int) -> None:
    balance = {"check": False, "eject_after_failures": 2, "eject_seconds": 60}
    async with gateway(mood, "good", balance=balance) as (proxy, (bad, good)):
        answers = [(await ask(proxy)).status for _ in range(10)]
        assert answers.count(status) == 2
        assert len(bad.heard) == 2
        assert len(good.heard) == 8
        engine = proxy.forwarder.upstreams.engines[0]
        assert (engine.failures, engine.ejected, engine.ejections) == (2, True, 1)
        await settled(proxy, 10)


async def test_refusals_of_the_engine_and_clients_that_leave_do_not_count_against_it() -> None:
    async def refuses(wire: Wire) -> None:
        while True:
            await wire.message()
            await wire.send(whole(b"{}", status="429 Too Many Requests"))

    async with upstream(refuses) as one, member("hang") as two:
        entries = [{"url": one.url}, {"url": two.url}]
        async with sidecar(one.url, upstreams=entries, balance={"check": False}) as proxy:
            for _ in range(8):
                async with connect(proxy.port) as client:
                    await client.send(post(CHAT))
                    before = len(two.heard)
                    await until(lambda: len(two.heard) > before or not proxy.forwarder.active)  # noqa: B023
            await until(lambda: not proxy.forwarder.active)
            assert [engine.failures for engine in proxy.forwarder.upstreams.engines] == [0, 0]
            assert set(under_way(proxy)) == {0}


async def test_an_ejected_engine_that_is_well_again_comes_back_by_one_request() -> None:
    balance = {"check": False, "eject_after_failures": 1, "eject_seconds": 0.05}
    async with gateway("reset", "good", balance=balance) as (proxy, (bad, _)):
        while not bad.heard:
            await ask(proxy)
        bad.mood = "good"
        with anyio.fail_after(10):
            while proxy.forwarder.upstreams.engines[0].ejected:
                assert (await ask(proxy)).body == BODY
        before = len(bad.heard)
        for _ in range(4):
            await ask(proxy)
        assert len(bad.heard) == before + 2


async def test_an_answer_that_has_begun_brings_an_engine_back_before_it_ends() -> None:
    go_on = anyio.Event()

    async def slow(wire: Wire) -> None:
        while True:
            await wire.message()
            await wire.send(chunked(*STREAM)[:150])
            await go_on.wait()
            await wire.send(chunked(*STREAM)[150:])

    async with upstream(slow) as engine, member() as other:
        entries = [{"url": engine.url}, {"url": other.url}]
        balance = {"check": False, "eject_after_failures": 1, "eject_seconds": 0.01}
        async with sidecar(engine.url, upstreams=entries, balance=balance) as proxy:
            of = proxy.forwarder.upstreams
            chosen = of.engines[0]
            for _ in range(2):
                if (taken := of.choose(0)) is not None:
                    of.balance.ended(taken, taken.spell, 0, ok=taken is not chosen)
            assert chosen.ejected
            async with connect(proxy.port) as client:
                await until(lambda: proxy.forwarder.clock.now_ns() > 50_000_000)
                await client.send(post(STREAMED))
                assert (await client.head()).status == 200
                assert not chosen.ejected
                assert under_way(proxy) == [1, 0]
                go_on.set()
                await client.body(Message(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"))
            await until(lambda: under_way(proxy) == [0, 0])


# every way to end

Exit = Literal["read", "leave", "leave_at_once", "leave_in_upload", "reset", "half_read"]
_steps = st.tuples(st.sampled_from(get_args(Mood)), st.sampled_from(get_args(Exit)), st.booleans(), st.booleans())


async def one_client(proxy: Proxy, way: Exit, large: bool) -> None:
    async with connect(proxy.port) as client:
        request = post(b'{"model":"tiny","stream":true,"p":"%b"}' % (b"x" * (300_000 if large else 9)))
        if way == "leave_in_upload":
            await client.send(request[:-5])
        else:
            await client.send(request)
        if way == "read":
            with anyio.move_on_after(0.4):
                try:
                    await client.answer()
                except (EOFError, ConnectionError):
                    pass  # as the engine's mood wants it
        elif way == "half_read":
            with anyio.move_on_after(0.2):
                await client.reader.read(20)
        elif way == "reset":
            with anyio.move_on_after(0.02):
                await client.reader.read(1)
            client.reset()
        elif way == "leave":
            with anyio.move_on_after(0.03):
                await client.reader.read(1)


async def play(steps: list[tuple[Mood, Exit, bool, bool]]) -> None:
    async with gateway("good", "good", "good", first_byte_timeout_seconds=0.2, balance=QUICK) as (proxy, members):
        async with anyio.create_task_group() as group:
            for number, (mood, way, large, alone) in enumerate(steps):
                members[number % 3].mood = mood
                if alone:
                    await one_client(proxy, way, large)
                else:
                    group.start_soon(one_client, proxy, way, large)
        for one in members:
            one.let_go.set()
        await until(lambda: not proxy.forwarder.active)
        assert under_way(proxy) == [0, 0, 0]
        engines = proxy.forwarder.upstreams.engines
        assert [engine._trials for engine in engines if engine.ejected] == [0] * sum(e.ejected for e in engines)
        await until(lambda: not proxy.listener.connections)


QUICK = {"check": False, "eject_after_failures": 2, "eject_seconds": 0.02, "eject_max_seconds": 0.1}


@settings(max_examples=12 * TIMES, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(_steps, min_size=3, max_size=14))
def test_however_requests_end_their_engines_are_free_again(steps: list[tuple[Mood, Exit, bool, bool]]) -> None:
    anyio.run(partial(play, steps), backend_options={"use_uvloop": True})


async def test_what_ends_by_a_deadline_or_by_the_sidecars_end_frees_its_engine() -> None:
    async with gateway("hang", "hang", first_byte_timeout_seconds=0.1) as (proxy, _):
        assert (await ask(proxy)).status == 504
        (seen,) = await settled(proxy, 1)
        assert seen.outcome == "timeout"
    async with gateway("hang", "hang", request_timeout_seconds=0.1) as (proxy, _):
        assert (await ask(proxy)).status == 504
        await settled(proxy, 1)


async def test_a_tunnel_counts_until_its_end() -> None:
    async def switches(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")
        await wire.until_closed()

    async with upstream(switches) as engine:
        entries = [{"url": engine.url}, {"url": engine.url}]
        async with sidecar(engine.url, upstreams=entries, balance={"check": False}) as proxy:
            async with connect(proxy.port) as client:
                await client.send(b"GET / HTTP/1.1\r\nhost: e\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")
                assert (await client.head()).status == 101
                assert sorted(under_way(proxy)) == [0, 1]
            await until(lambda: under_way(proxy) == [0, 0])


# what is held here


async def test_a_request_under_quotas_waits_until_it_is_whole() -> None:
    rules = [{"name": "r", "mode": "block", "concurrent_requests": 5}]
    async with gateway("good", quotas={"rules": rules}) as (proxy, (engine,)), connect(proxy.port) as client:
        request = post(CHAT)
        await client.send(request[:-3])
        await until(lambda: len(proxy.forwarder.active) == 1)
        assert under_way(proxy) == [0]
        await client.send(request[-3:])
        assert (await client.answer()).body == BODY
        assert engine.heard[0].body == CHAT


@pytest.mark.parametrize("mode", ["observe", "warn"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_rules_that_refuse_nothing_count_all_the_same(mode: str, at_once: bool) -> None:
    """They need not hold a request for it."""
    rules = [{"name": "r", "mode": mode, "requests_per_minute": 1}]
    async with gateway("good", quotas={"rules": rules}) as (proxy, _), connect(proxy.port) as client:
        answers = []
        for _ in range(3):
            request = post(CHAT)
            at = len(request) if at_once else request.index(b"\r\n\r\n") + 4
            await client.send(request[:at])
            if not at_once:
                await until(lambda: len(proxy.forwarder.active) == 1)
                await client.send(request[at:])
            answers.append(await client.answer())
        assert [answer.status for answer in answers] == [200] * 3
        (counted,) = [
            sample.value
            for sample in proxy.forwarder.quotas.numbers()
            if sample.key.name.endswith("quota_requests_total") and ("result", "would_refuse") in sample.key.labels
        ]
        assert counted == 2
        warned = [answer.field("x-engineroom-quota-warning") for answer in answers]
        if mode == "warn":
            assert warned[0] is None
            assert warned[1] == "rule=r; limit=requests; used=1; of=1"
        else:
            assert warned == [None] * 3


@pytest.mark.parametrize("path", ["/props", "/v1/completions"])
async def test_who_waits_for_leave_to_send_its_body_gets_it_once(path: str) -> None:
    """Also where requests are not counted and go to the engine at once; then it is the engine's to say."""

    async def script(wire: Wire) -> None:
        while True:
            head = await wire.head()
            if head.field("expect"):
                await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            message = await wire.body(head)
            await wire.send(whole(b"got %d" % len(message.body)))

    rules = [{"name": "r", "mode": "block", "concurrent_requests": 5}]
    async with (
        upstream(script) as engine,
        sidecar(engine.url, quotas={"rules": rules}) as proxy,
        connect(proxy.port) as client,
    ):
        request = post(CHAT, path=path, more="expect: 100-continue\r\n")
        at = request.index(b"\r\n\r\n") + 4
        await client.send(request[:at])
        assert (await client.head()).status == 100
        await client.send(request[at:])
        answer = await client.head()
        assert answer.status == 200
        assert (await client.body(answer)).body == b"got %d" % len(CHAT)


async def test_what_an_engine_said_before_it_broke_off_is_kept() -> None:
    async with gateway("half") as (proxy, _):
        async with connect(proxy.port) as client:
            await client.send(post(STREAMED))
            await client.until_closed()
        seen = await record(proxy)
        assert (seen.outcome, seen.usage.output_tokens) == ("error", 1)
