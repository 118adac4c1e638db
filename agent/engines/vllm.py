"""vLLM 0.5 to 0.33, Python and Rust frontends, one or many data-parallel ranks: metrics page in, readings out.

Facts that shape the map (seen in recorded pages of each version):
- Prompt tokens are counted with the cached ones inside. Since 0.16 they are also told apart by source; before, only
  counters that move at different moments exist, and their difference would run backwards. There, `input` holds all.
- The Python frontend declares finished_reason="abort" and never counts a client that went away: its 0 is no fact.
- `_perc` is a ratio 0..1. Of several ranks the fullest is shown: its requests wait although another has room.
- Timeouts are nowhere on the page.
"""

import msgspec

from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading
from agent.engines.arguments import number
from agent.engines.contract import About, Bodies, EngineFile, HealthPaths, Origin, Page, Process, Recognised
from agent.engines.signals import SignalMap, Source, read_signals

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


class _Version(msgspec.Struct):
    version: str | None = None


def matches(scrape: Scrape, _path: str) -> bool:
    """A page with any vLLM series or family; `http_*` and `process_*` alone are any Python server's."""
    return any(name.startswith("vllm:") for name in (*scrape.names(), *scrape.families))


def about(bodies: Bodies) -> About:
    """Version from ``/version``; the models are on the metrics page."""
    version = bodies.get("/version")
    return About(version=version.version if version else None)


def read(page: Page, origin: Origin) -> list[EngineReading]:
    """One reading for each `model_name` of the page."""
    return read_signals(SIGNALS, page.scrape, origin) if page.scrape else []


def recognise(process: Process) -> Recognised | None:
    """``vllm serve``, the older ``python -m vllm.entrypoints...api_server``, and ``vllm-rs``."""
    argv = process.argv
    program = argv[0].rpartition("/")[2] if argv else ""
    serves = "serve" in argv[1:3] and any(word.rpartition("/")[2] == "vllm" for word in argv[:2])
    module = any(word.startswith("vllm.entrypoints.") for word in argv[1:4])
    if not (serves or module or program == "vllm-rs"):
        return None
    return Recognised(port=number(argv, "--port"))


ENGINE = EngineFile(
    kind="vllm",
    title="vLLM",
    read=read,
    recognise=recognise,
    images=(r"(^|/)vllm(-|$)",),
    owners=("vllm", "vllm-frontend-rs"),
    default_ports=(8000,),
    matches=matches,
    about_paths={"/version": _Version},
    about=about,
    health=HealthPaths(live="/health", ready="/health"),
    metrics_hint="vLLM shows its metrics unless it was started with --disable-log-stats: remove that option",
)
