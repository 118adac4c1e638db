import ssl
from pathlib import Path

import aiohttp
import pytest

from agent.api.dcgm import dcgm_doors
from agent.api.dcgm_settings import DcgmSettings
from agent.core.ports import ConfigError
from agent.doors.limits import RateLimiter
from agent.doors.settings import TlsSettings
from agent.doors.tls import ServerTls
from tests.support.api import open_doors
from tests.support.callers import token_of
from tests.support.credentials import bearer, make_ca, put
from tests.support.dcgm_server import served_dcgm

PAGE = b'DCGM_FI_DEV_GPU_TEMP{gpu="0"} 31\n'


def render() -> bytes:
    return PAGE


async def test_the_page_is_plain_text_of_version_0_0_4_whatever_is_asked_for():
    accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    async with served_dcgm(render) as url, aiohttp.ClientSession(url, headers=accept) as client:
        async with client.get("/metrics") as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert answer.headers["Cache-Control"] == "no-store"
            assert await answer.read() == PAGE
        async with client.head("/metrics") as answer:
            assert (answer.status, await answer.read()) == (200, b"")


async def test_a_large_page_is_compressed():
    async with (
        served_dcgm(lambda: PAGE * 1000) as url,
        aiohttp.ClientSession(url, auto_decompress=False) as client,
        client.get("/metrics", headers={"Accept-Encoding": "gzip"}) as answer,
    ):
        assert answer.headers["Content-Encoding"] == "gzip"
        assert len(await answer.read()) < 2000


async def test_each_scrape_gets_the_page_of_now():
    pages = iter([b"a 1\n", b"a 2\n"])
    async with served_dcgm(lambda: next(pages)) as url, aiohttp.ClientSession(url) as client:
        for expected in ("a 1\n", "a 2\n"):
            async with client.get("/metrics") as answer:
                assert await answer.text() == expected


async def test_health_follows_the_data():
    state = {"now": (True, "ok gpu 0\n")}
    async with served_dcgm(render, lambda: state["now"]) as url, aiohttp.ClientSession(url) as client:
        async with client.get("/health") as answer:
            assert (answer.status, await answer.text()) == (200, "ok gpu 0\n")
        state["now"] = (False, "fail gpu 0: lost\n")
        async with client.get("/health") as answer:
            assert (answer.status, await answer.text()) == (503, "fail gpu 0: lost\n")
        async with client.post("/health") as answer:
            assert answer.status == 405


@pytest.mark.parametrize("path", ["/", "/livez", "/api/v1/query", "/static/x.css", "/metricsx"])
async def test_nothing_else_is_there(path: str):
    async with served_dcgm(render) as url, aiohttp.ClientSession(url) as client, client.get(path) as answer:
        assert answer.status == 404


async def test_it_is_read_only():
    async with served_dcgm(render) as url, aiohttp.ClientSession(url) as client, client.post("/metrics") as answer:
        assert answer.status == 405
        assert "GET" in answer.headers["Allow"]


async def test_only_its_own_names_are_answered():
    async with served_dcgm(render) as url, aiohttp.ClientSession(url) as client:
        for host, status in {"gpu-node:9400": 200, "evil.example": 421}.items():
            for path in ("/metrics", "/health"):
                async with client.get(path, headers={"Host": host}) as answer:
                    assert answer.status == status, (host, path)


def guarded(folder: Path, *scopes: str) -> DcgmSettings:
    file = put(folder / "token", token_of("prometheus").encode())
    auth = {"tokens": [{"name": "prometheus", "file": file, "scopes": scopes}]}
    return DcgmSettings.model_validate({"listen": "0.0.0.0:9400", "auth": auth})


async def test_the_page_needs_the_scope_metrics_and_health_needs_nothing(tmp_path: Path):
    header = {"Authorization": bearer(token_of("prometheus"))}
    for scopes, status in ((("metrics",), 200), (("cost",), 403)):
        doors = dcgm_doors(guarded(tmp_path, *scopes))
        async with served_dcgm(render, doors=doors) as url, aiohttp.ClientSession(url) as client:
            async with client.get("/metrics") as answer:
                assert answer.status == 401
            async with client.get("/metrics", headers=header) as answer:
                assert answer.status == status
            async with client.get("/health") as answer:
                assert answer.status == 200
            async with client.get("/nothing") as answer:
                assert answer.status == 401


def test_a_token_that_cannot_be_read_names_the_setting(tmp_path: Path):
    settings = guarded(tmp_path, "metrics")
    (tmp_path / "token").unlink()
    with pytest.raises(ConfigError, match=r"exporters\.dcgm\.auth\.tokens"):
        dcgm_doors(settings)


async def test_who_asks_too_often_has_to_wait():
    doors = open_doors(requests=RateLimiter(0.001, 2))
    async with served_dcgm(render, doors=doors) as url, aiohttp.ClientSession(url) as client:
        statuses = []
        for path in ("/metrics", "/health", "/metrics", "/health"):
            async with client.get(path) as answer:
                statuses.append(answer.status)
        assert statuses == [200, 200, 429, 429]


async def test_it_speaks_tls(tmp_path: Path):
    authority = make_ca()
    certificate, key = authority.issue("localhost").write(tmp_path, "server")
    tls = ServerTls(TlsSettings(certificate_file=certificate, key_file=key), key="exporters.dcgm.tls")
    trust = ssl.create_default_context(cadata=authority.pem.decode())
    async with (
        served_dcgm(render, tls=tls) as url,
        aiohttp.ClientSession(url) as client,
        client.get("/metrics", ssl=trust) as answer,
    ):
        assert await answer.read() == PAGE
