"""Start, death and restart of engines as the scraper tells them: by their processes, with and without an address."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from agent.collect.engines.fetch import engine_session
from agent.collect.engines.scraper import EngineScraper
from agent.collect.engines.targets import EngineTarget
from agent.core.engine_life import EngineLife
from tests.support.child import child
from tests.support.engine_scrape import NOWHERE, VLLM_PAGE, Seen
from tests.support.http import answer, told_server

UP = {"/metrics": answer(VLLM_PAGE), "/health": answer(b"")}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with engine_session() as opened:
        yield opened


@pytest.fixture
def seen() -> Seen:
    return Seen()


def of(target: EngineTarget, seen: Seen, session: aiohttp.ClientSession) -> EngineScraper:
    return EngineScraper(target, seen, session, NOWHERE)


async def test_from_the_start_of_its_process_to_ready_to_its_end(seen: Seen, session: aiohttp.ClientSession) -> None:
    with child() as process:
        async with told_server() as free:
            port = free.port
        target = EngineTarget(
            url=f"http://127.0.0.1:{port}", kind="vllm", found_by="process", pids=(process.pid,), timeout_seconds=1
        )
        subject = of(target, seen, session)
        await subject.step()
        status = seen.last.status
        assert (status.state, status.live, status.ready, status.started) == ("starting", False, False, False)
        assert "Its process runs, so it may still load its model" in status.reason
        assert status.pids == (process.pid,)

        async with told_server({"/metrics": answer(VLLM_PAGE), "/health": answer(b"", status=503)}, port) as server:
            await subject.step()
            status = seen.last.status
            assert (status.state, status.live, status.ready, status.started) == ("starting", True, False, False)
            assert "/health of vLLM answers 503" in status.reason
            assert seen.last.readings  # what its page shows is shown

            server.replies["/health"] = answer(b"")
            await subject.step()
            status = seen.last.status
            assert (status.state, status.live, status.ready, status.started) == ("ready", True, True, True)
            assert status.ready_after_seconds is not None
            assert 0 < status.ready_after_seconds < 60

            server.replies["/health"] = answer(b"", status=503)  # its engine has died, its page goes on
            await subject.step()
            assert (seen.last.status.state, seen.last.status.started) == ("not_ready", True)
        await subject.step()
        status = seen.last.status
        assert (status.state, status.pids, status.restarts) == ("down", (process.pid,), 0)
    await subject.step()
    assert (seen.last.status.state, seen.last.status.pids) == ("down", ())


async def test_a_new_process_is_a_restart(seen: Seen, session: aiohttp.ClientSession) -> None:
    async with told_server(dict(UP)) as server:
        target = EngineTarget(url=server.url, found_by="process", kind="vllm")
        life = EngineLife()
        subject = EngineScraper(target, seen, session, NOWHERE, life=life)
        for started, pid in ((10, 2**22 + 1), (10, 2**22 + 1), (60, 2**22 + 2)):
            subject.retarget(
                EngineTarget(
                    url=server.url, found_by="process", kind="vllm", pids=(pid,), started_at_ns=started * 10**9
                )
            )
            await subject.step()
    assert (seen.last.status.restarts, seen.last.status.pids) == (1, (2**22 + 2,))
    assert life.restarts == 1


async def test_worker_lives_as_long_as_one_of_its_processes(seen: Seen, session: aiohttp.ClientSession) -> None:
    with child() as first, child() as second:
        target = EngineTarget(
            name="vllm 10.0.0.1:29500", kind="vllm", found_by="process", part="worker", pids=(first.pid, second.pid),
            group="10.0.0.1:29500", nodes=2, node_rank=1,
        )  # fmt: skip
        subject = of(target, seen, session)
        await subject.step()
        status = seen.last.status
        assert (status.state, status.part, status.live, status.kind) == ("ready", "worker", True, "vllm")
        assert (status.group, status.nodes, status.node_rank) == ("10.0.0.1:29500", 2, 1)
        assert status.pids == (first.pid, second.pid)
        first.kill()
        first.wait()
        await subject.step()
        assert (seen.last.status.state, seen.last.status.pids) == ("ready", (second.pid,))
    await subject.step()
    status = seen.last.status
    assert (status.state, status.live, status.reason) == ("down", False, "its processes have ended")


async def test_server_out_of_reach_keeps_its_gpus_and_says_why(seen: Seen, session: aiohttp.ClientSession) -> None:
    with child() as process:
        target = EngineTarget(
            name="o", kind="ollama", found_by="process", pids=(process.pid,), unreachable="put the sidecar beside it"
        )
        subject = of(target, seen, session)
        await subject.step()
        status = seen.last.status
        assert (status.state, status.reason, status.live) == ("unknown_format", "put the sidecar beside it", None)
        assert status.pids == (process.pid,)
        assert [advice.signal for advice in status.advice] == ["address"]
        assert subject.scrapes == {"ok": 0, "no_metrics": 0, "failed": 0}


async def test_server_that_does_not_listen_yet_is_starting_until_it_does(
    seen: Seen, session: aiohttp.ClientSession
) -> None:
    with child() as process:
        loading = EngineTarget(
            name="v", kind="vllm", found_by="process", pids=(process.pid,), listens=False, unreachable="does not listen"
        )
        subject = of(loading, seen, session)
        await subject.step()
        assert (seen.last.status.state, seen.last.status.reason) == ("starting", "does not listen")
        async with told_server(dict(UP)) as server:
            subject.retarget(
                EngineTarget(name="v", url=server.url, kind="vllm", found_by="process", pids=(process.pid,))
            )
            await subject.step()
        status = seen.last.status
        assert (status.state, status.started, status.engine) == ("ready", True, "v")
        assert status.ready_after_seconds is not None
        subject.retarget(loading)
        await subject.step()
        assert (seen.last.status.state, seen.last.status.live) == ("not_ready", False)


async def test_generating_is_asked_only_where_it_is_allowed(seen: Seen, session: aiohttp.ClientSession) -> None:
    models = answer(b'{"data": [{"id": "m", "owned_by": "sglang"}]}')
    for allowed in (False, True):
        async with told_server({"/v1/models": models}) as server:
            target = EngineTarget(url=server.url, kind="sglang")
            await EngineScraper(target, seen, session, NOWHERE, probe_generating=allowed).step()
            assert ("/health_generate" in server.asked) == allowed
