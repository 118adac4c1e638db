from typing import Any

import aiohttp
import msgspec
import pytest

from agent.api.problems import Problem, in_prometheus_form, in_the_form_of
from tests.support.api import node, served


def test_a_problem_says_what_and_what_to_do():
    response = Problem(400, "Title", "Detail.", "Do this.", {"Retry-After": "1"}).response()
    assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json")
    assert response.headers["retry-after"] == "1"
    assert msgspec.json.decode(bytes(response.body)) == {
        "type": "about:blank",
        "title": "Title",
        "status": 400,
        "detail": "Detail.",
        "remedy": "Do this.",
    }


async def test_a_bug_is_a_problem_without_its_insides():
    def broken(_open_metrics: bool) -> bytes:
        raise RuntimeError("secret")

    async with served(node(render_metrics=broken)) as url, aiohttp.ClientSession(url) as api:
        async with api.get("/metrics") as answer:
            assert (answer.status, answer.content_type) == (500, "application/problem+json")
            assert "secret" not in await answer.text()
            assert "Traceback" not in await answer.text()
            assert (answer.headers["Cache-Control"], answer.headers["X-Content-Type-Options"]) == (
                "no-store",
                "nosniff",
            )
        async with api.get("/livez") as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("path", "is_prometheus"),
    [
        ("/api/v1/query", True),
        ("/api/v1/label/a/values", True),
        ("/api/v1/status/buildinfo", True),
        ("/api/v1/queryx", False),
        ("/api/v1/cost/report", False),
        ("/metrics", False),
    ],
)
def test_prometheus_paths_answer_in_its_form(path: str, is_prometheus: bool):
    assert in_prometheus_form(path) is is_prometheus
    response = in_the_form_of(path, Problem(429, "Title", "Detail.", "Do this.", {"Retry-After": "1"}))
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    body = msgspec.json.decode(bytes(response.body))
    if is_prometheus:
        assert body == {"status": "error", "errorType": "too_many_requests", "error": "Detail. Do this."}
    else:
        assert body["title"] == "Title"


async def test_a_bug_on_prometheus_paths_is_in_its_form():
    def broken() -> list[Any]:
        raise RuntimeError("secret")

    async with (
        served(node(rule_groups=broken)) as url,
        aiohttp.ClientSession(url) as api,
        api.get("/api/v1/rules") as answer,
    ):
        assert (answer.status, answer.content_type) == (500, "application/json")
        body = await answer.json()
    assert (body["status"], body["errorType"]) == ("error", "internal")
    assert "secret" not in body["error"]
