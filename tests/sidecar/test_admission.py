"""Requests that wait here until they are whole, and those that only count."""

import os

import pytest

from tests.support.gateway import (
    BODY,
    CHAT,
    gateway,
    under_way,
)
from tests.support.sidecar import sidecar
from tests.support.upstream import Wire, connect, post, until, upstream, whole

TIMES = 10 if os.environ.get("ENGINEROOM_LONG") else 1
STREAMED = b'{"model":"tiny","stream":true,"messages":[]}'
MIB = 1 << 20


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
