import signal
import socket
import ssl
from pathlib import Path

import aiohttp
import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from agent.api.doors import doors_of
from agent.api.server import STOP_SECONDS, listen, serve
from agent.core.ports import ConfigError
from agent.doors.settings import LimitSettings, TlsSettings
from agent.doors.tls import ServerTls
from tests.support.api import node, open_doors, served
from tests.support.callers import header, settings
from tests.support.credentials import Authority, make_ca


def test_a_taken_port_names_the_setting():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"api\.listen: cannot listen on 127\.0\.0\.1:{port}: .* choose another"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_a_host_that_is_not_ours_names_the_setting(host: str):
    with pytest.raises(ConfigError, match=r"api\.listen: cannot listen"):
        listen(host, 0)


async def test_it_serves_until_cancelled_and_frees_the_port():
    async with served(node()) as url, aiohttp.ClientSession(url) as client, client.get("/livez") as answer:
        assert answer.status == 200
    port = int(url.rpartition(":")[2])
    listen("127.0.0.1", port).close()


async def test_it_leaves_the_signals_alone():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with served(node()) as url, aiohttp.ClientSession(url) as client, client.get("/livez"):
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


async def test_a_running_request_is_finished_before_it_stops():
    running, finish = anyio.Event(), anyio.Event()

    async def slow(_request: Request) -> PlainTextResponse:
        running.set()
        await finish.wait()
        return PlainTextResponse("whole")

    got: list[str] = []
    port = await _stop_during(slow, running, finish, got)
    assert got == ["whole"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


async def test_a_request_that_never_ends_does_not_hold_it():
    running = anyio.Event()

    async def stuck(_request: Request) -> PlainTextResponse:
        running.set()
        await anyio.sleep_forever()
        raise AssertionError

    with anyio.fail_after(STOP_SECONDS + 4):
        await _stop_during(stuck, running, None, [])


async def _stop_during(handler, running: anyio.Event, finish: anyio.Event | None, got: list[str]) -> int:
    """Serve, ask, cancel while the request runs, then let it finish; the answer goes to `got`."""
    ports: list[int] = []
    listening = anyio.Event()

    def on_listening(_host: str, port: int) -> None:
        ports.append(port)
        listening.set()

    async def run(scope: anyio.CancelScope) -> None:
        with scope:
            await serve(Starlette(routes=[Route("/", handler)]), "127.0.0.1", 0, on_listening=on_listening)

    async def ask() -> None:
        try:
            async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{ports[0]}/") as answer:
                if answer.status == 200:
                    got.append(await answer.text())
        except aiohttp.ClientError:
            pass  # cut off, which is what the caller looks for

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(run, scope)
        await listening.wait()
        group.start_soon(ask)
        await running.wait()
        scope.cancel()
        if finish is not None:
            finish.set()
    return ports[0]


# TLS


@pytest.fixture
def authority() -> Authority:
    return make_ca()


def trusting(authority: Authority, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.pem.decode())
    if client is not None:
        context.load_cert_chain(*client)
    return context


def tls_settings(folder: Path, authority: Authority, **more: object) -> TlsSettings:
    certificate, key = authority.issue("localhost").write(folder)
    return TlsSettings.model_validate({"certificate_file": certificate, "key_file": key, **more})


async def test_https_with_a_certificate_that_may_change(tmp_path: Path, authority: Authority):
    now = [10**12]
    tls = ServerTls(tls_settings(tmp_path, authority), key="api.tls", boot_ns=lambda: now[0])
    async with served(node(), tls=tls) as url, aiohttp.ClientSession() as api:
        assert url.startswith("https://")
        async with api.get(f"{url}/metrics", ssl=trusting(authority)) as answer:
            assert answer.status == 200
            assert answer.headers["Strict-Transport-Security"] == "max-age=86400"
        # The same names are answered for as without TLS.
        async with api.get(f"{url}/metrics", ssl=trusting(authority), headers={"Host": "evil.example"}) as answer:
            assert answer.status == 421
        with pytest.raises(aiohttp.ClientError):
            await api.get(url.replace("https", "http") + "/metrics")
        other = make_ca("another")
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await api.get(f"{url}/metrics", ssl=trusting(other))
        other.issue("localhost").write(tmp_path)
        now[0] += 2 * 10**9
        async with api.get(f"{url}/metrics", ssl=trusting(other)) as answer:
            assert answer.status == 200


async def test_plain_http_is_not_told_to_stay_secure():
    async with served(node()) as url, aiohttp.ClientSession(url) as api, api.get("/") as answer:
        assert "Strict-Transport-Security" not in answer.headers


async def test_clients_come_in_by_their_certificates(tmp_path: Path, authority: Authority):
    more = {"client_ca_file": authority.write(tmp_path), "require_client_certificate": False}
    tls = tls_settings(tmp_path, authority, **more)
    named = [
        {"name": "scraper", "scopes": ["metrics"]},
        {"name": "spiffe://cluster/ns/bill/sa/acme", "scopes": ["cost"], "tenant": "acme"},
    ]
    ours = settings(tmp_path, tls=tls.model_dump(), auth={"certificates": named})
    scraper = authority.issue("scraper", client=True).write(tmp_path, "scraper")
    # The common name counts only without other names: this one is not the scraper.
    spiffe = authority.issue("scraper", client=True, uris=("spiffe://cluster/ns/bill/sa/acme",)).write(tmp_path, "uri")
    unknown = authority.issue("somebody", client=True).write(tmp_path, "unknown")
    foreign = make_ca("another").issue("scraper", client=True).write(tmp_path, "foreign")
    expired = authority.issue("scraper", client=True, to_seconds=-60).write(tmp_path, "expired")
    server_use = authority.issue("scraper").write(tmp_path, "server")

    async def status(url: str, client: tuple[Path, Path] | None, path: str, headers: dict[str, str]) -> int:
        context = trusting(authority, client)
        async with aiohttp.ClientSession(url) as api, api.get(path, ssl=context, headers=headers) as answer:
            return answer.status

    async with served(node(), doors_of(ours), ServerTls(tls, key="api.tls")) as url:
        assert await status(url, scraper, "/metrics", {}) == 200
        assert await status(url, scraper, "/api/v1/cost/report", {}) == 403
        assert await status(url, spiffe, "/api/v1/cost/report", {}) == 200
        assert await status(url, spiffe, "/api/v1/cost/prices", {}) == 403
        assert await status(url, spiffe, "/metrics", {}) == 403
        assert await status(url, unknown, "/metrics", {}) == 401
        assert await status(url, None, "/metrics", {}) == 401
        # A header counts before a certificate, also when it is wrong.
        assert await status(url, scraper, "/metrics", header("cost")) == 403
        assert await status(url, scraper, "/metrics", {"Authorization": "Bearer wrong-0123456789"}) == 401
        assert await status(url, None, "/metrics", header("metrics")) == 200
        for client in (foreign, expired, server_use):
            with pytest.raises(aiohttp.ClientError):
                await status(url, client, "/metrics", header("metrics"))


async def test_a_required_certificate_is_asked_for_before_anything_else(tmp_path: Path, authority: Authority):
    tls = tls_settings(tmp_path, authority, client_ca_file=authority.write(tmp_path))
    ours = settings(tmp_path, tls=tls.model_dump())
    async with served(node(), doors_of(ours), ServerTls(tls, key="api.tls")) as url, aiohttp.ClientSession(url) as api:
        with pytest.raises(aiohttp.ClientError):
            await api.get("/livez", ssl=trusting(authority))
        client = authority.issue("scraper", client=True).write(tmp_path, "scraper")
        async with api.get("/metrics", ssl=trusting(authority, client)) as answer:
            assert answer.status == 401


async def test_a_handshake_that_does_not_begin_is_ended(tmp_path: Path, authority: Authority):
    tls = ServerTls(tls_settings(tmp_path, authority), key="api.tls")
    doors = open_doors(limits=LimitSettings(head_timeout_seconds=0.2))
    async with (
        served(node(), doors, tls) as url,
        await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2])) as stream,
    ):
        with anyio.fail_after(10), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()
