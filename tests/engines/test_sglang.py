"""SGLang's pages and load report: which series make which signal, and what is never put together."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.metrics.exposition import Exposition
from agent.core.readings import EngineReading
from agent.engines.contract import About
from agent.engines.registry import classify
from agent.engines.sglang import ENGINE
from tests.support.engine_pages import about_of, read_page

HERE = Path(__file__).parent
MODELS = b'{"data":[{"id":"m","parent":null,"root":"/models/m"},{"id":"adapter","parent":"m"}]}'
LOADS = (
    b'{"timestamp":"2026-11-23T22:00:00+00:00","version":"0.5.23","accelerator":"NVIDIA H100","num_accelerators":1,'
    b'"loads":[{"dp_rank":0,"num_running_reqs":3,"num_waiting_reqs":1,"token_usage":0.25,"gen_throughput":12.5},'
    b'{"dp_rank":1,"num_running_reqs":5,"num_waiting_reqs":0,"token_usage":0.5}]}'
)


def readings(page: str) -> list[EngineReading]:
    return read_page(ENGINE, page.encode())


def one(page: str) -> EngineReading:
    (reading,) = readings(page)
    return reading


def gauge(name: str, value: float, **labels: object) -> str:
    inside = ",".join(f'{label}="{text}"' for label, text in {"model_name": "m", **labels}.items())
    return f"# TYPE sglang:{name} gauge\nsglang:{name}{{{inside}}} {value}\n"


def histogram(name: str, count: float, **labels: object) -> str:
    inside = ",".join(f'{label}="{text}"' for label, text in {"model_name": "m", **labels}.items())
    lines = [f'sglang:{name}_bucket{{{inside},le="{le}"}} {n}' for le, n in (("1.0", count - 1), ("+Inf", count))]
    return "\n".join((f"# TYPE sglang:{name} histogram", f"sglang:{name}_sum{{{inside}}} {count}", *lines)) + "\n"


def test_ranks_that_tell_the_same_count_once_and_data_parallel_ranks_add_up() -> None:
    page = "".join(
        gauge("num_running_reqs", 10 * (dp + 1), tp_rank=2 * dp + tp, pp_rank=pp, dp_rank=dp, moe_ep_rank=tp)
        + histogram("queue_time_seconds", 10 * dp + 5 + tp, tp_rank=2 * dp + tp, pp_rank=pp, dp_rank=dp)
        for dp in (0, 1)
        for tp in (0, 1)
        for pp in (0, 1)
    )
    reading = one(page)
    assert reading.requests_running == 30
    assert reading.queue_seconds is not None
    assert (reading.queue_seconds.count, reading.queue_seconds.sum) == (6 + 16, 6 + 16)


def test_queues_of_priorities_are_parts_of_the_whole() -> None:
    page = gauge("num_queue_reqs", 5) + gauge("num_queue_reqs", 3, priority=1) + gauge("num_queue_reqs", 2, priority=2)
    assert one(page).requests_waiting == 5


def test_all_queues_before_the_running_ones_are_waiting() -> None:
    names = ("num_queue_reqs", "num_grammar_queue_reqs", "num_prefill_bootstrap_queue_reqs")
    page = "".join(gauge(name, 1) for name in names) + gauge("num_prefill_inflight_queue_reqs", 50)
    assert one(page).requests_waiting == 3
    assert readings(gauge("num_grammar_queue_reqs", 4)) == []  # without the queue itself the rest is no number of it


def test_custom_labels_and_kinds_of_requests_are_added() -> None:
    page = "".join(
        f'sglang:num_requests_total{{model_name="m",is_streaming="{s}",priority="{p}",tenant="{t}"}} 1\n'
        for s in ("true", "false")
        for p in ("", "1")
        for t in ("a", "b")
    )
    assert one(page).requests_total == {"ok": 8.0}


def test_tokens_are_those_of_finished_requests_not_the_live_ones() -> None:
    page = 'sglang:generation_tokens_total{model_name="m"} 100\n'
    page += 'sglang:realtime_tokens_total{model_name="m",mode="decode",tp_rank="0"} 117\n'
    assert one(page).tokens_total == {"output": 100.0}


def test_cached_tokens_are_told_apart_only_where_nothing_needs_to_be_subtracted() -> None:
    page = 'sglang:prompt_tokens_total{model_name="m"} 100\nsglang:cached_tokens_total{model_name="m"} 40\n'
    assert one(page).tokens_total == {"input": 100.0}
    assert one('sglang:cached_tokens_total{model_name="m"} 40\n').tokens_total is None
    page += histogram("uncached_prompt_tokens_histogram", 60)
    assert one(page).tokens_total == {"input": 60.0, "input_cached": 40.0}


@pytest.mark.parametrize(
    ("role", "tokens"),
    [("prefill", {"input": 100.0}), ("decode", {"output": 7.0}), (None, {"input": 100, "output": 7})],
)
def test_prefill_and_decode_tell_a_token_once(role: str | None, tokens: dict[str, float]) -> None:
    page = 'sglang:prompt_tokens_total{model_name="m"} 100\nsglang:generation_tokens_total{model_name="m"} 7\n'
    page += gauge("num_running_reqs", 1, engine_type=role or "unified")
    assert (one(page).role, one(page).tokens_total) == (role, tokens)


def test_answers_name_no_model_and_belong_to_the_only_one() -> None:
    page = gauge("num_running_reqs", 1) + "".join(
        f'sglang:http_responses_total{{endpoint="{path}",method="POST",status_code="{status}"}} {n}\n'
        for path, status, n in (
            ("/v1/chat/completions", "200", 90),
            ("/v1/chat/completions", "400", 3),
            ("/generate", "429", 4),
            ("/generate", "500", 5),
            ("/v1/completions", "503", 6),
            ("/health", "503", 1000),
        )
    )
    assert one(page).requests_total == {"rejected": 7.0, "error": 11.0}


def test_look_alikes_of_histograms_and_what_is_not_a_number_are_left_out() -> None:
    page = gauge("fwd_occupancy", float("nan")) + gauge("token_usage", float("nan"))
    page += gauge("routing_key_all_req_count", 3, gt=0, le=1) + gauge("queue_time_seconds_bucket", 3, gt=0, le="+Inf")
    assert readings(page) == []


def test_one_name_of_a_signal_that_has_several_counts() -> None:
    page = '# TYPE sglang:num_retracted_requests_total counter\nsglang:num_retracted_requests_total{model_name="m"} 4\n'
    assert one(page + gauge("total_retracted_reqs", 9)).preemptions_total == 4
    assert one(gauge("total_retracted_reqs", 9)).preemptions_total == 9
    assert readings(gauge("num_retracted_reqs", 2)) == []  # of the last moment: no count of them


def test_gateway_shows_one_reading_for_each_model_of_all_its_workers() -> None:
    page = "# TYPE sglang_num_running_reqs gauge\n" + "".join(
        f'sglang_num_running_reqs{{model_name="{model}",tp_rank="{tp}",worker_addr="grpc://{worker}"}} {n}\n'
        for model, worker, tp, n in (("a", "1", 0, 2), ("a", "1", 1, 2), ("a", "2", 0, 3), ("b", "3", 0, 4))
    )
    assert {r.model: r.requests_running for r in readings(page)} == {"a": 5.0, "b": 4.0}


def test_page_with_both_prefixes_is_the_engines_own() -> None:
    page = gauge("num_running_reqs", 1) + 'sglang_num_running_reqs{model_name="m",worker_addr="w"} 1\n'
    assert one(page).requests_running == 1


def test_load_report_stands_in_for_the_page() -> None:
    (reading,) = read_page(ENGINE, None, {"/v1/loads": LOADS, "/v1/models": MODELS})
    assert (reading.model, reading.requests_running, reading.requests_waiting) == ("m", 8.0, 1.0)
    assert reading.kv_cache_usage_ratio == 0.5
    assert reading.tokens_total is None
    assert read_page(ENGINE, None, {"/v1/loads": b'{"loads":[]}'}) == []
    assert read_page(ENGINE, None, {"/v1/loads": b'{"loads":"none"}'}) == []
    assert read_page(ENGINE, None, {}) == []


def test_about_is_taken_from_paths_without_secrets() -> None:
    about = about_of(
        ENGINE,
        {
            "/v1/loads": LOADS,
            "/v1/models": MODELS,
            "/model_info": b'{"model_path":"/x","disaggregation_mode":"decode"}',
        },
    )
    assert about == About(model="m", version="0.5.23", role="decode")
    assert about_of(ENGINE, {"/model_info": b'{"disaggregation_mode":"null"}'}).role is None
    assert not ENGINE.paths & {"/get_server_info", "/server_info", "/get_model_info", "/get_load"}


def test_probes_at_every_scrape_make_no_token() -> None:
    assert {ENGINE.health.live, ENGINE.health.ready}.isdisjoint({"/health", "/health_generate"})
    assert ENGINE.health.generating == "/health_generate"


@pytest.mark.parametrize("name", ["aibrix-issue-1614-excerpt", "smg-gateway-sanitized-excerpt"])
def test_published_excerpts_are_recognised(shared: Path, name: str) -> None:
    page = (shared / "captures" / "sglang" / f"{name}.prom").read_bytes()
    assert classify(Exposition().parse(page)) is ENGINE
    assert read_page(ENGINE, page) == []  # they hold none of the signals


def test_values_that_go_back_and_names_that_change_are_read_as_they_are() -> None:
    before, after = gauge("num_running_reqs", 9), gauge("num_running_reqs", 2).replace('"m"', '"n"')
    assert [(r.model, r.requests_running) for r in (one(before), one(after))] == [("m", 9.0), ("n", 2.0)]
    assert one(before + before.replace("9", "4")).requests_running == 4  # given twice: the last holds
    assert readings(before.replace("gauge", "histogram")) == []  # another type


PAGES = {folder.name: (folder / "metrics.prom").read_bytes() for folder in (HERE / "sglang").iterdir()}


@settings(deadline=None)  # pages of many lines, on a machine with other work
@given(st.sampled_from(sorted(PAGES)), st.integers(0), st.integers(1, 400))
def test_pages_with_lines_lost_never_invent_a_value(version: str, start: int, lost: int) -> None:
    lines = PAGES[version].splitlines(keepends=True)
    start %= len(lines)
    (whole,) = read_page(ENGINE, PAGES[version])
    prompts = sum(sample.value for sample in Exposition().parse(PAGES[version]).named("sglang:prompt_tokens_total"))
    most = {**(whole.tokens_total or {}), "input": prompts}  # all of them where the sum of uncached ones is lost
    for reading in read_page(ENGINE, b"".join(lines[:start] + lines[start + lost :])):
        assert reading.model == whole.model
        assert all(count <= most[kind] for kind, count in (reading.tokens_total or {}).items())
        assert (reading.requests_running or 0) <= (whole.requests_running or 0)
