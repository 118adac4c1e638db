"""vLLM 0.5 to 0.33, Python and Rust frontends, one or many data-parallel ranks: metrics page in, readings out.

Facts that shape the map (seen in recorded pages of each version):
- Prompt tokens are counted with the cached ones inside. Since 0.16 they are also told apart by source; before, only
  counters that move at different moments exist, and their difference would run backwards. There, `input` holds all.
- The Python frontend declares finished_reason="abort" and never counts a client that went away: its 0 is no fact.
- `_perc` is a ratio 0..1. Of several ranks the fullest is shown: its requests wait although another has room.
- Timeouts are nowhere on the page.
"""

from collections.abc import Mapping

import msgspec

from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading
from agent.engines.contract import About, Origin
from agent.engines.signals import SignalMap, Source, read_signals

KIND = "vllm"
DEFAULT_PORTS = (8000,)
METRICS_PATH = "/metrics"
ABOUT_PATHS = ("/version",)
METRICS_HINT = "vLLM shows its metrics unless it was started with --disable-log-stats: remove that option"

_FINISHED = "vllm:request_success_total"
_BY_SOURCE = "vllm:prompt_tokens_by_source_total"

SIGNALS = SignalMap(
    kind=KIND,
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


class _Version(msgspec.Struct):
    version: str | None = None


def matches(scrape: Scrape) -> bool:
    """A page with any vLLM series or family; `http_*` and `process_*` alone are any Python server's."""
    return any(name.startswith("vllm:") for name in (*scrape.names(), *scrape.families))


def about(bodies: Mapping[str, bytes]) -> About:
    """Version from ``/version``; the models are on the metrics page."""
    try:
        return About(version=msgspec.json.decode(bodies.get("/version", b"{}"), type=_Version).version)
    except msgspec.DecodeError:
        return About()


def read(scrape: Scrape, origin: Origin) -> list[EngineReading]:
    """One reading for each `model_name` of the page."""
    return read_signals(SIGNALS, scrape, origin)
