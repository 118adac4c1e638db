"""TensorRT-LLM's page and its iteration statistics: names of three generations, and what is never asked or added."""

from pathlib import Path

import pytest

from agent.core.metrics.exposition import Exposition
from agent.core.readings import EngineReading
from agent.engines.contract import About
from agent.engines.registry import classify
from agent.engines.trtllm import ENGINE, PROMETHEUS, matches
from tests.support.engine_pages import about_of, read_page

ITERATION = (
    b'{"iter":%d,"iterLatencyMS":7.0,"numActiveRequests":%d,"numQueuedRequests":2,"kvCacheStats":{"maxNumBlocks":200,'
    b'"usedNumBlocks":50,"freeNumBlocks":150,"tokensPerBlock":32}}'
)
OLD = 'request_success_total{model_name="undefined",engine_type="undefined",%s="stop"} 8\n'


def one(page: str) -> EngineReading:
    (reading,) = read_page(ENGINE, page.encode())
    return reading


@pytest.mark.parametrize("label", ["finished_reason", "finish_reason"])
def test_names_without_prefix_count_at_their_path_only(label: str) -> None:
    page = Exposition().parse(b"# TYPE request_success_total counter\n" + (OLD % label).encode())
    assert matches(page, PROMETHEUS)
    assert not matches(page, "/metrics")
    assert classify(page, PROMETHEUS) is ENGINE
    assert one(OLD % label).requests_total == {"ok": 8.0}


def test_prefix_is_recognised_anywhere() -> None:
    page = Exposition().parse(b'trtllm_num_requests_running{model_name="m"} 1\n')
    assert matches(page, "/metrics")
    assert not matches(Exposition().parse(b"other_requests_total 1\n"), PROMETHEUS)


def test_empty_page_is_a_page_so_that_nothing_is_drained() -> None:
    assert matches(Exposition().parse(b""), PROMETHEUS)
    assert not matches(Exposition().parse(b""), "/metrics")
    assert not matches(Exposition().parse(b"<html></html>"), PROMETHEUS)
    assert not matches(Exposition().parse(b"[]"), PROMETHEUS)


def test_of_two_generations_on_one_page_the_newer_counts() -> None:
    page = OLD % "finish_reason" + 'trtllm_request_success_total{model_name="undefined",finished_reason="length"} 3\n'
    assert one(page).requests_total == {"ok": 3.0}


def test_model_that_is_called_undefined_has_the_name_that_the_server_gives() -> None:
    (reading,) = read_page(ENGINE, (OLD % "finish_reason").encode(), {"/v1/models": b'{"data":[{"id":"TinyLlama"}]}'})
    assert reading.model == "TinyLlama"
    assert one(OLD % "finish_reason").model == "unknown"


def test_gauges_of_several_processes_count_once() -> None:
    page = "# TYPE trtllm_num_requests_running gauge\n" + "".join(
        f'trtllm_num_requests_running{{model_name="m",engine_type="trtllm",pid="{pid}"}} {n}\n'
        for pid, n in ((10, 4), (11, 0))
    )
    assert one(page).requests_running == 4


def test_ends_of_requests_and_errors_by_status() -> None:
    page = "".join(
        f'trtllm_request_success_total{{model_name="m",finished_reason="{reason}"}} {n}\n'
        for reason, n in (("stop", 1), ("length", 2), ("end_id", 4), ("timeout", 8), ("cancelled", 16))
    )
    page += "".join(
        f'trtllm_request_error_total{{model_name="m",http_code="{code}"}} {n}\n' for code, n in (("400", 3), ("500", 5))
    )
    assert one(page).requests_total == {
        "ok": 7.0,
        "timeout": 8.0,
        "client_abort": 16.0,
        "rejected": 3.0,
        "error": 5.0,
    }


def test_cached_tokens_stay_inside_input() -> None:
    page = 'trtllm_prompt_tokens_total{model_name="m"} 100\ntrtllm_prompt_cached_tokens_total{model_name="m"} 40\n'
    assert one(page).tokens_total == {"input": 100.0}


def test_newest_iteration_stands_in_for_the_page() -> None:
    body = b"[" + ITERATION % (1, 9) + b"," + ITERATION % (2, 4) + b"]"
    (reading,) = read_page(ENGINE, None, {"/metrics": body, "/v1/models": b'{"data":[{"id":"TinyLlama"}]}'})
    assert reading.model == "TinyLlama"
    assert (reading.requests_running, reading.requests_waiting, reading.kv_cache_usage_ratio) == (4, 2, 0.25)
    assert (reading.tokens_total, reading.requests_total) == (None, None)


@pytest.mark.parametrize("body", [b"[]", b"{}", b'[{"iter":1}]', b'[{"kvCacheStats":{"maxNumBlocks":0}}]', b"nothing"])
def test_no_iteration_tells_nothing(body: bytes) -> None:
    assert read_page(ENGINE, None, {"/metrics": body}) == []


@pytest.mark.parametrize(
    ("name", "running", "usage"),
    [
        ("metrics-json-trt-backend-v1.0.0rc4", 1, 3 / 22955),
        ("metrics-json-docs-pytorch-backend", 1, 3 / 101256),
        ("metrics-json-empty", None, None),
    ],
)
def test_published_iterations(shared: Path, name: str, running: float | None, usage: float | None) -> None:
    body = (shared / "captures" / "trtllm" / f"{name}.json").read_bytes()
    found = [(r.requests_running, r.kv_cache_usage_ratio) for r in read_page(ENGINE, None, {"/metrics": body})]
    assert found == ([] if running is None else [(running, usage)])


def test_published_excerpt_without_its_last_bucket_is_no_histogram(shared: Path) -> None:
    page = (shared / "captures" / "trtllm" / "aibrix-issue-2004-excerpt.prom").read_bytes()
    assert classify(Exposition().parse(page), PROMETHEUS) is ENGINE
    assert read_page(ENGINE, page) == []


def test_about() -> None:
    answers = {"/version": b'{"version":"1.3.0rc14"}', "/v1/models": b'{"data":[{"id":"TinyLlama"}]}'}
    assert about_of(ENGINE, answers) == About(version="1.3.0rc14", model="TinyLlama")


def test_draining_paths_are_only_for_when_there_is_no_page() -> None:
    asked = {*ENGINE.metrics_paths, *ENGINE.state_paths, *ENGINE.about_paths, ENGINE.health.live, ENGINE.health.ready}
    assert asked.isdisjoint({"/metrics", "/perf_metrics", "/kv_cache_events", "/health_generate"})
    assert set(ENGINE.fallback_paths) == {"/metrics"}


def test_bad_pages() -> None:
    page = 'trtllm_num_requests_running{model_name="m"} %s\n'
    assert one(page % 3 + page % 2).requests_running == 2  # given twice: the last holds
    assert read_page(ENGINE, (page % "NaN").encode()) == []
    assert read_page(ENGINE, b"# TYPE trtllm_num_requests_running counter\n" + (page % 3).encode()) == []
