"""SGLang 0.4.1 to 0.5.23, and its gateway: metrics page or load report in, readings out.

Facts that shape the map (read in the code of those versions, seen in recorded pages):
- Series appear when they first have something to tell: absence is no zero.
- Ranks. Every scheduler that reports (the first of each tensor-parallel group, or with
  --enable-metrics-for-all-schedulers all of them) tells the same of its group: `tp_rank`, `pp_rank` and `moe_ep_rank`
  repeat, `dp_rank` adds up. With priorities, queues are told once as a whole (no `priority` label) and again for each.
- Tokens and requests are those of finished requests, of all ranks on all nodes. `realtime_tokens_total` moves while
  requests run, but is no count of what was answered: it lacks each first token, and has the discarded last step of
  overlap scheduling, retracted work, and the token of every health probe. A bill needs the exact one.
- Cached tokens are inside the prompts'. Since 0.5.16 a histogram sums up the others, so both kinds are told apart by
  counters that never go back; before, `input` holds all: a difference of two counters runs backwards at times.
- With prefill and decode apart, both engines count every prompt, and the first token of every answer: here the one
  that does the work tells it, `input` the prefill engine, `output` the decode engine.
- Requests that were aborted are among the finished ones; nothing tells how a request finished. Queues that are full
  and timeouts are 503 like failures, or inside a stream.
- The gateway shows its workers' pages as `sglang_*` with `worker_addr`: one reading for each model, of all workers.
  Watch it or its workers: whoever watches both counts everything twice. Discovery never takes it for an engine.
"""

from functools import lru_cache

import msgspec

from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading
from agent.engines.contract import UNKNOWN_MODEL, About, Bodies, EngineFile, HealthPaths, Origin, Page
from agent.engines.sglang_process import recognise
from agent.engines.signals import ROLES, SignalMap, Source, Sources, SourceType, read_signals

ENGINE_PREFIX, GATEWAY_PREFIX = "sglang:", "sglang_"
_RANKS = ("pid", "tp_rank", "pp_rank", "moe_ep_rank")

# Paths that make tokens; others (health, metrics, administration) are no requests for this account.
_ENDPOINTS = (
    "/generate",
    "/encode",
    "/classify",
    "/invocations",
    "/vertex_generate",
    "/api/chat",
    "/api/generate",
    "/v1/audio/transcriptions",
    "/v1/chat/completions",
    "/v1/classify",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/rerank",
    "/v1/responses",
    "/v1/score",
)
_REFUSED = ("400", "401", "403", "404", "408", "409", "413", "415", "422", "429")
_FAILED = ("500", "501", "502", "503", "504")


@lru_cache(maxsize=2)
def signals(prefix: str) -> SignalMap:
    """The map for names that begin with `prefix`."""

    def scheduler(name: str, kind: SourceType, **more: object) -> Source:
        return Source(prefix + name, kind, repeated_over=_RANKS, **more)  # type: ignore[arg-type]

    def queue(name: str) -> Source:
        return scheduler(name, "gauge", where={"priority": ("",)})

    def answers(*statuses: str) -> Sources:
        where = {"endpoint": _ENDPOINTS, "status_code": statuses}
        return (Source(f"{prefix}http_responses_total", "counter", where=where),)  # 0.5.10 and later

    return SignalMap(
        kind="sglang",
        model_label="model_name",
        role_label="engine_type",
        values={
            "requests_running": (queue("num_running_reqs"),),
            "requests_waiting": (
                scheduler(
                    "num_queue_reqs",
                    "gauge",
                    where={"priority": ("",)},
                    plus=(
                        queue("num_grammar_queue_reqs"),
                        queue("num_prefill_bootstrap_queue_reqs"),  # 0.5.16; before that:
                        queue("num_prefill_prealloc_queue_reqs"),
                        queue("num_decode_prealloc_queue_reqs"),
                        queue("num_decode_transfer_queue_reqs"),
                    ),
                ),
            ),
            "kv_cache_usage_ratio": (scheduler("token_usage", "gauge", across="max"),),
            "preemptions_total": (
                scheduler("num_retracted_requests_total", "counter"),  # 0.5.10 and later
                scheduler("total_retracted_reqs", "gauge"),  # 0.4.10 to 0.5.2; between them only of the last moment
            ),
        },
        tokens={
            "input": (
                Source(f"{prefix}uncached_prompt_tokens_histogram_sum", "histogram"),  # 0.5.16 and later
                Source(f"{prefix}prompt_tokens_total", "counter"),
            ),
            "input_cached": (Source(f"{prefix}cached_tokens_total", "counter"),),
            "output": (Source(f"{prefix}generation_tokens_total", "counter"),),
        },
        requests={
            "ok": (Source(f"{prefix}num_requests_total", "counter"),),
            "error": answers(*_FAILED),
            "rejected": answers(*_REFUSED),
            "client_abort": (Source(f"{prefix}num_aborted_requests_total", "counter"),),
        },
        histograms={
            "request_duration_seconds": (Source(f"{prefix}e2e_request_latency_seconds", "histogram"),),
            "time_to_first_token_seconds": (Source(f"{prefix}time_to_first_token_seconds", "histogram"),),
            "time_per_output_token_seconds": (
                Source(f"{prefix}request_time_per_output_token_seconds", "histogram"),  # 0.5.23: mean of each request
                Source(f"{prefix}inter_token_latency_seconds", "histogram"),  # each gap
                Source(f"{prefix}time_per_output_token_seconds", "histogram"),  # 0.4.1: the older name of the gaps
            ),
            "queue_seconds": (
                scheduler("queue_time_seconds", "histogram"),
                scheduler("queue_time_s", "histogram"),  # 0.5.2
            ),
        },
    )


class _Load(msgspec.Struct):
    """One data-parallel rank."""

    num_running_reqs: float | None = None
    num_waiting_reqs: float | None = None
    token_usage: float | None = None


class _Loads(msgspec.Struct):
    version: str | None = None
    loads: list[_Load] = []


class _Model(msgspec.Struct):
    id: str
    parent: str | None = None  # of a LoRA adapter: the model it changes


class _Models(msgspec.Struct):
    data: list[_Model] = []


class _ModelInfo(msgspec.Struct):
    disaggregation_mode: str | None = None


def _prefix(scrape: Scrape) -> str | None:
    found = None
    for name in (*scrape.names(), *scrape.families):
        if name.startswith(ENGINE_PREFIX):
            return ENGINE_PREFIX
        if name.startswith(GATEWAY_PREFIX):
            found = GATEWAY_PREFIX
    return found


def matches(scrape: Scrape, _path: str) -> bool:
    """A page with any series or family of SGLang, or of its gateway."""
    return _prefix(scrape) is not None


def about(bodies: Bodies) -> About:
    """Model, version (0.5.10 and later) and role (0.5.23), from paths that hold no secrets."""
    models, loads, info = bodies.get("/v1/models"), bodies.get("/v1/loads"), bodies.get("/model_info")
    names = [model.id for model in models.data if model.parent is None] if models else []
    return About(
        model=names[0] if names else None,
        version=loads.version if loads else None,
        role=ROLES.get(info.disaggregation_mode) if info else None,
    )


def read(page: Page, origin: Origin) -> list[EngineReading]:
    """One reading for each `model_name` of the page; without a page, what the load report tells."""
    if page.scrape is None:
        return _of_loads(page.bodies.get("/v1/loads"), origin)
    prefix = _prefix(page.scrape)
    if prefix is None:
        return []
    disjoint = f"{prefix}uncached_prompt_tokens_histogram_sum" in page.scrape.names()
    return [_with_own_tokens(reading, disjoint) for reading in read_signals(signals(prefix), page.scrape, origin)]


def _with_own_tokens(reading: EngineReading, disjoint: bool) -> EngineReading:
    """Without cached tokens that `input` holds too, and without those that the other half of the service tells."""
    foreign = {"prefill": {"output"}, "decode": {"input", "input_cached"}}.get(reading.role or "", set())
    told = reading.tokens_total or {}
    own = {kind: n for kind, n in told.items() if kind not in foreign and (disjoint or kind != "input_cached")}
    return reading if own == told else msgspec.structs.replace(reading, tokens_total=own or None)


def _of_loads(loads: _Loads | None, origin: Origin) -> list[EngineReading]:
    ranks = loads.loads if loads else []
    running = [n for rank in ranks if (n := rank.num_running_reqs) is not None]
    waiting = [n for rank in ranks if (n := rank.num_waiting_reqs) is not None]
    usage = [n for rank in ranks if (n := rank.token_usage) is not None]
    if not (running or waiting or usage):
        return []
    return [
        EngineReading(
            engine=origin.engine,
            kind="sglang",
            url=origin.url,
            model=origin.about.model or UNKNOWN_MODEL,
            read_at_ns=origin.read_at_ns,
            role=origin.about.role,
            requests_running=sum(running) if running else None,
            requests_waiting=sum(waiting) if waiting else None,
            kv_cache_usage_ratio=max(usage, default=None),
        )
    ]


# These words are shown beside a page too: SGLang shows a series when it first has something to tell.
_ENABLED = "told with --enable-metrics"
_FROM_FIRST = f"{_ENABLED}, from the first finished request on"

ENGINE = EngineFile(
    kind="sglang",
    title="SGLang",
    read=read,
    recognise=recognise,
    images=(r"(^|/)sglang(-(?!router|gateway)|$)",),
    owners=("sglang",),
    default_ports=(30000,),
    matches=matches,
    # Never /get_server_info or /server_info: they hold all arguments, API keys among them. Not /get_load and
    # /get_model_info either: newer versions log a warning each time.
    fallback_paths={"/v1/loads": _Loads},
    about_paths={"/v1/models": _Models, "/v1/loads": _Loads, "/model_info": _ModelInfo},
    about=about,
    # /health makes a token in every version after 0.4.1, unless it was switched off; /ready came with 0.5.23 and only
    # looks at a flag, as /ping does since then (before, /ping is static). With --api-key, /ping is behind it.
    health=HealthPaths(live="/ping", ready="/ready", generating="/health_generate"),
    bounds_flag="--bucket-e2e-request-latency",
    metrics_hint="SGLang shows no metrics unless it is started with --enable-metrics: add that option",
    absent={
        "requests_running": f"{_ENABLED}; of data-parallel ranks on other nodes it is not told",
        "requests_waiting": _ENABLED,
        "kv_cache_usage_ratio": _ENABLED,
        "preemptions_total": f"{_ENABLED} by 0.4.10 to 0.5.2, and by 0.5.10 and later from the first retraction on",
        "input": f"{_FROM_FIRST}; with prefill and decode apart the prefill engine tells it",
        "input_cached": (
            f"{_ENABLED} by 0.5.16 and later, from the first request on that finds something in the cache; before, "
            "input holds it. --enable-cache-report tells it to the sidecar, for each request"
        ),
        "output": f"{_FROM_FIRST}; with prefill and decode apart the decode engine tells it",
        "ok": _FROM_FIRST,
        "error": f"{_ENABLED} by 0.5.10 and later, from the first on; failures inside streams only the sidecar sees",
        "rejected": f"{_ENABLED} by 0.5.10 and later, from the first refusal on",
        "timeout": "SGLang counts its timeouts among errors (503), or not at all: the sidecar tells them",
        "client_abort": f"{_ENABLED} by 0.4.10 and later, from the first abort on",
        "request_duration_seconds": _FROM_FIRST,
        "time_to_first_token_seconds": f"{_FROM_FIRST}; with prefill and decode apart the decode engine tells it",
        "time_per_output_token_seconds": f"{_FROM_FIRST} that has more than one token",
        "queue_seconds": f"{_ENABLED} by 0.5.2 and later, from the first request on",
        "model_memory_bytes": "SGLang tells it of one GPU only, not of the whole engine",
    },
    label_values=frozenset(
        {
            "cache_source",
            "dp_rank",
            "engine_type",
            "is_streaming",
            "mode",
            "moe_ep_rank",
            "pp_rank",
            "priority",
            "stage",
            "status_code",
            "tp_rank",
        }
    ),
)
