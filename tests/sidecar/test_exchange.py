"""A request and its answer through a sidecar: counted at its engine until its end, any end."""

import os
from functools import partial
from typing import Literal, get_args

import anyio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.gateway import (
    Mood,
    ask,
    gateway,
    settled,
    under_way,
)
from tests.support.sidecar import Proxy, record, sidecar
from tests.support.upstream import Wire, connect, post, until, upstream

TIMES = 10 if os.environ.get("ENGINEROOM_LONG") else 1
STREAMED = b'{"model":"tiny","stream":true,"messages":[]}'
MIB = 1 << 20


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


async def test_what_an_engine_said_before_it_broke_off_is_kept() -> None:
    async with gateway("half") as (proxy, _):
        async with connect(proxy.port) as client:
            await client.send(post(STREAMED))
            await client.until_closed()
        seen = await record(proxy)
        assert (seen.outcome, seen.usage.output_tokens) == ("error", 1)
