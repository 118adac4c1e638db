"""Quotas of a sidecar without an agent, over HTTP: what fits passes, what does not is refused, warned of or waits."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest

from agent.clock import boot_ns
from agent.core.requests import RequestRecord
from agent.sidecar.asks import Ask
from agent.sidecar.quota.quotas import Ticket
from tests.support.gateway import BODY, Member, free_port, gateway
from tests.support.sidecar import Proxy, record, records, sidecar
from tests.support.upstream import Message, Wire, connect, post, until

CHAT = b'{"model":"tiny","max_tokens":2,"messages":[]}'  # 45 bytes: an estimate of 11 tokens, and 2
ESTIMATE, USED = 11 + 2, 3 + 2
MIB = 1 << 20


def rule(**more: Any) -> dict[str, Any]:
    return {"rules": [{"name": "r", "mode": "block", **more}], "patience_seconds": 0}


def tenant(name: str) -> str:
    return f"x-engineroom-tenant: {name}\r\n"


async def say(client: Wire, more: str = "", body: bytes = CHAT) -> Message:
    await client.send(post(body, more=more))
    return await client.answer()


async def ask(proxy: Proxy, more: str = "", body: bytes = CHAT) -> Message:
    async with connect(proxy.port) as client:
        return await say(client, more, body)


def taken() -> Ask:
    return Ask(id="r", tenant=None, model="tiny", path="/", input_tokens=1, max_output_tokens=1)


async def ended(proxy: Proxy, count: int) -> list[RequestRecord]:
    await until(lambda: len(records(proxy)) == count and not proxy.forwarder.active)
    return records(proxy)


def used(proxy: Proxy) -> dict[str, int]:
    """What counts now, by kind, over all tenants."""
    found: dict[str, int] = {}
    for bucket in proxy.forwarder.quotas.book._buckets.values():
        for share in bucket.shares:
            found[share.kind] = found.get(share.kind, 0) + share.used(boot_ns())
    return found


@asynccontextmanager
async def held(proxy: Proxy, engine: Member, times: int, more: str = "") -> AsyncIterator[list[Wire]]:
    """So many requests at the engine, which answers them when it is let go."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(proxy.port)) for _ in range(times)]
        wanted = engine.holding + times
        for client in clients:
            await client.send(post(CHAT, more=more))
        await until(lambda: engine.holding == wanted)
        yield clients


async def test_one_request_too_many_at_a_time_is_refused_and_said_how() -> None:
    quotas = rule(tenant="acme", concurrent_requests=2)
    async with gateway("hold", quotas=quotas) as (proxy, (engine,)):
        async with held(proxy, engine, 2, tenant("acme")) as clients, connect(proxy.port) as third:
            answer = await say(third, tenant("acme"))
            assert (answer.status, answer.field("retry-after")) == (429, "1")
            said = json.loads(answer.body)["error"]
            assert (said["code"], said["type"]) == ("rate_limit_exceeded", "rate_limit_error")
            assert said["message"].startswith("Tenant acme has 2 of 2 concurrent requests running (rule r).")
            async with held(proxy, engine, 3, tenant("globex")):  # not its limit
                pass
            engine.let_go.set()
            for client in clients:
                assert (await client.answer()).status == 200
            assert (await say(third, tenant("acme"))).status == 200  # on the same connection
        found = await ended(proxy, 7)
        refused = [seen for seen in found if seen.outcome == "rejected"]
        assert [(seen.status, seen.error, seen.tenant, seen.model) for seen in refused] == [
            (429, "rate_limit_exceeded", "acme", "tiny")
        ]
        assert answer.field("x-engineroom-request-id") == refused[0].id
        assert used(proxy)["concurrent"] == 0


async def test_requests_a_minute_and_what_remains_of_them() -> None:
    async with gateway("good", quotas=rule(requests_per_minute=3)) as (proxy, (engine,)), connect(proxy.port) as client:
        for left in (2, 1, 0):
            answer = await say(client)
            assert answer.status == 200
            assert answer.field("x-ratelimit-limit-requests") == "3"
            assert answer.field("x-ratelimit-remaining-requests") == str(left)
            assert answer.field("x-ratelimit-reset-requests") in ("60s", "1m0s", "1m1s")
        answer = await say(client)
        assert answer.status == 429
        assert 55 <= int(answer.field("retry-after") or 0) <= 61
        assert len(engine.heard) == 3
        assert (await client.reader.read(0)) == b""


async def test_tokens_a_minute_are_reserved_and_then_what_was_used_in_truth() -> None:
    quotas = rule(tokens_per_minute=ESTIMATE + 2 * USED)
    async with gateway("hold", quotas=quotas) as (proxy, (engine,)):
        async with held(proxy, engine, 1) as (client,):
            assert used(proxy)["tokens"] == ESTIMATE
            assert (await ask(proxy)).status == 429
            engine.let_go.set()
            assert (await client.answer()).status == 200
        for spent in (USED, 2 * USED):
            await until(lambda: used(proxy)["tokens"] == spent)  # noqa: B023
            answer = await ask(proxy)
            assert answer.status == 200
        assert answer.field("x-ratelimit-limit-tokens") == str(ESTIMATE + 2 * USED)
        await until(lambda: used(proxy)["tokens"] == 3 * USED)
        answer = await ask(proxy)
        assert answer.status == 429
        assert (
            f"used {3 * USED} of {ESTIMATE + 2 * USED} tokens per minute" in json.loads(answer.body)["error"]["message"]
        )
        assert len(engine.heard) == 3


async def test_what_will_never_fit_is_told_so() -> None:
    async with gateway("good", quotas=rule(tokens_per_minute=100)) as (proxy, (engine,)):
        answer = await ask(proxy, body=b'{"model":"tiny","max_tokens":500}')
        assert (answer.status, answer.field("retry-after")) == (429, None)
        assert "Send a shorter input or a smaller max_tokens" in json.loads(answer.body)["error"]["message"]
        assert not engine.heard


async def test_a_warning_is_a_header_and_watching_is_a_number() -> None:
    quotas = {
        "rules": [
            {"name": "w", "mode": "warn", "requests_per_minute": 1},
            {"name": "o", "mode": "observe", "requests_per_minute": 1},
            {"name": "b", "mode": "block", "requests_per_minute": 3},
        ]
    }
    async with gateway("good", quotas=quotas) as (proxy, _), connect(proxy.port) as client:
        answers = [await say(client) for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429]
        warned = [answer.field("x-engineroom-quota-warning") for answer in answers[:3]]
        assert warned == [
            None,
            "rule=w; limit=requests; used=1; of=1",
            "rule=w; limit=requests; used=2; of=1",
        ]
        async with connect(proxy.admin_port) as admin:
            await admin.send(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            said = (await admin.answer()).body.decode()
        counted = {
            (line.split('rule="')[1][0], line.split('result="')[1].split('"')[0]): float(line.rsplit(" ", 1)[1])
            for line in said.splitlines()
            if line.startswith("engineroom_sidecar_quota_requests_total{")
        }
        assert counted["o", "would_refuse"] == counted["w", "would_refuse"] == 2
        assert counted["b", "refused"] == 1
        assert counted["b", "admitted"] == counted["o", "admitted"] == 3


# waiting


def queue(**more: Any) -> dict[str, Any]:
    return {"queue": {"deadline_seconds": 5, "classes": ["interactive", "batch"], **more}}


async def waiting(proxy: Proxy, count: int) -> None:
    await until(lambda: len(proxy.forwarder.quotas.room) == count)


async def test_who_waits_is_served_by_class_and_then_by_arrival() -> None:
    order: list[str] = []
    async with gateway("hold", quotas=rule(concurrent_requests=1, **queue())) as (proxy, (engine,)):

        async def one(name: str, priority: str) -> None:
            answer = await ask(proxy, f"x-name: {name}\r\nx-engineroom-priority: {priority}\r\n")
            assert answer.status == 200
            order.append(name)

        async with held(proxy, engine, 1), anyio.create_task_group() as group:
            for number, (name, priority) in enumerate(
                (("b1", "batch"), ("i1", "interactive"), ("b2", "nonsense"), ("i2", "interactive")), 1
            ):
                group.start_soon(one, name, priority)
                await waiting(proxy, number)
            assert len(engine.heard) == 1
            engine.let_go.set()
        assert order == ["i1", "i2", "b1", "b2"]
        assert [message.field("x-name") for message in engine.heard[1:]] == order
        found = await ended(proxy, 5)
        waits = sorted(seen.queued_ns is not None for seen in found)
        assert waits == [False] + [True] * 4
        assert used(proxy)["concurrent"] == 0


async def test_the_deadline_of_the_queue_is_a_429_that_says_so() -> None:
    quotas = rule(concurrent_requests=1, **queue(deadline_seconds=0.2))
    async with (
        gateway("hold", quotas=quotas) as (proxy, (engine,)),
        held(proxy, engine, 1) as (running,),
        connect(proxy.port) as client,
    ):
        answer = await say(client)
        assert (answer.status, answer.field("retry-after")) == (429, "1")
        assert json.loads(answer.body)["error"]["message"].startswith("It waited for 0.2 s. ")
        assert len(proxy.forwarder.quotas.room) == 0
        seen = await record(proxy)
        assert (seen.outcome, seen.status) == ("rejected", 429)
        engine.let_go.set()
        assert (await running.answer()).status == 200
        assert (await say(client)).status == 200  # the connection is as good as before


async def test_the_requests_own_deadline_ends_its_waiting() -> None:
    quotas = rule(concurrent_requests=1, **queue(deadline_seconds=30))
    async with (
        gateway("hold", quotas=quotas, request_timeout_seconds=0.5) as (proxy, (engine,)),
        connect(proxy.port) as client,
    ):
        # A request at the engine would run out of time too, perhaps first, and leave its place to this one.
        place = proxy.forwarder.quotas.admit(taken(), boot_ns())
        assert isinstance(place, Ticket)
        answer = await say(client)
        assert answer.status == 504
        assert len(proxy.forwarder.quotas.room) == 0
        assert [seen.outcome for seen in await ended(proxy, 1)] == ["timeout"]
        assert used(proxy)["concurrent"] == 1
        assert not engine.heard
        place.withdraw(boot_ns())
        assert used(proxy)["concurrent"] == 0


async def test_waiting_for_room_is_not_waiting_for_the_engines_first_byte() -> None:
    quotas = rule(concurrent_requests=1, **queue(deadline_seconds=30))
    async with (
        gateway("hold", quotas=quotas, first_byte_timeout_seconds=1) as (proxy, (engine,)),
        held(proxy, engine, 1) as (first,),
        connect(proxy.port) as second,
    ):
        await second.send(post(CHAT))
        await waiting(proxy, 1)
        assert (await first.answer()).status == 504  # the engine said nothing for a second
        await until(lambda: len(engine.heard) == 2)
        engine.let_go.set()
        assert (await second.answer()).status == 200


@pytest.mark.parametrize("abruptly", [False, True])
async def test_a_client_that_leaves_while_it_waits_frees_its_place(abruptly: bool) -> None:
    quotas = rule(concurrent_requests=1, **queue(max_waiting=1, deadline_seconds=30))
    async with gateway("hold", quotas=quotas) as (proxy, (engine,)), held(proxy, engine, 1) as (running,):
        async with connect(proxy.port) as client:
            await client.send(post(CHAT))
            await waiting(proxy, 1)
            full = await ask(proxy)
            assert full.status == 429
            assert "1 requests wait already" in json.loads(full.body)["error"]["message"]
            if abruptly:
                client.reset()
        await waiting(proxy, 0)
        async with connect(proxy.port) as client:
            await client.send(post(CHAT))
            await waiting(proxy, 1)
            engine.let_go.set()
            assert (await running.answer()).status == (await client.answer()).status == 200
        found = await ended(proxy, 4)
        assert sorted(seen.outcome for seen in found) == ["client_abort", "ok", "ok", "rejected"]
        assert len(engine.heard) == 2
        assert used(proxy)["concurrent"] == 0


async def test_pipelined_requests_wait_in_turn() -> None:
    quotas = rule(concurrent_requests=1, **queue(deadline_seconds=30))
    async with gateway("hold", quotas=quotas) as (proxy, (engine,)), held(proxy, engine, 1):
        async with connect(proxy.port) as client:
            await client.send(b"".join(post(CHAT, more=f"x-name: {number}\r\n") for number in range(3)))
            await waiting(proxy, 1)
            engine.let_go.set()
            for _ in range(3):
                assert (await client.answer()).body == BODY
        assert [message.field("x-name") for message in engine.heard] == [None, "0", "1", "2"]
        await ended(proxy, 4)


async def test_a_sidecar_that_ends_tells_those_who_wait() -> None:
    quotas = rule(concurrent_requests=1, **queue(deadline_seconds=30))
    statuses: list[int] = []

    async def hear(client: Wire) -> None:
        statuses.append((await client.answer()).status)

    async with (
        AsyncExitStack() as clients,
        anyio.create_task_group() as group,
        gateway("hold", quotas=quotas, drain_seconds=0.2) as (proxy, (engine,)),
    ):
        (running,) = await clients.enter_async_context(held(proxy, engine, 1))
        client = await clients.enter_async_context(connect(proxy.port))
        await client.send(post(CHAT))
        await waiting(proxy, 1)
        group.start_soon(hear, client)
        group.start_soon(hear, running)
    assert statuses == [503, 503]


# bodies


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", [0, 1, 70_000, MIB - 1, MIB + 1, 5 * MIB])
async def test_bodies_of_any_size_pass_whole_under_quotas(framing: str, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    head = b"POST /v1/completions HTTP/1.1\r\nhost: e\r\n"
    if framing == "length":
        request = head + b"content-length: %d\r\n\r\n" % size + body
    else:
        parts = [body[at : at + 100_000] for at in range(0, size, 100_000)]
        request = head + b"transfer-encoding: chunked\r\n\r\n"
        request += b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    quotas = rule(concurrent_requests=1, tokens_per_minute=10_000_000)
    async with gateway("good", quotas=quotas) as (proxy, (engine,)), connect(proxy.port) as client:
        for _ in range(2):
            await client.send(request)
            assert (await client.answer()).body == BODY
        assert [message.body == body for message in engine.heard] == [True, True]
        assert engine.heard[0].field("content-length" if framing == "length" else "transfer-encoding")
        found = await ended(proxy, 2)
        assert [seen.request_bytes for seen in found] == [size, size]
        assert used(proxy) == {"concurrent": 0, "tokens": 2 * USED}


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_large_upload_that_does_not_fit_is_refused_and_the_client_hears_it(framing: str) -> None:
    body = b"x" * (3 * MIB)
    head = b"POST /v1/completions HTTP/1.1\r\nhost: e\r\n"
    request = head + b"content-length: %d\r\n\r\n" % len(body) + body
    if framing == "chunked":
        request = head + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    async with gateway("hold", quotas=rule(concurrent_requests=1)) as (proxy, (engine,)), held(proxy, engine, 1):
        async with connect(proxy.port) as client:
            await client.send(request)
            answer = await client.answer()
            assert (answer.status, answer.field("connection")) == (429, "close")
            await client.until_closed()
        seen = await record(proxy)
        assert (seen.outcome, seen.status) == ("rejected", 429)
        assert len(engine.heard) == 1


async def test_a_large_upload_may_wait_too_and_is_not_read_meanwhile() -> None:
    quotas = rule(concurrent_requests=1, **queue())
    body = b'{"model":"tiny","x":"%b"}' % (b"x" * (30 * MIB))
    async with gateway("hold", quotas=quotas) as (proxy, (engine,)), held(proxy, engine, 1):
        async with connect(proxy.port) as client, anyio.create_task_group() as group:
            group.start_soon(client.send, post(body))
            await waiting(proxy, 1)
            (waits,) = [one for one in proxy.forwarder.active if one.upstream is None]
            assert waits._pending_bytes < 3 * MIB
            engine.let_go.set()
            assert (await client.answer()).body == BODY
        assert engine.heard[1].body == body
        found = await ended(proxy, 2)
        assert found[1].request_bytes == len(body)


@pytest.mark.parametrize(
    "body",
    [b'{"model":"tiny","x":"%b"}' % (b"x" * (2 * MIB)), b'{"model":"tiny","stream":1}', b'{"model":"tiny","n":NaN}'],
    ids=["long", "strange", "no-json"],
)
async def test_bodies_that_cannot_be_read_count_for_the_limits_of_their_model(body: bytes) -> None:
    """Some engines take what is only nearly right; of what is long its beginning says the model."""
    quotas = {"rules": [{"name": "m", "mode": "block", "model": "tiny", "requests_per_minute": 1}]}
    async with gateway("good", quotas=quotas) as (proxy, (engine,)):
        assert (await ask(proxy, body=body)).status == 200
        assert (await ask(proxy, body=body)).status == 429
        assert len(engine.heard) == 1
        assert [seen.model for seen in await ended(proxy, 2)] == ["tiny", "tiny"]


@pytest.mark.parametrize("size", [10, 2 * MIB])
async def test_expect_100_continue_is_answered_here_and_the_engine_does_not_see_it(size: int) -> None:
    async with gateway("good", quotas=rule(requests_per_minute=1)) as (proxy, (engine,)), connect(proxy.port) as client:
        request = post(b"x" * size, more="expect: 100-continue\r\n")
        at = request.index(b"\r\n\r\n") + 4
        for status in (200, 429):
            await client.send(request[:at])
            assert (await client.head()).status == 100
            await client.send(request[at:])
            answer = await client.answer()
            assert answer.status == status
        assert [message.field("expect") for message in engine.heard] == [None]
        assert len(engine.heard[0].body) == size


# what a request counts for when it goes wrong


async def test_what_never_reached_the_engine_counts_for_nothing() -> None:
    quotas = rule(requests_per_minute=5, tokens_per_minute=1000)
    async with sidecar(f"http://127.0.0.1:{free_port()}", quotas=quotas) as proxy:
        for _ in range(8):
            assert (await ask(proxy)).status == 502
        assert used(proxy) == {"requests": 0, "tokens": 0}


@pytest.mark.parametrize("mood", ["reset", "close", "half", "garbage", "broken", "busy"])
async def test_however_the_engine_fails_the_room_is_free_again(mood: Any) -> None:
    quotas = rule(concurrent_requests=1)
    async with gateway(mood, quotas=quotas) as (proxy, (engine,)):
        for number in range(3):
            async with connect(proxy.port) as client:
                await client.send(post(b'{"model":"tiny","stream":true}'))
                head = await client.head()
                assert head.status in (200, 500, 502, 503)
            await until(lambda: len(records(proxy)) == number + 1 and not proxy.forwarder.active)  # noqa: B023
            assert used(proxy)["concurrent"] == 0
        assert len(engine.heard) == 3
