"""Triton's page: one request counted on several models counts once, and means without quantiles."""

from pathlib import Path

import pytest

from agent.core.metrics.exposition import Exposition
from agent.core.metrics.published import histogram
from agent.core.readings import EngineReading, Histogram
from agent.engines.contract import About
from agent.engines.registry import classify
from agent.engines.triton import ENGINE
from tests.support.engine_pages import about_of, read_page
from tests.support.triton_page import CAPTURE, PIPELINE, page

HERE = Path(__file__).parent


def readings(text: str) -> dict[str, EngineReading]:
    return {reading.model: reading for reading in read_page(ENGINE, text.encode())}


def test_capture_is_the_generators_page() -> None:
    assert (HERE / "triton" / "25.06-constructed" / "metrics.prom").read_text() == CAPTURE


def test_request_to_the_pipeline_counts_once() -> None:
    found = readings(page({**dict.fromkeys(PIPELINE[:4], 40), "resnet": 7}))
    assert set(found) == {"ensemble", "resnet"}
    whole = found["ensemble"]
    assert whole.requests_total == {"ok": 40.0, "error": 1.0, "rejected": 2.0, "client_abort": 4.0}
    assert (whole.requests_running, whole.requests_waiting, whole.kv_cache_usage_ratio) == (7, 3, 0.4875)
    assert whole.request_duration_seconds == Histogram(bounds=(), counts=(40.0,), sum=80.0)
    assert whole.queue_seconds is None
    assert whole.tokens_total is None
    beside = found["resnet"]
    assert beside.requests_total == {"ok": 7.0, "error": 1.0}
    assert beside.kv_cache_usage_ratio is None
    assert beside.queue_seconds is not None
    assert beside.queue_seconds.sum == pytest.approx(7 * 10 * 1e-6)


def test_both_ways_into_the_pipeline_are_added() -> None:
    found = readings(page({**dict.fromkeys(PIPELINE, 50), "ensemble": 40, "tensorrt_llm_bls": 10}))
    assert set(found) == {"ensemble"}
    assert (found["ensemble"].requests_total or {})["ok"] == 50
    assert found["ensemble"].request_duration_seconds == Histogram(bounds=(), counts=(50.0,), sum=100.0)
    only = readings(page(dict.fromkeys(PIPELINE[1:], 10)))
    assert set(only) == {"tensorrt_llm_bls"}


def test_without_an_outer_model_the_one_with_the_batch_manager_counts() -> None:
    found = readings(page(dict.fromkeys(PIPELINE[1:4], 10)))
    assert set(found) == {"tensorrt_llm"}
    assert (found["tensorrt_llm"].requests_total, found["tensorrt_llm"].requests_running) == ({"ok": 10, "error": 1}, 7)


def test_pipeline_without_batch_manager_metrics_counts_once_too() -> None:
    found = readings(page(dict.fromkeys(PIPELINE[:4], 10), batcher=None))
    assert set(found) == {"ensemble"}
    assert found["ensemble"].requests_running is None
    assert found["ensemble"].requests_waiting == 0


def test_independent_models_are_readings_of_their_own() -> None:
    found = readings(page({"a": 1, "b": 2}, batcher=None))
    assert {model: (r.requests_total or {})["ok"] for model, r in found.items()} == {"a": 1, "b": 2}


def test_versions_of_a_model_are_added() -> None:
    text = "".join(f'nv_inference_request_success{{model="a",version="{v}"}} {v}\n' for v in (1, 2))
    text += "".join(f'nv_inference_request_duration_us{{model="a",version="{v}"}} {v}e6\n' for v in (1, 2))
    assert readings(text)["a"].request_duration_seconds == Histogram(bounds=(), counts=(3.0,), sum=3.0)


def test_first_responses_are_seconds() -> None:
    first = readings(CAPTURE)["ensemble"].time_to_first_token_seconds
    assert first == Histogram(bounds=(0.1, 0.5, 2.0, 5.0), counts=(5.0, 20.0, 38.0, 39.0, 40.0), sum=16.23)


def test_histogram_without_buckets_is_published_as_a_mean() -> None:
    value = readings(CAPTURE)["ensemble"].request_duration_seconds
    assert [(s.key.name, s.value) for s in histogram("h", value, ())] == [
        ("h_bucket", 50.0),
        ("h_sum", 100.0),
        ("h_count", 50.0),
    ]


def test_failures_without_a_reason_are_errors() -> None:
    text = 'nv_inference_request_failure{model="a",version="1"} 3\n'
    assert readings(text)["a"].requests_total == {"error": 3.0}


def test_vllm_backend_shows_vllms_own_metrics() -> None:
    text = page({"llama": 5}, batcher=None)
    text += '# TYPE vllm:generation_tokens_total counter\nvllm:generation_tokens_total{model="llama",version="1"} 700\n'
    text += '# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model="llama",version="1"} 3\n'
    found = readings(text)["llama"]
    assert classify(Exposition().parse(text.encode())) is ENGINE
    assert (found.kind, found.tokens_total, found.requests_running) == ("triton", {"output": 700.0}, 3.0)
    assert (found.requests_total or {})["ok"] == 5


def test_server_without_models_is_recognised() -> None:
    text = "# TYPE nv_inference_request_success counter\n# TYPE nv_gpu_utilization gauge\nnv_gpu_utilization 0\n"
    assert classify(Exposition().parse(text.encode())) is ENGINE
    assert readings(text) == {}
    assert read_page(ENGINE, None) == []


@pytest.mark.parametrize(
    ("name", "model", "running", "usage"),
    [
        ("tensorrtllm-backend-readme-inflight", "tensorrt_llm", 1, 0.4875),
        ("tensorrtllm-backend-readme-base", "tensorrt_llm", None, None),
    ],
)
def test_published_pages(shared: Path, name: str, model: str, running: float | None, usage: float | None) -> None:
    text = (shared / "captures" / "triton" / f"{name}.prom").read_bytes()
    assert classify(Exposition().parse(text)) is ENGINE
    (found,) = read_page(ENGINE, text)
    assert (found.model, found.requests_running, found.kv_cache_usage_ratio) == (model, running, usage)


@pytest.mark.parametrize("name", ["tensorrtllm-backend-readme-v1-model", "triton-user-guide-histogram-summary"])
def test_published_excerpts_without_signals(shared: Path, name: str) -> None:
    text = (shared / "captures" / "triton" / f"{name}.prom").read_bytes()
    assert classify(Exposition().parse(text)) is ENGINE
    assert read_page(ENGINE, text) == []


def test_about() -> None:
    assert about_of(ENGINE, {"/v2": b'{"name":"triton","version":"2.59.0","extensions":[]}'}) == About(version="2.59.0")


def test_bad_pages() -> None:
    text = page(dict.fromkeys(PIPELINE[:4], 40))
    broken = text.replace("nv_inference_request_duration_us counter", "nv_inference_request_duration_us gauge")
    assert readings(broken)["ensemble"].requests_total == readings(text)["ensemble"].requests_total
    gone = "\n".join(line for line in text.splitlines() if 'request_success{model="ensemble"' not in line) + "\n"
    assert readings(gone)["ensemble"].request_duration_seconds is None
    nan = text.replace('request_type="scheduled",version="1"} 7', 'request_type="scheduled",version="1"} NaN')
    assert readings(nan)["ensemble"].requests_running == 8  # the next best
    twice = readings(text + 'nv_inference_request_success{model="ensemble",version="1"} 41\n')["ensemble"]
    assert (twice.requests_total or {})["ok"] == 41
