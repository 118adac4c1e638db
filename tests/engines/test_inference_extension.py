"""Servers known by the model-server protocol's names only: what the recorded page (test_captures.py) does not show."""

import json
from pathlib import Path

import pytest

from agent.core.metrics.exposition import Exposition
from agent.engines import inference_extension
from agent.engines.contract import About, Origin, Page, Process
from agent.engines.registry import ENGINES, classify
from tests.support.engine_pages import read_page

ENGINE = inference_extension.ENGINE


@pytest.mark.parametrize(
    ("running", "waiting", "usage"),
    [
        ("omni:num_requests_running", "omni:num_requests_waiting", "omni:kv_cache_usage_perc"),
        ("my_server_num_requests_running", "my_server_num_requests_waiting", "my_server_kv_cache_utilization"),
        ("fork:num_running_reqs", "fork:num_queue_reqs", "fork:token_usage"),
    ],
    ids=["vllm's way", "trtllm's way", "sglang's way"],
)
@pytest.mark.parametrize("label", ["model_name", "model"])
def test_each_way_of_naming(running: str, waiting: str, usage: str, label: str) -> None:
    line = '{}{{{}="m"}} {}\n'
    page = "".join(line.format(name, label, value) for name, value in ((running, 3), (waiting, 1), (usage, 0.25)))
    assert classify(Exposition().parse(page.encode())) is ENGINE
    (reading,) = read_page(ENGINE, page.encode())
    assert reading.model == "m"
    assert (reading.requests_running, reading.requests_waiting, reading.kv_cache_usage_ratio) == (3, 1, 0.25)
    assert reading.tokens_total is reading.requests_total is reading.request_duration_seconds is None


def test_ranks_are_one_model_and_the_fullest_counts() -> None:
    line = 'x:{}{{engine="{}",model_name="m"}} {}\n'
    page = "".join(
        line.format(name, rank, value)
        for rank, usage in ((0, 0.5), (1, 0.75))
        for name, value in (("num_requests_running", 2), ("num_requests_waiting", 1), ("kv_cache_usage_perc", usage))
    )
    (reading,) = read_page(ENGINE, page.encode())
    assert (reading.requests_running, reading.requests_waiting, reading.kv_cache_usage_ratio) == (4, 2, 0.75)


def test_server_that_names_no_model() -> None:
    scrape = Exposition().parse(b"x_num_requests_running 1\nx_num_requests_waiting 0\n")
    origin = Origin(engine="e", url="u", read_at_ns=1, about=About(model="told"))
    (reading,) = inference_extension.read(Page(scrape=scrape, path="/metrics"), origin)
    assert reading.model == "told"


def test_usage_in_per_cent_is_absent() -> None:
    (reading,) = read_page(ENGINE, b"x:num_requests_running 1\nx:num_requests_waiting 0\nx:kv_cache_usage_perc 51\n")
    assert (reading.requests_running, reading.kv_cache_usage_ratio) == (1, None)


@pytest.mark.parametrize(
    "page",
    [
        b"num_requests_running 1\nnum_requests_waiting 1\n",  # nobody's name
        b"x:num_requests_running 1\n",
        b"x:num_requests_running 1\ny:num_requests_waiting 1\n",
        b"xnum_requests_running 1\nxnum_requests_waiting 1\n",
        b'vllm:current_qps{server="a"} 1\nvllm:num_requests_running{server="a"} 1\nvllm:num_requests_waiting 0\n',
        b"dynamo_frontend_inflight_requests 1\ndynamo_frontend_queued_requests 1\n",
        b"inference_pool_average_queue_size 1\ninference_pool_average_kv_cache_utilization 1\n",
        b"process_open_fds 1\n",
    ],
)
def test_other_pages(page: bytes) -> None:
    assert not inference_extension.matches(Exposition().parse(page), "/metrics")
    assert read_page(ENGINE, page) == []


def test_no_page() -> None:
    assert read_page(ENGINE) == []


def test_asked_after_those_that_know_their_own_names() -> None:
    kinds = [engine.kind for engine in ENGINES]
    assert all(kinds.index(ENGINE.kind) > kinds.index(engine.kind) for engine in ENGINES if not engine.generic)


def test_families_before_the_first_request() -> None:
    page = b"# TYPE x:num_requests_running gauge\n# TYPE x:num_requests_waiting gauge\n"
    assert inference_extension.matches(Exposition().parse(page), "/metrics")
    assert read_page(ENGINE, page) == []


def test_the_ways_of_naming_are_those_that_the_protocol_s_reference_reads(shared: Path) -> None:
    file = shared / "captures" / "gateway-inference-extension" / "core-metrics-extractor-defaults.json"
    for spec in json.loads(file.read_text()):
        names = [spec[key] for key in ("queuedRequestsSpec", "runningRequestsSpec", "kvUsageSpec")]
        if any("{" in name for name in names):
            continue  # Triton's: told apart by labels, read by the file of Triton
        bare = names[1].partition("num_")[0]
        page = "".join(f"other:{name.removeprefix(bare)} 0.5\n" for name in names)
        (reading,) = read_page(ENGINE, page.encode())
        assert (reading.requests_running, reading.requests_waiting, reading.kv_cache_usage_ratio) == (0.5, 0.5, 0.5)


def test_no_process_is_taken_for_one() -> None:
    assert inference_extension.recognise(Process(pid=1, argv=("lmdeploy", "serve", "api_server", "m"))) is None
