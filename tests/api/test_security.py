import aiohttp
import pytest

from tests.support.api import node, served


@pytest.mark.parametrize("path", ["/", "/metrics", "/api/v1/alerts", "/ingest/v1/records"])
async def test_a_foreign_host_name_is_refused_with_what_to_do(path: str):
    async with served(node(hosts=frozenset({"Node-A"}))) as url, aiohttp.ClientSession(url) as api:
        async with api.get(path, headers={"Host": "evil.example"}) as answer:
            assert answer.status == 421
            body = await answer.json(content_type=None)
            assert "api.allowed_hosts" in body["remedy"]
        async with api.get("/metrics", headers={"Host": "node-a:9440"}) as answer:
            assert answer.status == 200


async def test_the_page_may_load_only_its_own(api: aiohttp.ClientSession):
    async with api.get("/") as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Server" not in answer.headers
