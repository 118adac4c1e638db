"""Text Generation Inference: what its recorded page does not show, its command lines, and pages that are broken."""

from pathlib import Path

import pytest

from agent.core.metrics.exposition import Exposition
from agent.core.readings import EngineReading
from agent.engines import tgi
from agent.engines.contract import About, Process, Recognised
from agent.engines.registry import classify
from tests.support.engine_pages import about_of, read_page

ENGINE = tgi.ENGINE
PAGE = (Path(__file__).parent / "tgi" / "3.3.7" / "metrics.prom").read_bytes()


def read(page: bytes) -> EngineReading:
    (reading,) = read_page(ENGINE, page)
    return reading


def test_every_way_to_fail_has_an_outcome() -> None:
    reasons = {"overloaded": 1, "validation": 2, "dropped": 4, "generation": 8, "incomplete": 16, "template": 32}
    page = "".join(f'tgi_request_failure{{err="{reason}"}} {count}\n' for reason, count in reasons.items())
    assert read(page.encode()).requests_total == {"error": 8 + 16 + 32, "client_abort": 4, "rejected": 1 + 2}


def test_outcomes_add_up_to_the_requests_it_counted() -> None:
    requests = read(PAGE).requests_total
    assert requests is not None
    assert sum(requests.values()) == 52  # tgi_request_count of the page


def test_a_failure_of_an_unknown_kind_is_no_outcome_of_ours() -> None:
    assert read_page(ENGINE, b'tgi_request_failure{err="something new"} 3\n') == []


def test_tokens_are_the_sums_of_their_histograms() -> None:
    assert read(PAGE).tokens_total == {"input": 14825, "output": 6134}


def test_bounds_are_those_of_the_page() -> None:
    page = (
        b"# TYPE tgi_request_queue_duration histogram\n"
        b'tgi_request_queue_duration_bucket{le="0.5"} 1\n\n'
        b'tgi_request_queue_duration_bucket{le="+Inf"} 3\n'
        b"tgi_request_queue_duration_sum 2.5\ntgi_request_queue_duration_count 3\n"
    )
    queue = read(page).queue_seconds
    assert queue is not None
    assert (queue.bounds, queue.counts, queue.sum) == ((0.5,), (1, 3), 2.5)


def test_page_of_a_server_that_was_never_asked() -> None:
    page = b"# TYPE tgi_queue_size gauge\ntgi_queue_size 0\n"
    reading = read(page)
    assert (reading.requests_waiting, reading.requests_running, reading.requests_total) == (0, None, None)
    assert reading.model == "unknown"


@pytest.mark.parametrize(
    ("page", "waiting"),
    [
        (b"tgi_queue_size NaN\ntgi_batch_current_size 1\n", None),
        (b"# TYPE tgi_queue_size counter\ntgi_queue_size 3\ntgi_batch_current_size 1\n", None),  # changed its type
        (b"tgi_queue_length 3\ntgi_batch_current_size 1\n", None),  # renamed
        (b"tgi_queue_size 3\ntgi_queue_size 3\ntgi_batch_current_size 1\n", 3),  # twice
        (b"tgi_queue_size\ntgi_batch_current_size 1\n", None),
    ],
)
def test_a_broken_series_takes_no_other_along(page: bytes, waiting: float | None) -> None:
    reading = read(page)
    assert (reading.requests_waiting, reading.requests_running) == (waiting, 1)


@pytest.mark.parametrize("lost", ["_bucket", "_sum", "_count"])
def test_histograms_that_lost_a_part(lost: str) -> None:
    page = b"\n".join(line for line in PAGE.splitlines() if lost.encode() not in line) + b"\n"
    duration = read(page).request_duration_seconds
    assert (duration is None) == (lost == "_bucket")
    if duration is not None:
        assert (duration.sum is None) == (lost == "_sum")


def test_families_alone_are_enough_to_know_it() -> None:
    page = b"# TYPE tgi_queue_size gauge\n"
    assert classify(Exposition().parse(page)) is ENGINE
    assert read_page(ENGINE, page) == []
    assert not tgi.matches(Exposition().parse(b"te_queue_size 1\n"), "/metrics")  # text-embeddings-inference


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model_id": "org/m", "version": "3.3.7", "router": "r"}', About(model="org/m", version="3.3.7")),
        (b'{"model_id": "", "version": ""}', About()),
        (b"{}", About()),
        (b'{"model_id": 3}', About()),
        (b"[]", About()),
        (b"<html>", About()),
    ],
)
def test_about(body: bytes, expected: About) -> None:
    assert about_of(ENGINE, {"/info": body}) == expected


def test_its_name_goes_into_the_reading() -> None:
    (reading,) = read_page(ENGINE, b"tgi_queue_size 0\n", {"/info": b'{"model_id": "org/m", "version": "3"}'})
    assert reading.model == "org/m"


def test_health_is_asked_where_it_costs_nothing() -> None:
    assert ENGINE.health.generating == "/health"
    assert ENGINE.health.live == ENGINE.health.ready == "/info"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("text-generation-launcher --model-id org/m --port 8080", Recognised(port=8080, model="org/m")),
        ("/usr/local/bin/text-generation-launcher -p 8081 --json-output", Recognised(port=8081)),
        ("text-generation-router --port 80 --master-shard-uds-path /tmp/s-0", Recognised(port=80)),
        ("/usr/bin/python /usr/bin/text-generation-server serve org/m --rank 0 --sharded", Recognised(part="worker")),
        ("text-generation-server serve org/m", Recognised(part="worker")),
        ("/usr/bin/python /usr/bin/text-generation-server download-weights org/m", None),
        ("text-generation-benchmark --tokenizer-name org/m", None),
        ("text-embeddings-router --model-id org/m", None),
        ("grep text-generation-launcher", None),
        ("", None),
    ],
)
def test_command_lines(command: str, expected: Recognised | None) -> None:
    # All of them have the same comm: it holds 15 characters.
    assert tgi.recognise(Process(pid=1, name="text-generation", argv=tuple(command.split()))) == expected
