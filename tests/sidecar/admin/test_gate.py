"""The admin address over its real port: who may read, who may change, how often and how much; and what is recorded."""

import asyncio
import json
import socket
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.core.ports import ConfigError
from tests.support.callers import KEY, forged, header, settings
from tests.support.credentials import bearer, make_ca, service_account_token
from tests.support.sidecar import NOWHERE, Proxy, sidecar

ENGINE = "http://127.0.0.1:9"
REPLAY, DISCARD = "/admin/v1/dlq/replay", "/admin/v1/dlq/discard"
MAY = {"/metrics": {"metrics", "reader", "all"}, REPLAY: {"admin", "all"}, DISCARD: {"admin", "all"}}
WIDE = {"requests_per_second": 1e6, "burst": 10**6, "failures_per_minute": 1e6, "failures_burst": 10**6}


def guarded(folder: Path, **limits: Any) -> dict[str, Any]:
    """Settings with a token for each kind of caller."""
    given = settings(folder)
    return {"admin_auth": given.auth.model_dump(), "admin_limits": WIDE | limits}


async def ask(
    proxy: Proxy, path: str, headers: dict[str, str] | None = None, body: bytes = b'{"all":true}'
) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers of the answer to one request."""
    async with aiohttp.ClientSession() as session:
        method = "POST" if path.startswith("/admin") else "GET"
        url = f"http://127.0.0.1:{proxy.admin_port}{path}"
        given = {"content-type": "application/json", **(headers or {})}
        async with session.request(method, url, headers=given, data=body if method == "POST" else None) as answer:
            return answer.status, await answer.text(), {k.lower(): v for k, v in answer.headers.items()}


async def test_each_path_is_open_to_those_with_its_scope_alone(tmp_path: Path) -> None:
    async with sidecar(ENGINE, **guarded(tmp_path)) as proxy:
        for path, callers in MAY.items():
            for name in ("metrics", "cost", "acme", "zeta", "ingest", "admin", "reader", "all"):
                status, text, _ = await ask(proxy, path, header(name))
                assert status == (200 if name in callers else 403), (path, name, text)
        for path, expected in (("/livez", 200), ("/readyz", 503)):  # no engine is there
            assert (await ask(proxy, path))[0] == expected


async def test_nobody_comes_in_with_forged_credentials_and_nothing_breaks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with sidecar(ENGINE, **guarded(tmp_path)) as proxy:
        for what, value in forged().items():
            for path in MAY:
                status, text, headers = await _ask_raw(proxy, path, value)
                assert status in (400, 401, 403), (what, path, text)
                if status == 401:
                    assert headers["content-type"].startswith("application/problem+json")
                    assert "Bearer" in headers["www-authenticate"]
                    assert "Traceback" not in text
        status, _, _ = await ask(proxy, "/metrics", {"Authorization": bearer(service_account_token(KEY))})
        assert status == 403  # a good token, whose account may only send records
        assert (await ask(proxy, "/metrics"))[0] == 401
        assert (await ask(proxy, "/nothing"))[0] == 401
        assert (await ask(proxy, "/nothing", header("all")))[0] == 404
    assert "Bearer" not in caplog.text  # nor is anything of it in the log


async def _ask_raw(proxy: Proxy, path: str, authorization: str) -> tuple[int, str, dict[str, str]]:
    """A header that a client library would refuse to send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.admin_port)
    method = "POST" if path.startswith("/admin") else "GET"
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 0\r\n"
    writer.write(head.encode() + b"Authorization: " + authorization.encode("latin-1") + b"\r\n\r\n")
    answer = (await reader.read()).decode("latin-1")
    writer.close()
    top, _, body = answer.partition("\r\n\r\n")
    lines = top.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return int(lines[0].split()[1]), body, headers


async def test_a_web_page_of_another_origin_changes_nothing() -> None:
    async with sidecar(ENGINE) as proxy:
        assert (await ask(proxy, DISCARD, {"content-type": "text/plain"}))[0] == 415
        for host in ("evil.example", f"evil.example:{proxy.admin_port}", ""):
            for path in MAY:
                assert (await ask(proxy, path, {"Host": host}))[0] == 421
        for host in ("localhost", "127.0.0.1:9481", "[::1]:9481", socket.gethostname()):
            assert (await ask(proxy, "/metrics", {"Host": host}))[0] == 200
        assert (await ask(proxy, "/livez", {"Host": "anything.at.all"}))[0] == 200


async def test_the_listeners_files_show_in_the_metrics(tmp_path: Path) -> None:
    async with sidecar(ENGINE, **guarded(tmp_path)) as proxy:
        _, text, _ = await ask(proxy, "/metrics", header("all"))
        assert 'engineroom_listener_unusable_files{listener="sidecar.admin"} 0.0' in text


async def test_two_authorization_headers_are_none(tmp_path: Path) -> None:
    async with sidecar(ENGINE, **guarded(tmp_path)) as proxy:
        good = header("all")["Authorization"]
        status, text, _ = await _ask_raw(proxy, "/metrics", f"{good}\r\nAuthorization: {good}")
        assert (status, "more than one" in text) == (401, True)


async def test_who_asks_or_guesses_too_often_has_to_wait(tmp_path: Path) -> None:
    guesses = guarded(tmp_path, failures_burst=3, failures_per_minute=1)
    async with sidecar(ENGINE, **guesses) as proxy:
        wrong = {"Authorization": "Bearer no-such-token-0123456789"}
        assert [(await ask(proxy, "/metrics", wrong))[0] for _ in range(5)] == [401, 401, 401, 429, 429]
        status, _, headers = await ask(proxy, "/metrics", header("all"))
        assert (status, int(headers["retry-after"]) > 0) == (429, True)  # a right guess is not looked at either
    async with sidecar(ENGINE, admin_limits={"burst": 2, "requests_per_second": 0.01}) as proxy:
        assert [(await ask(proxy, "/livez"))[0] for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"all":"yes"}', b'{"numbers":["a"]}', b'{"numbers":[1],"all":true}', b"{}", b'{"every":1}'],
)
async def test_a_body_that_says_nothing_clear_changes_nothing(body: bytes) -> None:
    async with sidecar(ENGINE) as proxy:
        status, text, headers = await ask(proxy, DISCARD, body=body)
        assert status == 400, text
        assert headers["content-type"].startswith("application/problem+json")


async def test_a_body_that_is_too_large_is_not_read() -> None:
    async with sidecar(ENGINE, admin_limits={"max_body_bytes": 1024}) as proxy:
        status, _, _ = await ask(proxy, DISCARD, body=b" " * 5000)
        assert status == 413


async def test_every_change_is_in_the_audit_log_before_it_happens(tmp_path: Path) -> None:
    async with sidecar(ENGINE, agent_url=NOWHERE, ship_drain_seconds=0, **guarded(tmp_path)) as proxy:
        await ask(proxy, DISCARD, header("admin"), b'{"numbers":[3,1]}')
        await ask(proxy, REPLAY, header("reader"))
        lines = [json.loads(line) for line in (proxy.folder / "audit.jsonl").read_text().splitlines()]
    told = [(line["name"], line["action"], line["target"], line["result"]) for line in lines]
    assert told == [("admin", "dlq discard", "3,1", "begun"), ("admin", "dlq discard", "3,1", "done")]


async def test_without_an_audit_log_nothing_is_changed() -> None:
    async with sidecar(ENGINE) as proxy:
        (proxy.folder / "audit.jsonl").mkdir()
        status, text, _ = await ask(proxy, DISCARD)
        assert (status, "cannot be recorded" in text) == (503, True)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
async def test_it_does_not_listen_elsewhere_without_credentials(address: str) -> None:
    with pytest.raises(ConfigError, match=r"sidecar\.admin_listen.*allow_unauthenticated: true"):
        async with sidecar(ENGINE, admin_listen=address):
            pass
    told = {"allow_unauthenticated": True}
    async with sidecar(ENGINE, admin_listen="0.0.0.0:0", admin_auth=told) as proxy:
        assert (await ask(proxy, "/metrics"))[0] == 200
        assert (await ask(proxy, DISCARD))[0] == 403  # changing things takes more than being let in


async def test_with_tls_a_certificate_is_a_name(tmp_path: Path) -> None:
    authority = make_ca()
    certificate, key = authority.issue("127.0.0.1").write(tmp_path, "server")
    mine, my_key = authority.issue("scraper", client=True).write(tmp_path, "client")
    given = {
        "admin_tls": {
            "certificate_file": certificate,
            "key_file": key,
            "client_ca_file": authority.write(tmp_path),
            "require_client_certificate": False,
        },
        "admin_auth": {"certificates": [{"name": "scraper", "scopes": ["metrics"]}]},
    }
    async with sidecar(ENGINE, **given) as proxy:
        context = ssl.create_default_context(cafile=str(authority.write(tmp_path)))
        stranger = aiohttp.TCPConnector(ssl=context)
        known = ssl.create_default_context(cafile=str(authority.write(tmp_path)))
        known.load_cert_chain(mine, my_key)
        for connector, status in ((stranger, 401), (aiohttp.TCPConnector(ssl=known), 200)):
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.get(f"https://127.0.0.1:{proxy.admin_port}/metrics") as answer,
            ):
                assert answer.status == status


async def test_a_connection_that_never_finishes_its_head_is_closed() -> None:
    async with sidecar(ENGINE, admin_limits={"head_timeout_seconds": 0.2}) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.admin_port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: ")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_more_connections_than_allowed_are_turned_away() -> None:
    async with sidecar(ENGINE, admin_limits={"max_connections": 2}) as proxy:
        held = [await asyncio.open_connection("127.0.0.1", proxy.admin_port) for _ in range(2)]
        status = (await ask(proxy, "/livez"))[0]
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        assert status == 503
        statuses: list[int] = []

        async def ask_again() -> None:
            statuses.append((await ask(proxy, "/livez"))[0])

        await ask_again()
        while statuses[-1] != 200 and len(statuses) < 50:
            await ask_again()
        assert statuses[-1] == 200
