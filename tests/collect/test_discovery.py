"""Discovery on a real loopback: what is found, what is left alone, what is said about the rest."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from agent.collect.discovery import Discovery
from agent.collect.targets import EngineTarget
from agent.engines.registry import ENGINES
from tests.support.http import answer, raw, told_server
from tests.support.llamacpp import llama_server

LLAMA_PAGE = answer(b"llamacpp:requests_processing 1\n")


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def test_engine_is_found_once_by_its_metrics_page_alone(session: aiohttp.ClientSession) -> None:
    found: list[EngineTarget] = []
    async with told_server({"/metrics": LLAMA_PAGE}) as server:
        discovery = Discovery(session, found.append, ports=[server.port])
        await discovery.step()
        await discovery.step()
    assert found == [EngineTarget(url=server.url, kind="llamacpp")]
    assert server.asked == ["/metrics"]


async def test_ports_that_are_not_asked_for_are_left_alone(session: aiohttp.ClientSession) -> None:
    found: list[EngineTarget] = []
    async with told_server({"/metrics": LLAMA_PAGE}) as ours, told_server({"/metrics": LLAMA_PAGE}) as other:
        await Discovery(session, found.append, ports=[ours.port], skip_ports=[ours.port]).step()
        assert found == []
        assert ours.asked == other.asked == []


async def test_what_is_no_engine_is_told_and_asked_again(session: aiohttp.ClientSession) -> None:
    found: list[EngineTarget] = []
    async with told_server() as server:
        discovery = Discovery(session, found.append, ports=[server.port], timeout_seconds=1)
        for reply, words in (
            (answer(b"", status=501), "started with --metrics"),
            (answer(b"<html>"), "this is HTML"),
            (answer(b"node_load1 1\n"), "none of an engine we know"),
            (raw(b""), "closed the connection"),
            (answer(b"", status=503), "loading its model"),
        ):
            server.replies["/metrics"] = reply
            await discovery.step()
            assert words in discovery.refused[server.port]
        server.replies["/metrics"] = LLAMA_PAGE
        await discovery.step()
    assert [target.kind for target in found] == ["llamacpp"]
    assert discovery.refused == {}


async def test_port_that_closed_is_forgotten(session: aiohttp.ClientSession) -> None:
    async with told_server() as server:
        discovery = Discovery(session, lambda _target: None, ports=[server.port])
        await discovery.step()
        assert server.port in discovery.refused
    await discovery.step()
    assert discovery.refused == {}


async def test_no_proc_finds_nothing(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    found: list[EngineTarget] = []
    await Discovery(session, found.append, proc=tmp_path).step()
    assert found == []


def test_default_ports_are_those_of_the_engine_files() -> None:
    assert {port for engine in ENGINES for port in engine.default_ports} == {8000, 8080}


async def test_real_llamacpp_is_found(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    found: list[EngineTarget] = []
    with llama_server(tmp_path) as server:
        await Discovery(session, found.append, ports=[server.port]).step()
        assert found == [EngineTarget(url=server.url, kind="llamacpp")]
