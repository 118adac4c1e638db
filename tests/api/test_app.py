import aiohttp
import pytest

from agent.api.app import build_api
from tests.support.api import node, open_doors


def test_the_openapi_document_names_every_path():
    paths = build_api(node(), open_doors()).openapi()["paths"]
    assert {"/metrics", "/api/v1/query", "/api/v1/cost/report", "/ingest/v1/records", "/livez"} <= paths.keys()
    assert set(paths["/api/v1/query"]) == {"get", "post"}


async def test_docs_list_every_path_and_load_nothing_from_elsewhere(api: aiohttp.ClientSession):
    async with api.get("/docs") as answer:
        text = await answer.text()
    for path in build_api(node(), open_doors()).openapi()["paths"]:
        assert path in text
    assert "https://" not in text
    assert 'href="/openapi.json"' in text


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("POST", "/metrics", 405)])
async def test_unknown_paths_are_problems_too(api: aiohttp.ClientSession, method: str, path: str, status: int):
    async with api.request(method, path) as answer:
        assert answer.status == status
        assert answer.content_type == "application/problem+json"
        body = await answer.json(content_type=None)
    assert path in body["detail"]
    assert "/docs" in body["remedy"]
