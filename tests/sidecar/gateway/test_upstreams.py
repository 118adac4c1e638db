"""Several engines behind one sidecar: who gets a request, by which Host, and what is said of each."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.clock import BillClock
from agent.core.ports import ConfigError
from agent.sidecar.gateway.upstreams import Upstreams
from agent.sidecar.settings import SidecarSettings
from tests.support.gateway import BODY, free_port, gateway, member, under_way
from tests.support.sidecar import Proxy, record, records, sidecar
from tests.support.upstream import Wire, connect, post, repeat, until, upstream, whole

CHAT = b'{"model":"tiny","messages":[]}'


def made(**settings: object) -> Upstreams:
    return Upstreams(SidecarSettings(**settings), BillClock(0, 0))  # type: ignore[arg-type] # of all types


async def ask(proxy: Proxy, times: int, body: bytes = CHAT, more: str = "") -> None:
    """One after the other, on one connection."""
    async with connect(proxy.port) as client:
        for _ in range(times):
            await client.send(post(body, more=more))
            assert (await client.answer()).body == BODY


@asynccontextmanager
async def at_once(proxy: Proxy, times: int) -> AsyncIterator[list[Wire]]:
    """So many requests at the same time, each on a connection of its own. Their answers are not read."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(proxy.port)) for _ in range(times)]
        for client in clients:
            await client.send(post(CHAT))
        yield clients


async def numbers(port: int) -> dict[tuple[str, str], float]:
    """What /metrics says of each engine, by name without its prefix, and engine."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        text = await answer.text()
    prefix = "engineroom_sidecar_upstream_"
    return {
        (sample.name.removeprefix(prefix), sample.labels["upstream"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(prefix) and "upstream" in sample.labels
    }


def test_a_single_engine_needs_no_list() -> None:
    one = made(upstream="http://10.0.0.7:8000")
    assert [pool.name for pool in one.pools] == [one.name] == ["10.0.0.7:8000"]
    assert (one.by_model, one.sticky_header, one.error) == (False, None, "")
    several = made(upstream="http://10.0.0.7:8000", upstreams=[{"url": "http://a:1"}, {"url": "unix:/run/b"}])
    assert [pool.name for pool in several.pools] == ["a:1", "unix:/run/b"]
    assert [engine.name for engine in several.engines] == ["a:1", "unix:/run/b"]
    assert [(door.address.name, door.host) for door in several.doors.values()] == [
        ("a:1", b"a:1"),
        ("unix:/run/b", b"localhost"),
    ]
    assert [engine.index for engine in several.engines] == [0, 1]


def test_what_the_settings_say_of_the_choice() -> None:
    of = made(upstreams=[{"url": "http://a:1", "models": ["m"]}], balance={"sticky_header": "X-Session-Id"})
    assert (of.by_model, of.sticky_header) == (True, b"x-session-id")


def test_tls_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"sidecar\.dial"):
        made(upstreams=[{"url": "https://a:1"}], dial={"tls": {"ca_file": tmp_path / "ca.pem"}})


def test_errors_of_all_engines_are_shown() -> None:
    of = made(upstreams=[{"url": "http://a:1"}, {"url": "http://b:1"}, {"url": "http://c:1"}])
    of.pools[0].reached("a is away")
    of.pools[2].reached("c is away")
    assert of.error == "a is away; c is away"
    of.pools[0].reached("")
    assert of.error == "c is away"


@pytest.mark.parametrize(("host", "own"), [("engine", True), ("keep", False), ("llm.internal:80", False)])
async def test_each_engine_gets_the_host_that_the_setting_says(host: str, own: bool) -> None:
    async with gateway("good", "good", "good", dial={"host": host}) as (proxy, members):
        await ask(proxy, 9)
        for one in members:
            wanted = one.name if own else {"keep": "engine"}.get(host, host)
            assert [message.field("host") for message in one.heard] == [wanted] * 3
            kept = {message.field("x-forwarded-host") for message in one.heard}
            assert kept == {"engine"}
        await until(lambda: len(records(proxy)) == 9)
        assert Counter(seen.upstream for seen in records(proxy)) == dict.fromkeys((m.name for m in members), 3)


async def test_an_engine_that_takes_over_gets_its_own_host() -> None:
    async with gateway("reset", "good", dial={"host": "engine"}) as (proxy, (bad, good)):
        await ask(proxy, 4)
        assert {message.field("host") for message in good.heard} == {good.name}
        assert {message.field("host") for message in bad.heard} == {bad.name}
        assert len(good.heard) == 4
        await until(lambda: len(records(proxy)) == 4)
        assert {seen.upstream for seen in records(proxy)} == {good.name}


async def test_one_request_at_a_time_goes_round_and_each_pool_keeps_its_connection() -> None:
    async with gateway("good", "good", "good") as (proxy, members):
        await ask(proxy, 12)
        assert [len(one.heard) for one in members] == [4, 4, 4]
        assert [one.at.connections for one in members] == [1, 1, 1]
        assert proxy.forwarder.upstreams.idle == 3
        assert [pool.idle for pool in proxy.forwarder.upstreams.pools] == [1, 1, 1]


async def test_the_engine_with_the_fewest_requests_under_way_is_chosen() -> None:
    async with gateway("hold", "good", "good") as (proxy, (slow, *quick)), at_once(proxy, 3):
        await until(lambda: sum(len(engine.heard) for engine in (slow, *quick)) == 3 and sum(under_way(proxy)) == 1)
        await ask(proxy, 10)
        assert (len(slow.heard), under_way(proxy)) == (1, [1, 0, 0])
        assert sum(len(engine.heard) for engine in quick) == 12
        slow.let_go.set()
        await until(lambda: under_way(proxy) == [0, 0, 0])


@pytest.mark.parametrize("pieces", [1, 2, 3], ids=["whole", "head-first", "in-pieces"])
async def test_a_request_goes_to_an_engine_of_its_model(pieces: int) -> None:
    """However it comes: most clients send a head and its body by two writes."""
    async with member() as small, member() as large, member() as any_model:
        entries = [{"url": small.url, "models": ["s"]}, {"url": large.url, "models": ["l", "xl"]}]
        async with (
            sidecar(small.url, upstreams=[*entries, {"url": any_model.url}], balance={"check": False}) as proxy,
            connect(proxy.port) as client,
        ):
            for model, wanted in (("s", {small, any_model}), ("xl", {large, any_model}), ("nobody-s", {any_model})):
                for number in range(4):
                    body = b'{"model":"%b","n":%d,"messages":[]}' % (model.encode(), number)
                    request = post(body)
                    at = request.index(b"\r\n\r\n") + 4
                    parts = {1: [request], 2: [request[:at], request[at:]]}.get(
                        pieces, [request[:at], request[at : at + 5], request[at + 5 :]]
                    )
                    for part in parts:
                        await client.send(part)
                        await until(lambda: pieces == 1 or bool(proxy.forwarder.active) or part is parts[-1])  # noqa: B023
                    assert (await client.answer()).status == 200
                    heard = [
                        one
                        for one in (small, large, any_model)
                        if b'"%b","n":%d' % (model.encode(), number) in b"".join(message.body for message in one.heard)
                    ]
                    assert len(heard) == 1
                    assert heard[0] in wanted, (model, number)
            assert small.heard
            assert large.heard


async def test_a_model_can_be_served_by_engines_of_its_own_only() -> None:
    async with member() as small, member() as large:
        entries = [{"url": small.url, "models": ["s"]}, {"url": large.url, "models": ["l"]}]
        async with sidecar(small.url, upstreams=entries, balance={"check": False}) as proxy:
            await ask(proxy, 6, b'{"model":"l"}')
            assert (len(small.heard), len(large.heard)) == (0, 6)
            await ask(proxy, 6, b'{"model":"s"}')
            assert (len(small.heard), len(large.heard)) == (6, 6)


async def test_equal_values_of_the_sticky_header_stay_together() -> None:
    settings = {"check": False, "sticky_header": "X-Session-Id"}
    async with gateway("good", "good", "good", balance=settings) as (proxy, members):
        for session in range(12):
            await ask(proxy, 3, more=f"x-session-id: s{session}\r\n")
        where: dict[str, set[str]] = {}
        for one in members:
            for message in one.heard:
                where.setdefault(message.field("x-session-id") or "", set()).add(one.name)
        assert len(where) == 12
        assert all(len(names) == 1 for names in where.values()), where
        assert len(set().union(*where.values())) > 1
        assert under_way(proxy) == [0, 0, 0]


async def test_each_engine_has_its_numbers() -> None:
    settings = {"check": False, "eject_after_failures": 2, "eject_seconds": 60}
    async with gateway("good", "broken", "hold", balance=settings) as (proxy, (good, broken, slow)), at_once(proxy, 3):
        await until(lambda: len(good.heard) == len(broken.heard) == slow.holding == 1 == sum(under_way(proxy)))
        async with connect(proxy.port) as client:
            for _ in range(8):
                await client.send(post(CHAT))
                await client.answer()
        said = await numbers(proxy.admin_port)
        assert said["requests_in_flight", slow.name] == 1
        assert said["requests_in_flight", good.name] == 0
        assert said["failures_total", broken.name] == 2
        assert said["ejections_total", broken.name] == 1
        assert (said["serving", broken.name], said["serving", good.name]) == (0, 1)
        assert said["chosen_total", broken.name] == len(broken.heard) == 2
        assert said["chosen_total", good.name] == len(good.heard)
        assert ("ready", good.name) not in said  # nobody asked
        slow.let_go.set()
        await until(lambda: under_way(proxy) == [0, 0, 0])


async def test_records_of_requests_that_no_engine_got_name_the_first() -> None:
    entries = [{"url": f"http://127.0.0.1:{free_port()}"} for _ in range(2)]
    async with (
        sidecar("http://127.0.0.1:9", upstreams=entries, balance={"check": False}) as proxy,
        connect(proxy.port) as client,
    ):
        await client.send(post(CHAT))
        answer = await client.answer()
        assert answer.status == 502
        seen = await record(proxy)
        assert (seen.outcome, seen.status) == ("error", 502)
        assert seen.upstream == proxy.forwarder.upstreams.name
        assert under_way(proxy) == [0, 0]


async def test_a_closed_set_keeps_no_connection() -> None:
    async with upstream(repeat(whole(b"{}"))) as engine:
        of = made(upstreams=[{"url": engine.url}, {"url": engine.url}])
        of.pools[0].give(await of.pools[0].connect(), 0)
        assert of.idle == 1
        of.close()
        assert of.idle == 0
