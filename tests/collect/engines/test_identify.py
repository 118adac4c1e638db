"""An unknown server: first by the owner of its models, then by its page; nothing that drains is asked on the way."""

from dataclasses import replace

import anyio
import pytest

from agent.collect.engines.asking import Asker
from agent.collect.engines.diagnosis import Unread
from agent.collect.engines.fetch import engine_session
from agent.collect.engines.identify import harmless_first, identify, owner_of
from agent.collect.engines.look import Looker
from agent.collect.engines.targets import EngineTarget
from agent.engines.contract import EngineFile
from agent.engines.registry import ENGINES
from tests.support.engine_scrape import LLAMA_PAGE, MADE_UP, VLLM_PAGE
from tests.support.http import ToldServer, answer, held, raw, told_server

PAGE = answer(b"made_up_running 3\n")


async def found(server: ToldServer, engines: tuple[EngineFile, ...] = ENGINES, timeout: float = 2.0) -> str:
    async with engine_session() as session:
        asker = Asker(session, EngineTarget(url=server.url, timeout_seconds=timeout))
        await asker.begin()
        return (await identify(asker, Looker(asker, anyio.CapacityLimiter(1)), engines)).kind


@pytest.mark.parametrize("owner", [(engine, owner) for engine in ENGINES for owner in engine.owners], ids=str)
async def test_owner_of_the_models(owner: tuple[EngineFile, str]) -> None:
    body = b'{"object": "list", "data": [{"id": "m", "owned_by": "%b"}]}' % owner[1].encode()
    assert owner_of(body) is owner[0]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data": 3}', b'{"data": [{"owned_by": "nobody"}]}', b'{"data": []}'])
def test_nobodys_models(body: bytes) -> None:
    assert owner_of(body) is None


async def test_a_server_that_names_itself_is_asked_nothing_else() -> None:
    async with told_server({"/v1/models": answer(b'{"data": [{"owned_by": "llamacpp"}]}')}) as server:
        assert await found(server) == "llamacpp"
        assert server.asked == ["/v1/models"]


@pytest.mark.parametrize(("page", "kind"), [(VLLM_PAGE, "vllm"), (LLAMA_PAGE, "llamacpp")])
@pytest.mark.parametrize("models", [answer(b"", status=401), answer(b"<html>"), held])
async def test_by_its_page(page: bytes, kind: str, models: object) -> None:
    async with told_server({"/metrics": answer(page), "/v1/models": models}) as server:  # type: ignore[dict-item]
        assert await found(server) == kind


def test_paths_that_mean_something_else_to_some_engine_come_last() -> None:
    drains = replace(MADE_UP, kind="drains", metrics_paths=("/prometheus/metrics",), fallback_paths={"/metrics": dict})
    assert harmless_first((MADE_UP, drains)) == ["/new/metrics", "/prometheus/metrics", "/metrics"]


async def test_of_all_known_engines_the_draining_path_comes_last() -> None:
    """TensorRT-LLM's ``/metrics`` gives each figure once; with Prometheus on, it must not be asked at all."""
    async with told_server() as server:
        with pytest.raises(Unread, match="answers 404"):
            await found(server)
    drained = {path for engine in ENGINES for path in (*engine.state_paths, *engine.fallback_paths)}
    asked = [path for path in server.asked if path != "/v1/models"]
    assert [path in drained for path in asked] == sorted(path in drained for path in asked)


async def test_nobody_is_asked_twice_where_nothing_speaks_http() -> None:
    async with told_server({"/v1/models": raw(b"SSH-2.0-x\r\n")}) as server:
        with pytest.raises(Unread, match="SSH server") as raised:
            await found(server)
        assert server.asked == ["/v1/models"]
    assert raised.value.state == "down"
