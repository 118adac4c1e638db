"""llama.cpp: its names for itself, and a page of the real server, read live."""

from pathlib import Path

import pytest

from agent.core.metrics.exposition import Exposition
from agent.engines import llamacpp
from agent.engines.contract import About
from tests.support.engine_pages import about_of, read_page
from tests.support.llamacpp import MODEL, llama_server


@pytest.mark.parametrize(
    ("bodies", "expected"),
    [
        ({}, About()),
        ({"/props": b"<html>", "/v1/models": b"nothing"}, About()),
        ({"/props": b'{"build_info": "", "model_path": ""}'}, About()),
        ({"/props": b'{"build_info": "b7"}', "/v1/models": b'{"data": []}'}, About(version="b7")),
        ({"/props": b'{"model_path": "/models/a.gguf"}'}, About(model="a.gguf")),
        ({"/props": b'{"model_alias": "a", "model_path": "/m/b.gguf"}'}, About(model="a")),
        ({"/v1/models": b'{"data": [{"id": "/models/c.gguf"}]}', "/props": b"{}"}, About(model="c.gguf")),
    ],
)
def test_about(bodies: dict[str, bytes], expected: About) -> None:
    assert about_of(llamacpp.ENGINE, bodies) == expected


def test_real_server_counts_what_we_read(tmp_path: Path) -> None:
    with llama_server(tmp_path) as server:
        for _ in range(2):  # the second time, the prompt is in the cache
            usage = server.complete("the same prompt twice", 7)["usage"]
        bodies = {path: server.get(path) for path in llamacpp.ENGINE.about_paths}
        page = server.get("/metrics")
    scrape = Exposition().parse(page)
    assert llamacpp.matches(scrape, "/metrics")
    assert scrape.problems == ()
    (reading,) = read_page(llamacpp.ENGINE, page, bodies)
    assert reading.model == MODEL
    assert isinstance(usage, dict)
    tokens = reading.tokens_total
    assert tokens is not None
    assert tokens["output"] == 14
    assert tokens["input"] + tokens["input_cached"] == 2 * usage["prompt_tokens"]
    assert tokens["input_cached"] == usage["prompt_tokens_details"]["cached_tokens"]
    assert (reading.requests_running, reading.requests_waiting) == (0, 0)
    assert reading.requests_total is None
    assert reading.request_duration_seconds is None
