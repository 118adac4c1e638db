import aiohttp
import pytest

from agent.api.scrape import OPEN_METRICS, TEXT, wants_open_metrics

# What Prometheus 2.42 and 3 send.
V2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
V3_TEXT = "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        (V2, True),
        (V3_TEXT, False),
        ("text/plain;q=0.9,application/openmetrics-text;q=0.2", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=odd", False),
    ],
)
def test_negotiation(accept: str, wanted: bool):
    assert wants_open_metrics(accept) is wanted


async def test_both_forms_with_their_content_types(api: aiohttp.ClientSession):
    async with api.get("/metrics", headers={"Accept": V2}) as answer:
        assert answer.headers["Content-Type"] == OPEN_METRICS
        assert await answer.read() == b"# EOF\n"
    async with api.get("/metrics") as answer:
        assert answer.headers["Content-Type"] == TEXT
        assert await answer.read() == b"up 1\n" * 1000


async def test_large_answers_are_compressed_for_those_who_ask(api: aiohttp.ClientSession):
    async with api.get("/metrics", headers={"Accept-Encoding": "gzip"}) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert {"accept", "accept-encoding"} <= {part.strip().lower() for part in answer.headers["Vary"].split(",")}
    async with api.get("/metrics", headers={"Accept-Encoding": "identity"}) as answer:
        assert "Content-Encoding" not in answer.headers
    async with api.get("/metrics", headers={"Accept": V2, "Accept-Encoding": "gzip"}) as answer:
        assert "Content-Encoding" not in answer.headers  # not worth it
