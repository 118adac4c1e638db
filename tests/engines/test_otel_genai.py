"""OpenTelemetry's gen_ai server metrics: what the recorded page (test_captures.py) does not show."""

import pytest

from agent.core.metrics.exposition import Exposition
from agent.engines import otel_genai
from agent.engines.contract import Process
from agent.engines.registry import ENGINES, classify
from tests.support.engine_pages import read_page

ENGINE = otel_genai.ENGINE
COUNT = "gen_ai_server_request_duration_seconds_count"


def finished(count: int, **labels: str) -> str:
    told = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"{COUNT}{{{told}}} {count}\n"


def page(*lines: str) -> bytes:
    return ("# TYPE gen_ai_server_request_duration_seconds histogram\n" + "".join(lines)).encode()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        ("timeout", "timeout"),
        ("504", "timeout"),
        ("asyncio.exceptions.CancelledError", "client_abort"),
        ("499", "client_abort"),
        ("429", "rejected"),
        ("overload", "rejected"),
        ("500", "error"),
        ("ValueError", "error"),
        ("_OTHER", "error"),
    ],
)
def test_outcomes(error: str, outcome: str) -> None:
    lines = finished(7, gen_ai_request_model="m"), finished(2, gen_ai_request_model="m", error_type=error)
    (reading,) = read_page(ENGINE, page(*lines))
    assert reading.requests_total == {"error": 0, "ok": 7, outcome: 2}


def test_an_empty_error_type_is_none() -> None:
    (reading,) = read_page(ENGINE, page(finished(7, gen_ai_request_model="m", error_type="")))
    assert reading.requests_total == {"ok": 7, "error": 0}


def test_the_model_is_the_one_that_clients_asked_for() -> None:
    line = finished(7, gen_ai_request_model="chat", gen_ai_response_model="chat-2026-11")
    assert [reading.model for reading in read_page(ENGINE, page(line))] == ["chat"]


def test_else_the_one_that_answered() -> None:
    assert [r.model for r in read_page(ENGINE, page(finished(7, gen_ai_response_model="m")))] == ["m"]


def test_operations_of_one_model_are_one_reading() -> None:
    lines = (finished(7, gen_ai_request_model="m", gen_ai_operation_name=name) for name in ("chat", "embeddings"))
    (reading,) = read_page(ENGINE, page(*lines))
    assert reading.requests_total == {"ok": 14, "error": 0}


def test_times_alone() -> None:
    lines = (f'gen_ai_server_time_to_first_token_seconds_bucket{{le="{le}"}} 3\n' for le in ("0.1", "+Inf"))
    told = "# TYPE gen_ai_server_time_to_first_token_seconds histogram\n" + "".join(lines)
    (reading,) = read_page(ENGINE, told.encode())
    assert reading.time_to_first_token_seconds is not None
    assert reading.time_to_first_token_seconds.count == 3
    assert reading.requests_total is None


@pytest.mark.parametrize(
    "other",
    [
        b'gen_ai_client_token_usage_sum{gen_ai_token_type="input"} 3\n',
        b"process_open_fds 1\n",
    ],
    ids=["an application's", "another page"],
)
def test_other_pages(other: bytes) -> None:
    assert not otel_genai.matches(Exposition().parse(other), "/metrics")


def test_no_page() -> None:
    assert read_page(ENGINE) == []


def test_an_engine_s_own_names_come_first() -> None:
    both = page(finished(1, gen_ai_request_model="m")) + b'vllm:num_requests_running{model_name="m"} 1\n'
    found = classify(Exposition().parse(both))
    assert found is not None
    assert found.kind == "vllm"
    assert [engine.kind for engine in ENGINES if engine.generic] == ["inference_extension", "otel_genai"]


def test_no_process_is_taken_for_one() -> None:
    assert otel_genai.recognise(Process(pid=1, argv=("python", "server.py"))) is None
