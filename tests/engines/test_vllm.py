"""vLLM: what its recorded pages (test_captures.py) do not show."""

import re
from pathlib import Path

import pytest

from agent.core.metrics.exposition import Exposition
from agent.core.readings import EngineReading
from agent.engines import vllm
from agent.engines.contract import About, Origin, Page
from tests.support.engine_pages import about_of, read_page

HERE = Path(__file__).parent / "vllm"
SIGNALS = {*vllm.SIGNALS.values, *vllm.SIGNALS.tokens, *vllm.SIGNALS.requests, *vllm.SIGNALS.histograms}


def readings_of(*pages: bytes) -> list[list[EngineReading]]:
    """Of pages that one engine showed one after the other."""
    layout = Exposition()
    origin = Origin(engine="e", url="u", read_at_ns=1)
    return [vllm.read(Page(scrape=layout.parse(page), path="/metrics"), origin) for page in pages]


def test_page_without_stats_is_not_taken_for_vllm() -> None:
    scrape = Exposition().parse(b'http_requests_total{handler="/v1/models",status="2xx"} 1\nprocess_open_fds 9\n')
    assert not vllm.matches(scrape, "/metrics")


def test_families_alone_are_enough_to_know_it() -> None:
    page = b"# TYPE vllm:num_requests_running gauge\nprocess_open_fds 9\n"
    scrape = Exposition().parse(page)
    assert vllm.matches(scrape, "/metrics")
    assert read_page(vllm.ENGINE, page) == []


@pytest.mark.parametrize(
    "page",
    [
        b'nv_inference_request_success{model="m",version="1"} 3\nvllm:prompt_tokens{model="m",version="1"} 10\n',
        b'vllm:current_qps{server="http://10.0.0.1"} 2\nvllm:num_requests_running{server="http://10.0.0.1"} 3\n',
        b"ray_node_cpu_count 4\n",
    ],
    ids=["triton", "router", "ray without vLLM"],
)
def test_pages_with_names_of_vllm_that_are_not_from_it(page: bytes) -> None:
    assert not vllm.matches(Exposition().parse(page), "/metrics")


def test_no_page() -> None:
    assert read_page(vllm.ENGINE) == []


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


def test_responses_of_the_http_layer_are_no_outcomes() -> None:
    page = b'vllm:num_requests_running{model_name="m"} 0\nhttp_requests_total{status="5xx"} 3\n'
    (reading,) = read_page(vllm.ENGINE, page)
    assert reading.requests_total is None


def test_every_reason_for_a_rejection_counts() -> None:
    line = 'vllm:admission_rejections_total{{model_name="m",reason="{}"}} {}\n'
    page = line.format("max_num_queued_reqs", 2) + line.format("max_num_queued_tokens", 3)
    (reading,) = read_page(vllm.ENGINE, page.encode())
    assert reading.requests_total == {"rejected": 5}


RAY = 'Component="core_worker",ReplicaId="{0}",WorkerId="{0}",engine="0",model_name="m"'


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ray_vllm_generation_tokens_total", "counter"),
        ("ray_vllm_generation_tokens", "counter"),
        ("ray_vllm_generation_tokens", "gauge"),
        ("ray_vllm_generation_tokens_total", "gauge"),
        ("ray_vllm:generation_tokens_total", "counter"),
        ("ray_vllm:generation_tokens", "gauge"),
    ],
)
def test_replicas_on_ray_are_one_model(name: str, kind: str) -> None:
    page = f"# TYPE {name} {kind}\n{name}{{{RAY.format('a')}}} 30\n{name}{{{RAY.format('b')}}} 12\n"
    (reading,) = read_page(vllm.ENGINE, page.encode())
    assert (reading.model, reading.tokens_total) == ("m", {"output": 42})


def test_ray_told_a_counter_twice() -> None:
    labels = RAY.format("a")
    page = f"ray_vllm_generation_tokens{{{labels}}} 30\nray_vllm_generation_tokens_total{{{labels}}} 30\n"
    (reading,) = read_page(vllm.ENGINE, page.encode())
    assert reading.tokens_total == {"output": 30}


@pytest.mark.parametrize("told_by_source", [True, False])
def test_prompt_tokens_on_ray_that_all_came_from_elsewhere_are_not_counted_twice(told_by_source: bool) -> None:
    labels = RAY.format("a")
    page = f"ray_vllm_prompt_tokens_total{{{labels}}} 30\n"
    if told_by_source:  # the counter of tokens computed here appears with the first of them
        page += f'ray_vllm_prompt_tokens_by_source_total{{{labels},source="external_kv_transfer"}} 30\n'
    (reading,) = read_page(vllm.ENGINE, page.encode())
    assert reading.tokens_total == ({"input_cached": 30} if told_by_source else {"input": 30})


def test_names_on_ray_follow_vllm_s_own() -> None:
    """The page that Ray serves for vLLM's own metrics code has under Ray's names what that code names itself."""
    recorded = (HERE / "0.33.0-ray-2.60" / "metrics.prom").read_text()
    names = set(re.findall(r"^# TYPE (ray_vllm_\w+)", recorded, re.MULTILINE))
    mapped = {
        source.metric
        for group in (vllm.RAY_SIGNALS.values, vllm.RAY_SIGNALS.tokens)
        for source in sum(group.values(), ())
    }
    assert mapped & names == {
        "ray_vllm_num_requests_running",
        "ray_vllm_num_requests_waiting",
        "ray_vllm_kv_cache_usage_perc",
        "ray_vllm_num_preemptions_total",
        "ray_vllm_prompt_tokens_by_source_total",
        "ray_vllm_prompt_tokens_total",
        "ray_vllm_generation_tokens_total",
    }


def test_two_models_on_one_page() -> None:
    page = b'vllm:num_requests_running{model_name="a"} 1\nvllm:num_requests_running{model_name="b"} 2\n'
    assert {r.model: r.requests_running for r in read_page(vllm.ENGINE, page)} == {"a": 1, "b": 2}


def test_adapters_are_no_models() -> None:
    page = (
        b'vllm:num_requests_running{model_name="base"} 3\n'
        b'vllm:lora_requests_info{max_lora="4",running_lora_adapters="sql,chat",waiting_lora_adapters=""} 1.7e9\n'
    )
    (reading,) = read_page(vllm.ENGINE, page)
    assert (reading.model, reading.requests_running) == ("base", 3)


def test_model_renamed_while_running() -> None:
    first, second = readings_of(
        b'vllm:num_requests_running{model_name="old"} 1\nvllm:generation_tokens_total{model_name="old"} 70\n',
        b'vllm:num_requests_running{model_name="new"} 2\nvllm:generation_tokens_total{model_name="new"} 5\n',
    )
    assert [r.model for r in first] == ["old"]
    assert [(r.model, r.tokens_total) for r in second] == [("new", {"output": 5})]


def test_series_that_vanish_are_absent_and_not_their_last_value() -> None:
    _, (second,) = readings_of(
        b"vllm:num_requests_running 4\nvllm:num_requests_waiting 2\nvllm:generation_tokens_total 9\n",
        b"vllm:num_requests_running 5\n",
    )
    assert (second.requests_running, second.requests_waiting, second.tokens_total) == (5, None, None)


def test_rank_that_vanishes() -> None:
    rank = 'vllm:num_requests_running{{engine="{}",model_name="m"}} 4\n'
    _, (second,) = readings_of((rank.format(0) + rank.format(1)).encode(), rank.format(0).encode())
    assert second.requests_running == 4


def test_a_metric_that_becomes_another_type_is_not_read_as_the_old_one() -> None:
    page = b"# TYPE vllm:generation_tokens_total {}\nvllm:generation_tokens_total 9\nvllm:num_requests_running 1\n"
    (first,), (second,) = readings_of(page.replace(b"{}", b"counter"), page.replace(b"{}", b"gauge"))
    assert (first.tokens_total, second.tokens_total) == ({"output": 9}, None)


def test_of_a_series_given_twice_the_last_value_holds() -> None:
    (reading,) = read_page(vllm.ENGINE, b"vllm:num_requests_running 4\nvllm:num_requests_running 5\n")
    assert reading.requests_running == 5


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
def test_what_is_no_number_is_absent(value: str) -> None:
    page = f"vllm:num_requests_running {value}\nvllm:num_requests_waiting 1\nvllm:prompt_tokens_total {value}\n"
    (reading,) = read_page(vllm.ENGINE, page.encode())
    assert (reading.requests_running, reading.requests_waiting, reading.tokens_total) == (None, 1, None)


@pytest.mark.parametrize(
    "buckets",
    [
        {"0.1": 3, "1": 2, "+Inf": 4},  # not cumulative
        {"0.1": 3, "1": 4},  # no last bucket
        {"0.1": "NaN", "+Inf": 4},
        {"wide": 1, "+Inf": 4},
    ],
)
def test_histograms_that_are_none(buckets: dict[str, object]) -> None:
    lines = (f'vllm:time_to_first_token_seconds_bucket{{le="{le}"}} {count}\n' for le, count in buckets.items())
    (reading,) = read_page(vllm.ENGINE, ("vllm:num_requests_running 0\n" + "".join(lines)).encode())
    assert reading.time_to_first_token_seconds is None


def test_ranks_with_other_bounds_have_no_histogram_together() -> None:
    line = 'vllm:time_to_first_token_seconds_bucket{{engine="{}",le="{}"}} 1\n'
    page = "".join(line.format(rank, le) for rank, le in ((0, 0.1), (0, "+Inf"), (1, 0.2), (1, "+Inf")))
    (reading,) = read_page(vllm.ENGINE, ("vllm:num_requests_running 0\n" + page).encode())
    assert reading.time_to_first_token_seconds is None


@pytest.mark.parametrize(
    ("body", "version"),
    [(b'{"version": "0.33.0"}', "0.33.0"), (b"{}", None), (b"<html>", None), (b"[]", None), (b'{"version": 3}', None)],
)
def test_version(body: bytes, version: str | None) -> None:
    assert about_of(vllm.ENGINE, {"/version": body}) == About(version=version)


def test_nothing_answered() -> None:
    assert about_of(vllm.ENGINE, {}) == About()


@pytest.mark.parametrize("signal", sorted({*SIGNALS, "timeout"}))
def test_why_a_signal_may_be_missing_is_said(signal: str) -> None:
    assert vllm.ENGINE.absent[signal]


@pytest.mark.parametrize(
    ("image", "is_vllm"),
    [
        ("vllm/vllm-openai", True),
        ("vllm/vllm-openai-rocm", True),
        ("rocm/vllm-dev", True),
        ("nvidia/vllm", True),
        ("vllm", True),
        ("rhaiis/vllm-cuda-rhel9", True),
        ("opendatahub/odh-vllm-cpu", True),
        ("lmcache/vllm-openai", True),
        ("llm-d/llm-d-cuda", True),
        ("llm-d/llm-d", True),
        ("llm-d/llm-d-routing-sidecar", False),
        ("llm-d/llm-d-inference-sim", False),
        ("vllm/vllm-router", False),
        ("lmcache/lmstack-router", False),
        ("acme/vllm-metrics-exporter", False),
        ("acme/myvllm", False),
        ("vllm/semantic-router", False),
    ],
)
def test_images(image: str, is_vllm: bool) -> None:
    assert any(re.search(pattern, image) for pattern in vllm.ENGINE.images) is is_vllm
