"""vLLM 0.5 to 0.33, Python and Rust front ends, one rank or many, alone or on Ray: metrics page in, readings out.

Facts that shape the map (seen in recorded pages of each version):
- Prompt tokens are counted with the cached ones inside. Since 0.16 they are also told apart by source; before, only
  counters that move at different moments exist, and their difference would run backwards. There, `input` holds all.
- The Python front end declares finished_reason="abort" and never counts a client that went away: its 0 is no fact. The
  Rust front end counts them.
- `_perc` is a ratio 0..1. Of several ranks the fullest is shown: its requests wait although another has room.
- Timeouts are nowhere on the page.
- `http_requests_total` is not used. It names no model; its `5xx` holds the rejected requests that have a counter of
  their own; and what fails after the first byte is a `2xx` there but finished_reason="error" here. So it is neither the
  errors nor a part of them that could be added to those. (`4xx` never reached the engine.)
- On Ray the same metrics come through Ray's own page: each worker process has its series, and a counter appears at its
  first increment. vLLM 0.10 and later replace the colon by an underscore (seen with Ray 2.60). Ray called counters
  gauges, without a suffix, before 2.10, and may show them so beside the true ones since (its documentation).
"""

from collections.abc import Mapping
from dataclasses import replace

import msgspec

from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading
from agent.engines.contract import About, Bodies, EngineFile, HealthPaths, Origin, Page
from agent.engines.signals import SignalMap, Source, Sources, SourceType, read_signals
from agent.engines.vllm_process import recognise

_FINISHED = "vllm:request_success_total"
_BY_SOURCE = "vllm:prompt_tokens_by_source_total"

SIGNALS = SignalMap(
    kind="vllm",
    model_label="model_name",
    values={
        "requests_running": (Source("vllm:num_requests_running", "gauge"),),
        "requests_waiting": (Source("vllm:num_requests_waiting", "gauge"),),
        "kv_cache_usage_ratio": (
            Source("vllm:kv_cache_usage_perc", "gauge", across="max"),
            Source("vllm:gpu_cache_usage_perc", "gauge", across="max"),  # up to 0.10
        ),
        "preemptions_total": (Source("vllm:num_preemptions_total", "counter"),),
    },
    tokens={
        "input": (
            Source(_BY_SOURCE, "counter", where={"source": ("local_compute",)}),  # 0.16 and later
            Source("vllm:prompt_tokens_total", "counter"),
        ),
        "input_cached": (Source(_BY_SOURCE, "counter", where={"source": ("local_cache_hit", "external_kv_transfer")}),),
        "output": (Source("vllm:generation_tokens_total", "counter"),),
    },
    requests={
        "ok": (Source(_FINISHED, "counter", where={"finished_reason": ("stop", "length", "repetition")}),),
        "error": (Source(_FINISHED, "counter", where={"finished_reason": ("error",)}),),  # 0.13 and later
        "client_abort": (
            Source(_FINISHED, "counter", where={"finished_reason": ("abort",)}, zero_means_uncounted=True),
        ),
        "rejected": (Source("vllm:admission_rejections_total", "counter"),),  # 0.33
    },
    histograms={
        "request_duration_seconds": (Source("vllm:e2e_request_latency_seconds", "histogram"),),
        "time_to_first_token_seconds": (Source("vllm:time_to_first_token_seconds", "histogram"),),
        "time_per_output_token_seconds": (
            Source("vllm:request_time_per_output_token_seconds", "histogram"),  # mean of each request, as the sidecar's
            Source("vllm:inter_token_latency_seconds", "histogram"),  # each gap
            Source("vllm:time_per_output_token_seconds", "histogram"),  # the older name of the gaps
        ),
        "queue_seconds": (
            Source("vllm:request_queue_time_seconds", "histogram"),
            Source("vllm:time_in_queue_requests", "histogram"),  # 0.6
        ),
    },
)


def _on_ray(signals: Mapping[str, Sources]) -> dict[str, Sources]:
    return {
        name: tuple(one for source in sources for one in _names_on_ray(source)) for name, sources in signals.items()
    }


def _names_on_ray(source: Source) -> Sources:
    spelled = ("ray_" + source.metric.replace(":", "_"), "ray_" + source.metric)
    if source.type != "counter":
        return tuple(replace(source, metric=name) for name in spelled)
    names = (*spelled, *(name.removesuffix("_total") for name in spelled))
    kinds: tuple[SourceType, ...] = ("counter", "gauge")
    return tuple(replace(source, metric=name, type=kind) for name in names for kind in kinds)


RAY_SIGNALS = replace(
    SIGNALS,
    values=_on_ray(SIGNALS.values),
    tokens=_on_ray(SIGNALS.tokens),
    requests=_on_ray(SIGNALS.requests),
    histograms=_on_ray(SIGNALS.histograms),
)

# Where prompt tokens are told by source, those computed here may still be missing: then all of them are not the answer.
RAY_SIGNALS_BY_SOURCE = replace(
    RAY_SIGNALS,
    tokens={**RAY_SIGNALS.tokens, "input": tuple(s for s in RAY_SIGNALS.tokens["input"] if "_by_source" in s.metric)},
)

_PREFIXES = ("vllm:", "ray_vllm_", "ray_vllm:")
_NOT_THE_ENGINE = ("nv_inference_", "vllm:current_qps")  # Triton with its vLLM backend; a router in front of engines


class _Version(msgspec.Struct):
    version: str | None = None


def matches(scrape: Scrape, _path: str) -> bool:
    """A page with any vLLM series or family; `http_*` and `process_*` alone are any Python server's."""
    names = (*scrape.names(), *scrape.families)
    return any(name.startswith(_PREFIXES) for name in names) and not any(
        name.startswith(_NOT_THE_ENGINE) for name in names
    )


def about(bodies: Bodies) -> About:
    """Version from ``/version``; the models are on the metrics page."""
    version = bodies.get("/version")
    return About(version=version.version if version else None)


def read(page: Page, origin: Origin) -> list[EngineReading]:
    """One reading for each `model_name` of the page, all ranks and replicas of it together."""
    if page.scrape is None:
        return []
    by_source = any(page.scrape.named(source.metric) for source in RAY_SIGNALS_BY_SOURCE.tokens["input"])
    on_ray = RAY_SIGNALS_BY_SOURCE if by_source else RAY_SIGNALS
    return read_signals(SIGNALS, page.scrape, origin) or read_signals(on_ray, page.scrape, origin)


_NO_STATS = "vLLM shows it unless it was started with --disable-log-stats: remove that option"
_FINISHED_ONLY = f"{_NO_STATS}; it is on the page from the first finished request at the latest"

ABSENT = {
    "requests_running": _NO_STATS,
    "requests_waiting": _NO_STATS,
    "kv_cache_usage_ratio": _NO_STATS,
    "preemptions_total": f"{_NO_STATS}; on Ray it is on the page from the first preemption",
    "input": _NO_STATS,
    "input_cached": "vLLM tells cached prompt tokens apart since 0.16: before, `input` holds them too; upgrade vLLM",
    "output": _NO_STATS,
    "ok": _FINISHED_ONLY,
    "error": (
        "vLLM counts requests that failed in the engine since 0.13 (with the Rust front end and on Ray: from the first "
        "one); upgrade vLLM, or put the sidecar in front of it, which counts what clients saw"
    ),
    "timeout": "no vLLM has a time limit for requests, so it counts none: the sidecar in front of it does",
    "client_abort": (
        "vLLM's Python front end does not count clients that went away: put the sidecar in front of it, or start vLLM "
        "with VLLM_USE_RUST_FRONTEND=1, which shows them from the first one"
    ),
    "rejected": (
        "vLLM's Python front end counts rejected requests since 0.33 (it rejects only with --max-num-queued-reqs or "
        "--max-num-queued-tokens); the Rust front end and older ones do not count them: the sidecar in front of it does"
    ),
    "request_duration_seconds": _FINISHED_ONLY,
    "time_to_first_token_seconds": _FINISHED_ONLY,
    "time_per_output_token_seconds": _FINISHED_ONLY,
    "queue_seconds": f"{_FINISHED_ONLY}; vLLM before 0.6 does not tell it",
    "model_memory_bytes": "vLLM does not tell the memory of its model apart: see the GPU's memory",
}

ENGINE = EngineFile(
    kind="vllm",
    title="vLLM",
    read=read,
    recognise=recognise,
    images=(
        r"(^|/)(nm-|odh-)?vllm(?![\w.-]*(router|simulator|exporter|benchmark))($|-)",
        r"(^|/)llm-d(-(cuda|rocm|xpu|hpu|cpu|tpu|aws|gb200|dev|debug))*$",
    ),
    owners=("vllm", "vllm-frontend-rs"),
    default_ports=(8000,),
    matches=matches,
    about_paths={"/version": _Version},
    about=about,
    health=HealthPaths(live="/health", ready="/health"),
    bounds_flag="--custom-histogram-buckets",
    metrics_hint="vLLM shows its metrics unless it was started with --disable-log-stats: remove that option",
    absent=ABSENT,
)
