"""TensorRT-LLM's `trtllm-serve`, 1.0 to 1.3: metrics page or iteration statistics in, readings out.

Facts that shape the map (read in the collector's code and in issues; no server of it was at hand):
- The page is at /prometheus/metrics, with ``return_perf_metrics: true`` only. Counters and histograms are of finished
  requests; the gauges of the engine's iterations need ``enable_iter_perf_stats: true`` as well.
- Three generations of names: up to 1.2 without a prefix and with the model "undefined"; since 1.3 `trtllm_`; Dynamo up
  to 1.2 put `trtllm_` before the old ones. Names without a prefix are any server's: they count at this path only.
  Before the first request the page of old versions is empty: it is a page all the same.
- /metrics is JSON: what each iteration told, handed out once. While the page is on, the server fills the page from the
  same queue, so whoever asks takes away from the counters: it is asked only while there is no page, and only of a
  server that is known to be this one. Of what it holds the newest element tells how it is now; an empty list tells
  nothing, for an idle server tells nothing.
- `prompt_cached_tokens` are inside the prompt's, in another counter. That both always move at the same instant is not
  known, and a difference that runs backwards once would be taken for a restart: `input` holds all.
- A disaggregated server's page is its own; each of its context and generation servers has one.
"""

import msgspec

from agent.core.metrics.exposition import Exposition
from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading
from agent.engines.contract import UNKNOWN_MODEL, About, Bodies, EngineFile, HealthPaths, Origin, Page
from agent.engines.signals import SignalMap, Source, SourceType, read_signals
from agent.engines.trtllm_process import recognise

PROMETHEUS = "/prometheus/metrics"
_PREFIX = "trtllm_"
_UNNAMED = "undefined"  # what servers up to 1.2 call every model
# Enough of the old names to tell their page from another server's.
_OLD_NAMES = frozenset(
    {
        "request_success_total",
        "e2e_request_latency_seconds",
        "e2e_request_latency_seconds_bucket",  # where no line declares it
        "kv_cache_utilization",
    }
)
_EMPTY = Exposition().parse(b"").problems


def _named(metric: str, kind: SourceType, **where: tuple[str, ...]) -> tuple[Source, ...]:
    """Both spellings; of a page with both, the newer."""
    return tuple(Source(f"{prefix}{metric}", kind, where=where) for prefix in (_PREFIX, ""))


def _finished(*reasons: str) -> tuple[Source, ...]:
    """The reason's label was renamed, too."""
    return tuple(
        Source(f"{prefix}request_success_total", "counter", where={label: reasons})
        for prefix in (_PREFIX, "")
        for label in ("finished_reason", "finish_reason")
    )


SIGNALS = SignalMap(
    kind="trtllm",
    model_label="model_name",
    values={
        "requests_running": (Source("trtllm_num_requests_running", "gauge"),),
        "requests_waiting": (Source("trtllm_num_requests_waiting", "gauge"),),
        "kv_cache_usage_ratio": tuple(
            Source(f"{prefix}kv_cache_utilization", "gauge", across="max") for prefix in (_PREFIX, "")
        ),
    },
    tokens={
        "input": (Source("trtllm_prompt_tokens_total", "counter"),),
        "output": (Source("trtllm_generation_tokens_total", "counter"),),
    },
    requests={
        "ok": _finished("stop", "length", "end_id", "stop_words"),
        "error": (
            Source("trtllm_request_error_total", "counter", where={"http_code": ("500", "501", "502", "503", "504")}),
        ),
        "rejected": (
            Source(
                "trtllm_request_error_total",
                "counter",
                where={"http_code": ("400", "401", "403", "404", "408", "409", "413", "415", "422", "429")},
            ),
        ),
        "timeout": _finished("timeout", "timed_out"),
        "client_abort": _finished("cancelled"),
    },
    histograms={
        "request_duration_seconds": _named("e2e_request_latency_seconds", "histogram"),
        "time_to_first_token_seconds": _named("time_to_first_token_seconds", "histogram"),
        "time_per_output_token_seconds": _named("time_per_output_token_seconds", "histogram"),
        "queue_seconds": _named("request_queue_time_seconds", "histogram"),
    },
)


class _KvCache(msgspec.Struct, rename="camel"):
    max_num_blocks: float | None = None
    used_num_blocks: float | None = None


class _Iteration(msgspec.Struct, rename="camel"):
    """What one iteration of the engine told."""

    num_active_requests: float | None = None
    num_queued_requests: float | None = None
    kv_cache_stats: _KvCache | None = None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model] = []


class _Version(msgspec.Struct):
    version: str | None = None


def matches(scrape: Scrape, path: str) -> bool:
    """A page with the prefix, or at /prometheus/metrics one with the names from before it, or an empty one."""
    names = {*scrape.names(), *scrape.families}
    if any(name.startswith(_PREFIX) for name in names):
        return True
    return path == PROMETHEUS and (not names.isdisjoint(_OLD_NAMES) or scrape.problems == _EMPTY)


def about(bodies: Bodies) -> About:
    """Version and model; a model has the name of its folder."""
    version, models = bodies.get("/version"), bodies.get("/v1/models")
    return About(
        version=version.version if version else None,
        model=models.data[0].id if models and models.data else None,
    )


def read(page: Page, origin: Origin) -> list[EngineReading]:
    """One reading; without a page, what the newest iteration told."""
    if page.scrape is None:
        return _of_iterations(page.bodies.get("/metrics"), origin)
    model = origin.about.model or UNKNOWN_MODEL
    return [
        msgspec.structs.replace(reading, model=model) if reading.model == _UNNAMED else reading
        for reading in read_signals(SIGNALS, page.scrape, origin)
    ]


def _of_iterations(iterations: list[_Iteration] | None, origin: Origin) -> list[EngineReading]:
    """Gauges only: an iteration's numbers are of a moment, and iterations that others took away cannot be counted."""
    if not iterations:
        return []
    newest = iterations[-1]
    usage = _usage(newest.kv_cache_stats)
    if (newest.num_active_requests, newest.num_queued_requests, usage) == (None, None, None):
        return []
    return [
        EngineReading(
            engine=origin.engine,
            kind="trtllm",
            url=origin.url,
            model=origin.about.model or UNKNOWN_MODEL,
            read_at_ns=origin.read_at_ns,
            role=origin.about.role,
            requests_running=newest.num_active_requests,  # what the page calls running, too
            requests_waiting=newest.num_queued_requests,
            kv_cache_usage_ratio=usage,
        )
    ]


def _usage(cache: _KvCache | None) -> float | None:
    if cache is None or cache.used_num_blocks is None or not cache.max_num_blocks:
        return None
    return cache.used_num_blocks / cache.max_num_blocks


# These words are shown beside a page too: a series appears when it first has something to tell.
_PAGE = "told with return_perf_metrics: true in the YAML options (--config, --extra_llm_api_options)"
_GAUGES = "told with return_perf_metrics: true and enable_iter_perf_stats: true in the YAML options"
_FROM_FIRST = f"{_PAGE}, from the first finished request on"
_NEW = "by 1.3 and later"

ENGINE = EngineFile(
    kind="trtllm",
    title="TensorRT-LLM",
    read=read,
    recognise=recognise,
    images=(r"(^|/)tensorrt-llm(/|-|$)",),
    owners=("tensorrt_llm",),
    default_ports=(8000,),
    metrics_paths=(PROMETHEUS,),
    matches=matches,
    # Each answer empties the queue that it comes from: never asked while the page is on. The other JSON paths that
    # drain (/perf_metrics, /kv_cache_events) are never asked.
    fallback_paths={"/metrics": list[_Iteration]},
    about_paths={"/version": _Version, "/v1/models": _Models},
    about=about,
    # /health tells of the engine behind it, too: 503 when that has failed. /health_generate is a chat of one token.
    health=HealthPaths(live="/version", ready="/health", generating="/health_generate"),
    metrics_hint=(
        "trtllm-serve shows its metrics (at /prometheus/metrics) only with return_perf_metrics: true in its YAML "
        "options; add enable_iter_perf_stats: true for its queue and its cache. Its JSON /metrics hands each number "
        "out once: while there is no page it is read here, so nobody else should"
    ),
    absent={
        "requests_running": f"{_GAUGES} {_NEW}",
        "requests_waiting": f"{_GAUGES} {_NEW}",
        "kv_cache_usage_ratio": _GAUGES,
        "preemptions_total": "TensorRT-LLM does not count them: it tells the paused requests of the last moment only",
        "input": f"{_FROM_FIRST}, {_NEW}; before, the sidecar tells it",
        "input_cached": "TensorRT-LLM counts them inside the prompts' tokens, in input; the sidecar tells them apart",
        "output": f"{_FROM_FIRST}, {_NEW}; before, the sidecar tells it",
        "ok": _FROM_FIRST,
        "error": f"{_PAGE} {_NEW}, from the first on; most failures it answers with 400, so they are among rejected",
        "rejected": f"{_PAGE} {_NEW}, from the first refusal on",
        "timeout": f"{_PAGE}, from the first timeout of the engine's own on; the sidecar tells all",
        "client_abort": f"{_PAGE}, from the first abort on that the engine counts; the sidecar tells all",
        "request_duration_seconds": _FROM_FIRST,
        "time_to_first_token_seconds": _FROM_FIRST,
        "time_per_output_token_seconds": f"{_FROM_FIRST} that has more than one token",
        "queue_seconds": _FROM_FIRST,
        "model_memory_bytes": "TensorRT-LLM tells the memory of weights and cache as one number",
    },
    label_values=frozenset({"engine_type", "finish_reason", "finished_reason", "http_code"}),
)
