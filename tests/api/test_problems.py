import aiohttp
import msgspec

from agent.api.problems import Problem
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
        async with api.get("/livez") as answer:
            assert answer.status == 200
