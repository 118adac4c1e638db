"""A request's way to an engine through a sidecar: sent once more where that is safe, and never where it is not."""

import os

import anyio
import openai
import pytest

from tests.support.gateway import (
    BODY,
    CHAT,
    STREAM,
    Mood,
    ask,
    gateway,
    member,
    settled,
    under_way,
    with_a_dead_one,
)
from tests.support.sidecar import sidecar
from tests.support.upstream import Message, Wire, chunked, connect, post, until, upstream, whole

TIMES = 10 if os.environ.get("ENGINEROOM_LONG") else 1
STREAMED = b'{"model":"tiny","stream":true,"messages":[]}'
MIB = 1 << 20


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


async def test_a_request_that_another_engine_took_over_is_the_same_attempt() -> None:
    """What the gateway sends again is one request with one record; only its client can make a second of it."""
    body = b'{"model":"tiny","max_completion_tokens":7}'
    async with gateway("reset", "stream") as (proxy, (bad, good)):
        while not bad.heard:
            assert (await ask(proxy, post(body, more="x-stainless-retry-count: 1\r\n"))).status == 200
        found = await settled(proxy, len(good.heard))
        assert {(seen.attempt, seen.max_output_tokens, seen.upstream) for seen in found} == {(1, 7, good.name)}
        assert proxy.forwarder.tally.retries == 1


async def test_what_a_clients_library_sends_again_is_a_request_of_its_own() -> None:
    async with gateway("broken") as (proxy, (engine,)):
        client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{proxy.port}/v1", api_key="x", max_retries=1)
        async with client:
            with pytest.raises(openai.InternalServerError):
                await client.completions.create(model="tiny", prompt="hello", max_tokens=5)
        found = await settled(proxy, 2)
        assert [(seen.attempt, seen.outcome, seen.max_output_tokens) for seen in found] == [
            (0, "error", 5),
            (1, "error", 5),
        ]
        assert len(engine.heard) == 2


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
