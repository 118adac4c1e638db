"""vLLM: what its recorded pages (test_captures.py) do not show."""

import pytest

from agent.core.metrics.exposition import Exposition
from agent.engines import vllm
from agent.engines.contract import About
from tests.support.engine_pages import about_of, read_page


def test_page_without_stats_is_not_taken_for_vllm() -> None:
    scrape = Exposition().parse(b'http_requests_total{handler="/v1/models",status="2xx"} 1\nprocess_open_fds 9\n')
    assert not vllm.matches(scrape, "/metrics")


def test_families_alone_are_enough_to_know_it() -> None:
    page = b"# TYPE vllm:num_requests_running gauge\nprocess_open_fds 9\n"
    scrape = Exposition().parse(page)
    assert vllm.matches(scrape, "/metrics")
    assert read_page(vllm.ENGINE, page) == []


def test_data_parallel_ranks_of_one_model_are_one_reading() -> None:
    page = "".join(
        f'vllm:{name}{{engine="{rank}",model_name="m"}} {value}\n'
        for rank, running, usage in ((0, 3, 0.2), (1, 5, 0.9))
        for name, value in (("num_requests_running", running), ("kv_cache_usage_perc", usage))
    )
    (reading,) = read_page(vllm.ENGINE, page.encode())
    assert (reading.requests_running, reading.kv_cache_usage_ratio) == (8, 0.9)


def test_aborts_that_are_never_counted_are_absent() -> None:
    page = b'vllm:request_success_total{finished_reason="abort",model_name="m"} 0\nvllm:num_preemptions_total 0\n'
    (reading,) = read_page(vllm.ENGINE, page)
    assert reading.requests_total is None


@pytest.mark.parametrize(
    ("body", "version"),
    [(b'{"version": "0.33.0"}', "0.33.0"), (b"{}", None), (b"<html>", None), (b"[]", None), (b'{"version": 3}', None)],
)
def test_version(body: bytes, version: str | None) -> None:
    assert about_of(vllm.ENGINE, {"/version": body}) == About(version=version)


def test_nothing_answered() -> None:
    assert about_of(vllm.ENGINE, {}) == About()
