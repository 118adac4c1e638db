"""The scraper against servers that behave and servers that do not, and against the real llama.cpp."""

import gzip
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from agent.clock import NS, boot_ns
from agent.collect.engine import EngineScraper
from agent.collect.ports_of import PortOwners
from agent.collect.targets import EngineTarget
from agent.core.metrics.exposition import Exposition
from agent.core.metrics.samples import Sample
from agent.core.readings import EngineSnapshot
from tests.support.http import Reply, ToldServer, answer, drip, raw, told_server
from tests.support.llamacpp import MODEL, llama_server

VLLM_PAGE = (Path(__file__).parents[1] / "engines/vllm/0.33.0/metrics.prom").read_bytes()
BOMB = gzip.compress(b"a 1\n" * 25_000_000)  # 100 MB in 100 kB
LLAMA_PAGE = b"# TYPE llamacpp:requests_processing gauge\nllamacpp:requests_processing 1\n"


@dataclass
class Seen:
    """What a scraper handed over."""

    snapshots: list[EngineSnapshot] = field(default_factory=list)
    samples: list[tuple[Sample, ...]] = field(default_factory=list)

    def __call__(self, snapshot: EngineSnapshot, samples: tuple[Sample, ...]) -> None:
        self.snapshots.append(snapshot)
        self.samples.append(samples)

    @property
    def last(self) -> EngineSnapshot:
        return self.snapshots[-1]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
def seen() -> Seen:
    return Seen()


def scraper(
    server: ToldServer, seen: Seen, session: aiohttp.ClientSession, *, kind: str = "auto", timeout: float = 4.0
) -> EngineScraper:
    target = EngineTarget(url=server.url, kind=kind, timeout_seconds=timeout)
    return EngineScraper(target, seen, session, PortOwners(Path("/nowhere")))


async def test_page_becomes_readings_and_labelled_samples(seen: Seen, session: aiohttp.ClientSession) -> None:
    version = answer(b'{"version": "0.33.0"}')
    async with told_server({"/metrics": answer(VLLM_PAGE), "/version": version}) as server:
        await scraper(server, seen, session).step()
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
        await scraper(server, seen, session).step()
    assert seen.last.status.state == "ready"
    assert len(seen.last.readings) == 1


# what the server does -> state, and words of the reason that say what to do
HOSTILE: dict[str, tuple[Reply, str, list[str]]] = {
    "nothing": (raw(b""), "down", ["closed the connection without an answer"]),
    "no http": (raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "down", ["does not speak HTTP"]),
    "drip": (drip(VLLM_PAGE, 0.05), "down", ["within 0.5 s", "timeout_seconds"]),
    "too short": (answer(VLLM_PAGE, length=len(VLLM_PAGE) + 100), "down", ["broke off"]),
    "bad gzip": (answer(b"no gzip", Content_Encoding="gzip"), "down", ["damaged"]),
    "flood": (answer(b"a 1\n" * 4_500_000), "down", ["more than 16777216 bytes"]),
    "bomb": (answer(BOMB, Content_Encoding="gzip"), "down", ["more than 16777216 bytes"]),
    "endless head": (raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000), "down", ["does not speak HTTP"]),
    "html": (answer(b"<!doctype html><html><title>Hi</title>"), "unknown_format", ["this is HTML, not metrics"]),
    "json": (answer(b'{"detail": "hello"}'), "unknown_format", ["this is JSON, not metrics"]),
    "binary": (answer(bytes(range(256)) * 20), "unknown_format", ["binary data"]),
    "garbage": (answer(b"lorem ipsum dolor\n" * 50), "unknown_format", ["line 1", "lorem ipsum"]),
    "empty": (answer(b""), "unknown_format", ["the page is empty"]),
    "other server": (answer(b"node_load1 0.5\n"), "unknown_format", ["1 series", "--disable-log-stats", "--metrics"]),
    "redirect": (answer(b"", status=302, Location="http://there/x"), "unknown_format", ["redirects to http://there/x"]),
    "redirect nowhere": (answer(b"", status=301), "unknown_format", ["redirects to nowhere"]),
    "401": (answer(b"", status=401), "unknown_format", ["token_file", "--metrics"]),
    "403": (answer(b"", status=403), "unknown_format", ["token_file"]),
    "404": (answer(b"", status=404), "unknown_format", ["answers 404", "started with --metrics"]),
    "501": (answer(b"", status=501), "unknown_format", ["answers 501", "started with --metrics"]),
    "503": (answer(b"", status=503), "not_ready", ["loading its model"]),
    "500": (answer(b"", status=500), "down", ["HTTP status 500"]),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_bad_server_gives_a_reason_and_withdraws_readings(
    case: str, seen: Seen, session: aiohttp.ClientSession
) -> None:
    reply, state, words = HOSTILE[case]
    async with told_server({"/metrics": answer(LLAMA_PAGE)}) as server:
        subject = scraper(server, seen, session, timeout=4.0 if case in ("flood", "bomb") else 0.5)
        await subject.step()
        assert len(seen.last.readings) == 1
        server.replies["/metrics"] = reply
        await subject.step()
        status = seen.last.status
        assert status.state == state
        assert [word for word in words if word not in status.reason and "--disable" not in word] == []
        assert seen.last.readings == ()
        assert seen.samples[-1] == ()
        assert status.kind == "llamacpp"
        assert status.scraped_at_ns == seen.snapshots[0].status.scraped_at_ns

        server.replies["/metrics"] = answer(LLAMA_PAGE)
        await subject.step()
        assert seen.last.status.state == "ready"
        assert len(seen.last.readings) == 1


async def test_unknown_page_names_the_options_of_every_engine(seen: Seen, session: aiohttp.ClientSession) -> None:
    async with told_server() as server:
        await scraper(server, seen, session).step()
    assert seen.last.status.kind is None
    assert "--disable-log-stats" in seen.last.status.reason
    assert "started with --metrics" in seen.last.status.reason


async def test_nobody_listens(seen: Seen, session: aiohttp.ClientSession) -> None:
    async with told_server() as server:
        pass
    await scraper(server, seen, session).step()
    assert seen.last.status.state == "down"
    assert "is the engine running" in seen.last.status.reason


async def test_name_that_does_not_resolve(seen: Seen, session: aiohttp.ClientSession) -> None:
    target = EngineTarget(url="http://no-such-host.invalid:1")
    await EngineScraper(target, seen, session, PortOwners(Path("/nowhere"))).step()
    assert seen.last.status.state == "down"
    assert "no-such-host.invalid" in seen.last.status.reason


async def test_page_of_another_kind_than_configured(seen: Seen, session: aiohttp.ClientSession) -> None:
    async with told_server({"/metrics": answer(LLAMA_PAGE)}) as server:
        await scraper(server, seen, session, kind="vllm").step()
    assert seen.last.status.state == "unknown_format"
    assert "is llamacpp" in seen.last.status.reason
    assert "kind: vllm" in seen.last.status.reason


async def test_faults_on_a_good_page_are_told_and_the_rest_is_used(seen: Seen, session: aiohttp.ClientSession) -> None:
    page = LLAMA_PAGE + b"llamacpp:requests_processing 3\nbroken line here\n"
    async with told_server({"/metrics": answer(page)}) as server:
        await scraper(server, seen, session).step()
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
        await scraper(server, seen, session, timeout=30).step()
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
        subject = scraper(server, seen, session)
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
        await scraper(server, seen, session).step()
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
        await EngineScraper(EngineTarget(url=server.url, kind="llamacpp"), seen, session).step()
    assert seen.last.status.state == "unknown_format"
    assert "started with --metrics" in seen.last.status.reason
