"""The scraper against servers that behave and servers that do not, and against the real llama.cpp."""

import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from agent.clock import NS, boot_ns
from agent.collect.engines.fetch import engine_session
from agent.collect.engines.ports_of import PortOwners
from agent.collect.engines.scraper import EngineScraper
from agent.collect.engines.targets import EngineTarget
from agent.core.metrics.exposition import Exposition
from tests.support.engine_scrape import LLAMA_PAGE, VLLM_PAGE, Seen, scraper
from tests.support.http import Reply, answer, drip, told_server
from tests.support.llamacpp import MODEL, llama_server


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with engine_session() as opened:
        yield opened


@pytest.fixture
def seen() -> Seen:
    return Seen()


async def test_page_becomes_readings_and_labelled_samples(seen: Seen, session: aiohttp.ClientSession) -> None:
    version = answer(b'{"version": "0.33.0"}')
    async with told_server({"/metrics": answer(VLLM_PAGE), "/version": version}) as server:
        await scraper(server.url, seen, session).step()
        instance = f"127.0.0.1:{server.port}"
    status = seen.last.status
    assert (status.state, status.reason, status.kind, status.version) == ("ready", "", "vllm", "0.33.0")
    assert (status.engine, status.url) == (instance, server.url)
    assert status.scraped_at_ns is not None
    assert status.scrape_seconds is not None
    (reading,) = seen.last.readings
    assert reading.model == "meta-llama/Llama-3.1-8B-Instruct"
    assert reading.requests_running == 4
    assert {(s.key.get("instance"), s.key.get("job")) for s in seen.samples[-1]} == {(instance, "vllm")}


async def test_type_of_content_is_not_trusted_and_gzip_is_read(seen: Seen, session: aiohttp.ClientSession) -> None:
    page = answer(gzip.compress(VLLM_PAGE), Content_Encoding="gzip", Content_Type="application/octet-stream")
    async with told_server({"/metrics": page}) as server:
        await scraper(server.url, seen, session).step()
    assert seen.last.status.state == "ready"
    assert len(seen.last.readings) == 1


async def test_an_unknown_server_asks_for_its_kind(seen: Seen, session: aiohttp.ClientSession) -> None:
    async with told_server() as server:
        await scraper(server.url, seen, session).step()
    assert seen.last.status.kind is None
    assert "/metrics answers 404" in seen.last.status.reason
    assert "say which (engines.targets, kind)" in seen.last.status.reason


async def test_another_front_door_has_its_own_path_of_health(seen: Seen, session: aiohttp.ClientSession) -> None:
    """MII's RESTful gateway: the path that is not there is asked once, and never `/terminate`."""
    async with told_server({"/healthz": answer(b"ok")}) as server:
        subject = scraper(server.url, seen, session, kind="deepspeed_mii")
        await subject.step()
        await subject.step()
    assert (seen.last.status.state, seen.last.status.live) == ("ready", True)
    assert [path for path in server.asked if path != "/v1/models"] == ["/health", "/healthz", "/healthz"]


async def test_nobody_listens(seen: Seen, session: aiohttp.ClientSession) -> None:
    async with told_server() as server:
        pass
    await scraper(server.url, seen, session).step()
    assert (seen.last.status.state, seen.last.status.live) == ("down", False)
    assert "is the engine running" in seen.last.status.reason


async def test_name_that_does_not_resolve(seen: Seen, session: aiohttp.ClientSession) -> None:
    target = EngineTarget(url="http://no-such-host.invalid:1")
    await EngineScraper(target, seen, session, PortOwners(Path("/nowhere"))).step()
    assert seen.last.status.state == "down"
    assert "no-such-host.invalid" in seen.last.status.reason


async def test_page_of_another_kind_than_configured(seen: Seen, session: aiohttp.ClientSession) -> None:
    async with told_server({"/metrics": answer(LLAMA_PAGE)}) as server:
        await scraper(server.url, seen, session, kind="vllm").step()
    assert seen.last.status.state == "unknown_format"
    assert "is llamacpp" in seen.last.status.reason
    assert "kind: vllm" in seen.last.status.reason


async def test_faults_on_a_good_page_are_told_and_the_rest_is_used(seen: Seen, session: aiohttp.ClientSession) -> None:
    page = LLAMA_PAGE + b"llamacpp:requests_processing 3\nbroken line here\n"
    async with told_server({"/metrics": answer(page)}) as server:
        await scraper(server.url, seen, session).step()
    assert seen.last.status.state == "ready"
    assert "given twice: 1" in seen.last.status.reason
    assert "as 1 and as 3" in seen.last.status.reason
    assert "broken line here" in seen.last.status.reason
    assert seen.last.readings[0].requests_running == 3


async def test_ten_megabytes_do_not_hold_up_the_loop(seen: Seen, session: aiohttp.ClientSession) -> None:
    series = b"".join(b'vllm:num_requests_running{model_name="m",engine="%d"} 1.0\n' % n for n in range(190_000))
    assert len(series) > 10_000_000
    began = boot_ns()
    Exposition().parse(series)
    alone_seconds = (boot_ns() - began) / NS
    gaps: list[float] = []

    async def beat() -> None:
        before = boot_ns()
        while True:
            await anyio.lowlevel.checkpoint()
            now = boot_ns()
            gaps.append((now - before) / NS)
            before = now

    async with told_server({"/metrics": answer(series)}) as server, anyio.create_task_group() as group:
        group.start_soon(beat)
        await scraper(server.url, seen, session, timeout=30).step()
        group.cancel_scope.cancel()
    assert seen.last.status.state == "ready"
    assert "50000 series" in seen.last.status.reason
    assert len(seen.samples[-1]) == 50_000
    # Usually a fifth: 0.15 s of 0.75 s, and that is full garbage collections, which stop every thread. From the second
    # page on, nothing is laid out anew, and the longest gap is below 20 ms.
    assert max(gaps) < alone_seconds / 2


async def test_model_and_version_are_asked_once_and_again_after_a_restart(
    seen: Seen, session: aiohttp.ClientSession
) -> None:
    def page(tokens: int) -> Reply:
        return answer(b"llamacpp:prompt_tokens_total %d\n" % tokens)

    props, models = answer(b'{"build_info": "b1"}'), answer(b'{"data": [{"id": "/models/a.gguf"}]}')
    async with told_server({"/metrics": page(5), "/props": props, "/v1/models": models}) as server:
        subject = scraper(server.url, seen, session)
        await subject.step()
        await subject.step()
        assert server.asked.count("/props") == 1
        assert (seen.last.readings[0].model, seen.last.status.version) == ("a.gguf", "b1")
        server.replies |= {"/metrics": page(2), "/props": answer(b'{"build_info": "b2"}')}
        await subject.step()
        assert server.asked.count("/props") == 2
        assert seen.last.status.version == "b2"


async def test_about_that_hangs_does_not_fail_the_scrape(seen: Seen, session: aiohttp.ClientSession) -> None:
    async with told_server({"/metrics": answer(VLLM_PAGE), "/version": drip(b"x" * 1000, 0.05)}) as server:
        await scraper(server.url, seen, session).step()
    assert seen.last.status.state == "ready"
    assert seen.last.status.version is None
    assert len(seen.last.readings) == 1


async def test_token_is_sent_and_read_anew(seen: Seen, session: aiohttp.ClientSession, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    async with told_server({"/metrics": answer(LLAMA_PAGE)}) as server:
        target = EngineTarget(url=server.url, token_file=file)
        subject = EngineScraper(target, seen, session, PortOwners(Path("/nowhere")))
        await subject.step()
        assert "Authorization: Bearer first\r\n" in server.heads[0]
        for bad in ("two\nlines", "pass\u00e9"):
            file.write_text(bad)
            await subject.step()
            assert "one line of printable ASCII" in seen.last.status.reason
        file.unlink()
        await subject.step()
    assert seen.last.status.state == "down"
    assert "token_file" in seen.last.status.reason


def test_target_names() -> None:
    assert EngineTarget(url="http://[::1]:8000").instance == "[::1]:8000"
    assert EngineTarget(url="https://host").instance == "host:443"
    assert EngineTarget(url="http://host").engine == "host:80"
    assert EngineTarget(url="http://host:1", name="chat").engine == "chat"


async def test_real_llamacpp(seen: Seen, session: aiohttp.ClientSession, tmp_path: Path) -> None:
    with llama_server(tmp_path) as server:
        await anyio.to_thread.run_sync(server.complete, "hello", 12)
        await EngineScraper(EngineTarget(url=server.url), seen, session).step()
        status, (reading,) = seen.last.status, seen.last.readings
        assert (status.state, status.reason, status.kind) == ("ready", "", "llamacpp")
        assert status.version
        assert server.pid in status.pids
        assert reading.model == MODEL
        assert reading.tokens_total is not None
        assert reading.tokens_total["output"] == 12
        assert reading.requests_total is None  # llama.cpp does not count requests: absent, not 0


async def test_real_llamacpp_without_its_option(seen: Seen, session: aiohttp.ClientSession, tmp_path: Path) -> None:
    with llama_server(tmp_path, metrics=False) as server:
        await EngineScraper(EngineTarget(url=server.url), seen, session).step()
    status = seen.last.status
    assert (status.state, status.live, status.ready, status.kind) == ("ready", True, True, "llamacpp")
    assert "started with --metrics" in status.reason
    assert seen.last.readings == ()
    assert [(advice.signal, "--metrics" in advice.text) for advice in status.advice][:1] == [("metrics", True)]
