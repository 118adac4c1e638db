"""llama.cpp: its names for itself, and a page of the real server, read live."""

from pathlib import Path
from urllib.error import HTTPError

import pytest

from agent.core.metrics.exposition import Exposition
from agent.engines import llamacpp
from agent.engines.contract import About, Process, Recognised
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
        ({"/v1/models": b'{"data": [{"id": "org/c-GGUF:Q4_K_M"}]}'}, About(model="org/c-GGUF:Q4_K_M")),
        ({"/v1/models": b'{"data": [{"id": "a"}, {"id": "b"}]}'}, About()),  # a router: none is its own
        ({"/v1/models": b'{"data": [{"id": ""}]}', "/props": b'{"model_alias": "a"}'}, About(model="a")),
        ({"/v1/models": b'{"data": [{"id": 5}]}', "/props": b'{"build_info": 5}'}, About()),
    ],
)
def test_about(bodies: dict[str, bytes], expected: About) -> None:
    assert about_of(llamacpp.ENGINE, bodies) == expected


@pytest.mark.parametrize(
    ("meta", "parameters", "size"),
    [
        (b'{"n_params": 8030261248, "size": 16060522496}', 8030261248, 2.0),
        (b'{"n_params": 8030261248}', 8030261248, None),
        (b'{"n_params": 8030261248, "size": -1}', 8030261248, None),
        (b'{"n_params": 0, "size": 7}', None, None),
        (b'{"n_params": -5}', None, None),
        (b'{"size": 7}', None, None),
        (b"null", None, None),
    ],
)
def test_the_size_of_the_model(meta: bytes, parameters: float | None, size: float | None) -> None:
    shapes = about_of(llamacpp.ENGINE, {"/v1/models": b'{"data": [{"id": "a", "meta": ' + meta + b"}]}"}).shapes
    if parameters is None:
        assert shapes == {}
        return
    shape = shapes["a"]
    assert (shape.active_parameters, shape.bytes_per_parameter, shape.source) == (parameters, size, "engine")
    assert shape.kv_bytes_per_token is None


def test_the_size_that_a_real_server_told() -> None:
    body = (Path(__file__).parent / "llamacpp/2026.10/v1-models.json").read_bytes()
    (shape,) = about_of(llamacpp.ENGINE, {"/v1/models": body}).shapes.values()
    assert (shape.total_parameters, shape.bytes_per_parameter) == (123584, 4.0)


WORKER = Recognised(part="worker")
OF_OLLAMA = "/usr/lib/ollama/llama-server --model /root/.ollama/models/blobs/sha256-7b --port 36893 --host 127.0.0.1"
ELSEWHERE = OF_OLLAMA.replace("/usr/lib/ollama/", "/build/llama-server-cuda/bin/") + " --no-webui --offline -np 1"
LOOKING = "/usr/lib/ollama/llama-server --port 50001 --host 127.0.0.1 --no-webui --offline --verbose"


@pytest.mark.parametrize(
    ("command", "environ", "expected"),
    [
        ("llama-server -m /models/a.gguf --port 8081", {}, Recognised(port=8081, model="a.gguf")),
        ("/app/llama-server -m models/a.gguf -a org/a --metrics", {}, Recognised(model="org/a")),
        ("llama-server -hf org/a-GGUF:Q4_K_M", {"LLAMA_ARG_PORT": "9"}, Recognised(port=9, model="org/a-GGUF:Q4_K_M")),
        ("llama-server --port 8 -m b.gguf", {"LLAMA_ARG_PORT": "9"}, Recognised(port=8, model="b.gguf")),
        ("llama-server", {"LLAMA_ARG_PORT": "http"}, Recognised()),  # a router of several models
        ("llama-server -m /root/.ollama/models/blobs/sha256-7b", {}, Recognised(model="sha256-7b")),  # not by Ollama
        (OF_OLLAMA, {}, WORKER),
        (OF_OLLAMA, {"LLAMA_ARG_ENDPOINT_METRICS": "0"}, WORKER),
        (OF_OLLAMA, {"LLAMA_ARG_ENDPOINT_METRICS": "1"}, Recognised(port=36893)),
        (f"{OF_OLLAMA} --metrics", {}, Recognised(port=36893)),
        (ELSEWHERE, {}, WORKER),
        (ELSEWHERE, {"LLAMA_ARG_ENDPOINT_METRICS": "true"}, Recognised(port=36893)),
        (LOOKING, {"LLAMA_ARG_ENDPOINT_METRICS": "1"}, WORKER),
        ("python -m llama_cpp.server --model a.gguf", {}, None),  # another server, without these metrics
        ("llama-cli -m a.gguf", {}, None),
        ("grep llama-server", {}, None),
        ("", {}, None),
    ],
)
def test_command_lines(command: str, environ: dict[str, str], expected: Recognised | None) -> None:
    argv = tuple(command.split())
    name = argv[0].rpartition("/")[2][:15] if argv else "kworker"
    assert llamacpp.recognise(Process(pid=1, name=name, argv=argv, environ=environ)) == expected


def test_a_host_of_the_library_is_known_by_the_name_of_its_process() -> None:
    argv = ("/usr/bin/python", "-P", "engine.py", "--port", "8080")
    assert llamacpp.recognise(Process(pid=1, name="llama-server", argv=argv)) == Recognised(port=8080)


def test_slots_are_not_asked() -> None:
    assert "/slots" not in llamacpp.ENGINE.paths  # some builds answer with everybody's prompts


OLD = b"""llamacpp:prompt_tokens_total 5
llamacpp:tokens_predicted_total 7
llamacpp:kv_cache_usage_ratio 0.25
llamacpp:kv_cache_tokens 512
llamacpp:requests_processing 1
llamacpp:requests_deferred 2
llamacpp:n_busy_slots_per_decode 1.19
llamacpp:predicted_tokens_seconds 47.2
"""


def test_page_of_a_build_before_mid_2025() -> None:
    (reading,) = read_page(llamacpp.ENGINE, OLD)
    assert (reading.requests_running, reading.requests_waiting, reading.kv_cache_usage_ratio) == (1, 2, 0.25)
    assert reading.tokens_total == {"input": 5, "output": 7}  # cached ones are counted nowhere: absent, not 0


@pytest.mark.parametrize(
    ("page", "running"),
    [
        (OLD.replace(b"processing 1", b"processing NaN"), None),
        (OLD.replace(b"requests_processing 1\n", b"requests_running 1\n"), None),  # renamed
        (OLD + b"llamacpp:requests_processing 1\n", 1),  # twice
        (b"# TYPE llamacpp:requests_processing counter\n" + OLD, None),  # changed its type
        (OLD.replace(b"processing 1", b"processing one"), None),
    ],
)
def test_a_broken_series_takes_no_other_along(page: bytes, running: float | None) -> None:
    (reading,) = read_page(llamacpp.ENGINE, page)
    assert (reading.requests_running, reading.requests_waiting) == (running, 2)


def test_published_page_of_another_build(shared: Path) -> None:
    page = (shared / "captures" / "llamacpp" / "server-reconstructed.prom").read_bytes()
    (reading,) = read_page(llamacpp.ENGINE, page)
    assert reading.tokens_total == {"input": 4211, "output": 19022}
    assert (reading.requests_running, reading.requests_waiting) == (1, 0)


def test_metrics_that_are_off_are_said_to_be(tmp_path: Path) -> None:
    with llama_server(tmp_path, metrics=False) as server:
        with pytest.raises(HTTPError) as refused:
            server.get("/metrics")
        refused.value.close()
        assert refused.value.code == 501
        for path in (llamacpp.ENGINE.health.live, llamacpp.ENGINE.health.ready, *llamacpp.ENGINE.about_paths):
            assert path
            assert server.get(path)
    assert "--metrics" in llamacpp.ENGINE.metrics_hint


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
