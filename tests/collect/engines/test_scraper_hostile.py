"""Servers that are broken, hostile or something else: each ends in a status that says what was wrong and what to do."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import grpc
import pytest

from agent.collect.engines.fetch import engine_session
from agent.core.metrics.series import History
from tests.support.credentials import make_ca
from tests.support.engine_scrape import LLAMA_PAGE, VLLM_PAGE, Seen, scraper
from tests.support.http import Reply, answer, drip, endless, held, raw, reset, told_server

BOMB = gzip.compress(b"a 1\n" * 25_000_000)  # 100 MB in 100 kB
SLOW = ("flood", "bomb", "endless")  # so much is sent that it takes time

# what the server does -> state, and words of the reason that say what to do
HOSTILE: dict[str, tuple[Reply, str, list[str]]] = {
    "nothing": (raw(b""), "down", ["closed the connection without an answer", "https://"]),
    "silent": (held, "down", ["did not answer in full within 0.5 s (0 bytes came)"]),
    "ssh": (raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "down", ["is an SSH server", "is the port right?"]),
    "mail": (raw(b"220 mail ESMTP\r\n"), "down", ["its first bytes are b'220 mail ESMTP'", "is the port right?"]),
    "tls alert": (raw(b"\x15\x03\x03\x00\x02\x02\x46"), "down", ["wants TLS: write https://"]),
    "http/2": (raw(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"), "down", ["HTTP/2", "gRPC port"]),
    "tls, said in http": (
        answer(b"Client sent an HTTP request to an HTTPS server.\n", status=400), "unknown_format", ["write https://"]
    ),
    "drip": (drip(VLLM_PAGE, 0.05), "down", ["within 0.5 s", "timeout_seconds"]),
    "too short": (answer(VLLM_PAGE, length=len(VLLM_PAGE) + 100), "down", ["broke off"]),
    "reset": (reset(VLLM_PAGE[:5000]), "down", ["broke off"]),
    "bad gzip": (answer(b"no gzip", Content_Encoding="gzip"), "down", ["damaged"]),
    "flood": (answer(b"a 1\n" * 5_000_000), "down", ["more than 16777216 bytes"]),
    "bomb": (answer(BOMB, Content_Encoding="gzip"), "down", ["more than 16777216 bytes"]),
    "endless": (endless, "down", ["more than 16777216 bytes"]),
    "a header of 1 MB": (raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000), "down", ["of its answer is too large"]),
    "1 MB of headers": (raw(b"HTTP/1.1 200 OK\r\n" + b"X-Y: z\r\n" * 130_000), "down", ["answer is too large"]),
    "html": (answer(b"<!doctype html><html><title>Hi</title>"), "unknown_format", ["this is HTML, not metrics"]),
    "json": (answer(b'{"detail": "hello"}'), "unknown_format", ["this is JSON, not metrics"]),
    "binary": (answer(bytes(range(256)) * 20), "unknown_format", ["binary data"]),
    "garbage": (answer(b"lorem ipsum dolor\n" * 50), "unknown_format", ["line 1", "lorem ipsum"]),
    "empty": (answer(b""), "unknown_format", ["the page is empty"]),
    "comments": (answer(b"# nothing yet\n"), "unknown_format", ["holds no samples"]),
    "other server": (answer(b"node_load1 0.5\n"), "unknown_format", ["1 series", "--metrics"]),
    "redirect": (answer(b"", status=302, Location="http://there/x"), "unknown_format", ["redirects to http://there/x"]),
    "redirect nowhere": (answer(b"", status=301), "unknown_format", ["redirects to nowhere"]),
    "401": (answer(b"", status=401), "unknown_format", ["token_file", "--metrics"]),
    "403": (answer(b"", status=403), "unknown_format", ["token_file"]),
    "404": (answer(b"", status=404), "unknown_format", ["answers 404", "started with --metrics"]),
    "501": (answer(b"", status=501), "unknown_format", ["answers 501", "started with --metrics"]),
    "503": (answer(b"", status=503), "not_ready", ["loading its model"]),
    "500": (answer(b"", status=500), "down", ["HTTP status 500"]),
}  # fmt: skip


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with engine_session() as opened:
        yield opened


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.mark.parametrize("case", HOSTILE)
async def test_bad_server_gives_a_reason_and_withdraws_readings(
    case: str, seen: Seen, session: aiohttp.ClientSession
) -> None:
    reply, state, words = HOSTILE[case]
    async with told_server({"/metrics": answer(LLAMA_PAGE)}) as server:
        subject = scraper(server.url, seen, session, timeout=10 if case in SLOW else 0.5)
        await subject.step()
        assert len(seen.last.readings) == 1
        server.replies["/metrics"] = reply
        await subject.step()
        status = seen.last.status
        assert status.state == state
        assert [word for word in words if word not in status.reason] == []
        assert f"{server.url}/metrics" in status.reason
        assert seen.last.readings == ()
        assert seen.samples[-1] == ()
        assert status.kind == "llamacpp"
        assert status.scraped_at_ns == seen.snapshots[0].status.scraped_at_ns

        server.replies["/metrics"] = answer(LLAMA_PAGE)
        await subject.step()
        assert seen.last.status.state == "ready"
        assert len(seen.last.readings) == 1
    assert subject.scrapes["ok"] == 2
    assert sum(subject.scrapes.values()) == 3


async def test_an_engine_that_serves_and_takes_20_s_for_its_page(seen: Seen, session: aiohttp.ClientSession) -> None:
    async with told_server({"/metrics": answer(LLAMA_PAGE), "/health": answer(b"")}) as server:
        subject = scraper(server.url, seen, session, timeout=0.5)
        await subject.step()
        server.replies["/metrics"] = held
        with anyio.fail_after(3):
            await subject.step()
    status = seen.last.status
    assert (status.state, status.live, status.ready) == ("ready", True, True)
    assert "did not answer in full within 0.5 s" in status.reason
    assert (seen.last.readings, seen.samples[-1]) == ((), ())
    assert subject.scrapes == {"ok": 1, "no_metrics": 0, "failed": 1}


@pytest.mark.parametrize("kind", ["auto", "llamacpp"])
async def test_a_port_that_says_nothing_at_all(kind: str, seen: Seen, session: aiohttp.ClientSession) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        host, port = listener.extra(anyio.abc.SocketAttribute.local_address)[:2]
        with anyio.fail_after(3):
            await scraper(f"http://{host}:{port}", seen, session, timeout=0.4, kind=kind).step()
    assert seen.last.status.state == "down"
    assert "(0 bytes came): the engine hangs" in seen.last.status.reason


def certified(folder: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    authority = make_ca()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(name).write(folder))
    return context, authority.write(folder)


@asynccontextmanager
async def plain_server(reply: Reply) -> AsyncIterator[str]:
    """Answers 400 to what is no HTTP, as web servers do, or holds it; its address, with the wrong scheme."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if reply is not held:
            await reader.read(100)
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await reply(reader, writer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("kind", ["auto", "llamacpp"])
async def test_the_wrong_scheme_names_the_right_one(
    kind: str, seen: Seen, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    context, _ = certified(tmp_path, "localhost")
    async with told_server(tls=context) as server:
        await scraper(server.url.replace("https", "http"), seen, session, kind=kind).step()
        assert seen.last.status.state == "down"
        assert "write https:// in its url" in seen.last.status.reason
        await scraper(server.url, seen, session, kind=kind).step()
        assert "is not trusted (" in seen.last.status.reason
        assert "SSL_CERT_FILE" in seen.last.status.reason
    for plain, words in ((raw(b""), "write http:// in its url"), (held, "0 bytes came")):
        async with plain_server(plain) as url:
            await scraper(url, seen, session, timeout=0.5, kind=kind).step()
            assert words in seen.last.status.reason
            assert "write http:// in its url" in seen.last.status.reason


async def test_an_engine_over_tls(seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, issuer = certified(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(issuer))
    trusting = aiohttp.TCPConnector(ssl=ssl.create_default_context())
    async with (
        told_server({"/metrics": answer(LLAMA_PAGE)}, tls=context) as server,
        aiohttp.ClientSession(connector=trusting) as session,
    ):
        await scraper(server.url.replace("127.0.0.1", "localhost"), seen, session).step()
    assert seen.last.status.state == "ready"


async def test_a_real_grpc_server(seen: Seen, session: aiohttp.ClientSession) -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await scraper(f"http://127.0.0.1:{port}", seen, session, timeout=1, kind="vllm").step()
    await server.stop(None)
    assert seen.last.status.state == "down"
    reason = seen.last.status.reason  # it sends its settings and resets the connection, which may overtake them
    assert "HTTP/2 only" in reason
    assert "gRPC port" in reason


BASE = (
    b"# TYPE vllm:num_requests_running gauge\n"
    b'vllm:num_requests_running{model_name="m"} 1\n'
    b"# TYPE vllm:generation_tokens_total counter\n"
    b'vllm:generation_tokens_total{model_name="m"} 100\n'
)
# the next page -> what is then told: models, running, output tokens, restarts
CHANGES: dict[str, tuple[bytes, list[str], float | None, float | None, int]] = {
    "nothing": (BASE, ["m"], 1, 100, 0),
    "a series vanishes": (BASE.replace(b'vllm:num_requests_running{model_name="m"} 1\n', b""), ["m"], None, 100, 0),
    "a type changes": (BASE.replace(b"tokens_total counter", b"tokens_total gauge"), ["m"], 1, None, 0),
    "twice": (BASE + b'vllm:num_requests_running{model_name="m"} 1\n', ["m"], 1, 100, 0),
    "twice, with another value": (BASE + b'vllm:num_requests_running{model_name="m"} 7\n', ["m"], 7, 100, 0),
    "backwards": (BASE.replace(b" 100", b" 40"), ["m"], 1, 40, 1),
    "NaN": (BASE.replace(b'"m"} 1\n', b'"m"} NaN\n'), ["m"], None, 100, 0),
    "a counter that is NaN": (BASE.replace(b" 100", b" NaN"), ["m"], 1, None, 0),
    "infinite": (BASE.replace(b" 100", b" +Inf"), ["m"], 1, None, 0),
    "renamed": (BASE.replace(b'"m"', b'"m2"'), ["m2"], 1, 100, 0),
}


@pytest.mark.parametrize("case", CHANGES)
async def test_what_may_happen_to_series(case: str, seen: Seen, session: aiohttp.ClientSession) -> None:
    page, models, running, tokens, restarts = CHANGES[case]
    history = History()
    async with told_server({"/metrics": answer(BASE)}) as server:
        subject = scraper(server.url, seen, session)
        for at, shown in enumerate((BASE, page, page)):
            server.replies["/metrics"] = answer(shown)
            await subject.step()
            history.append("engine", 1000 * (at + 1), seen.samples[-1])
    assert seen.last.status.state == "ready"
    assert [reading.model for reading in seen.last.readings] == models
    (reading,) = seen.last.readings
    assert reading.requests_running == running
    assert (reading.tokens_total or {}).get("output") == tokens
    assert seen.last.status.restarts == restarts
    assert history.stats.dropped_samples == {}


@pytest.mark.parametrize("start", [b"", b"process_start_time_seconds 1.7e9\n"], ids=["by its counters", "by its start"])
async def test_an_engine_restarted_under_another_version(
    start: bytes, seen: Seen, session: aiohttp.ClientSession
) -> None:
    old, new = answer(b'{"version": "0.10.2"}'), answer(b'{"version": "0.33.0"}')
    first = answer(BASE + start)
    later = BASE.replace(b" 100", b" 100" if start else b" 40") + start.replace(b"1.7e9", b"1.7001e9")
    async with told_server({"/metrics": first, "/version": old, "/health": answer(b"")}) as server:
        subject = scraper(server.url, seen, session)
        await subject.step()
        server.replies |= {"/metrics": answer(later), "/version": new}
        await subject.step()
        await subject.step()
    status = seen.last.status
    assert (status.version, status.restarts, status.state) == ("0.33.0", 1, "ready")


async def test_models_that_change_are_asked_about_anew(seen: Seen, session: aiohttp.ClientSession) -> None:
    old, new = answer(b'{"version": "0.10.2"}'), answer(b'{"version": "0.33.0"}')
    async with told_server({"/metrics": answer(VLLM_PAGE), "/version": old}) as server:
        subject = scraper(server.url, seen, session)
        await subject.step()
        server.replies |= {"/metrics": answer(BASE), "/version": new}
        await subject.step()
    assert (seen.last.status.version, seen.last.status.restarts) == ("0.33.0", 0)


async def test_an_engine_restarted_as_another_kind(seen: Seen, session: aiohttp.ClientSession) -> None:
    async with told_server({"/metrics": answer(VLLM_PAGE)}) as server:
        subject = scraper(server.url, seen, session)
        await subject.step()
        assert seen.last.status.kind == "vllm"
        server.replies["/metrics"] = answer(LLAMA_PAGE)
        await subject.step()
        assert (seen.last.status.kind, seen.last.status.state) == ("llamacpp", "ready")
        assert {sample.key.get("job") for sample in seen.samples[-1]} == {"llamacpp"}
        models = answer(b'{"data": [{"id": "m", "owned_by": "vllm"}]}')
        server.replies = {"/v1/models": models, "/health": answer(b"")}  # a vLLM that shows no metrics
        await subject.step()
    assert (seen.last.status.kind, seen.last.status.state) == ("vllm", "ready")
    assert "--disable-log-stats" in seen.last.status.reason
