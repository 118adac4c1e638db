"""Triton Inference Server with tensorrtllm_backend, or any other backend: metrics page in, readings out.

Facts that shape the map (from the servers' documentation and issues; no server of it was at hand):
- The page is at a port of its own (8002). Counters have no `_total`, times are sums of microseconds without buckets:
  means are exact, quantiles unknown. Only the first response of streaming models can have buckets (four, in ms).
- One request to the usual TensorRT-LLM pipeline is counted on `ensemble`, and again on `preprocessing`, `tensorrt_llm`
  and `postprocessing`; where `tensorrt_llm_bls` is called instead, on that and again on the same three. So requests and
  times are those of the outermost models, `ensemble` and `*_bls`; what the batch manager tells (`nv_trt_llm_*`, with
  model `tensorrt_llm`) goes into the same reading. Models beside them are readings of their own.
- Of a failed request the ensemble tells the reason OTHER, sometimes twice. Older versions tell no reason.
- Requests wait inside the batch manager: Triton's own queue time of such a model says nothing of that, so it is left
  out. There are no token counts, and no time to first token of what is not streamed.
- The vLLM backend shows vLLM's own metrics, with the label `model` in place of `model_name`.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import reduce
from math import isfinite

import msgspec

from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading, Histogram
from agent.engines import vllm
from agent.engines.contract import About, Bodies, EngineFile, HealthPaths, Origin, Page
from agent.engines.signals import SignalMap, Source, Sources, read_signals
from agent.engines.triton_process import recognise

_MICROSECOND = 1e-6
_BATCHER = "nv_trt_llm_"
_PARTS = frozenset({"preprocessing", "postprocessing", "tensorrt_llm"})
_FAILURES = "nv_inference_request_failure"


def _requests(kind: str) -> Sources:
    return (Source("nv_trt_llm_request_metrics", "gauge", where={"request_type": (kind,)}),)


SIGNALS = SignalMap(
    kind="triton",
    model_label="model",
    values={
        "requests_running": (*_requests("scheduled"), *_requests("active")),
        "requests_waiting": (*_requests("waiting"), Source("nv_inference_pending_request_count", "gauge")),
        "kv_cache_usage_ratio": (
            Source(
                "nv_trt_llm_kv_cache_block_metrics",
                "gauge",
                where={"kv_cache_block_type": ("fraction",)},
                across="max",
            ),
        ),
    },
    requests={
        "ok": (Source("nv_inference_request_success", "counter"),),
        "error": (Source(_FAILURES, "counter", where={"reason": ("BACKEND", "OTHER", "")}),),
        "rejected": (Source(_FAILURES, "counter", where={"reason": ("REJECTED",)}),),
        "client_abort": (Source(_FAILURES, "counter", where={"reason": ("CANCELED",)}),),
    },
    histograms={
        "time_to_first_token_seconds": (
            Source("nv_inference_first_response_histogram_ms", "histogram", scale=1e-3),
            Source("nv_first_response_histogram_ms", "histogram", scale=1e-3),
        ),
    },
)
_OF_VLLM = replace(vllm.SIGNALS, kind="triton", model_label="model")

# What only the batch manager knows, and what is counted on the outermost model.
_INNER = ("requests_running", "requests_waiting", "kv_cache_usage_ratio")


def matches(scrape: Scrape, _path: str) -> bool:
    """A page with Triton's own counters; its vLLM backend's names stand beside them."""
    return any(name.startswith(("nv_inference_", _BATCHER)) for name in (*scrape.names(), *scrape.families))


def read(page: Page, origin: Origin) -> list[EngineReading]:
    """One reading for the TensorRT-LLM pipeline, and one for each model beside it."""
    if page.scrape is None:
        return []
    seconds = {name: _sums(page.scrape, f"nv_inference_{name}_duration_us") for name in ("request", "queue")}
    found = {
        reading.model: _with_times(reading, seconds["request"], seconds["queue"])
        for reading in read_signals(SIGNALS, page.scrape, origin)
    }
    for reading in read_signals(_OF_VLLM, page.scrape, origin):
        known = found.get(reading.model)
        found[reading.model] = _over(reading, known) if known else reading
    return _pipeline_as_one(found, _with_batcher(page.scrape))


def _sums(scrape: Scrape, metric: str) -> dict[str, float]:
    """Model -> seconds, of all its versions."""
    found: dict[str, float] = {}
    for sample in scrape.named(metric):
        if isfinite(sample.value):
            model = sample.key.get("model")
            found[model] = found.get(model, 0.0) + sample.value * _MICROSECOND
    return found


def _with_times(reading: EngineReading, request: dict[str, float], queue: dict[str, float]) -> EngineReading:
    served = (reading.requests_total or {}).get("ok")
    if served is None:
        return reading
    return msgspec.structs.replace(
        reading,
        request_duration_seconds=_without_buckets(served, request.get(reading.model)),
        queue_seconds=_without_buckets(served, queue.get(reading.model)),
    )


def _without_buckets(count: float, seconds: float | None) -> Histogram | None:
    """All that a sum and a count tell."""
    return None if seconds is None else Histogram(bounds=(), counts=(count,), sum=seconds)


def _over(first: EngineReading, second: EngineReading) -> EngineReading:
    """`first`, with what only `second` tells."""
    names = [name for name in EngineReading.__struct_fields__ if getattr(first, name) is None]
    return msgspec.structs.replace(first, **{name: getattr(second, name) for name in names})


def _with_batcher(scrape: Scrape) -> set[str]:
    names = [name for name in scrape.names() if name.startswith(_BATCHER)]
    return {model for name in names for sample in scrape.named(name) if (model := sample.key.get("model"))}


def _pipeline_as_one(found: dict[str, EngineReading], with_batcher: set[str]) -> list[EngineReading]:
    """The readings, those of the pipeline's models as one under the name of the outermost."""
    outer = sorted(model for model in found if model == "ensemble" or model.endswith("_bls"))
    inner = sorted(with_batcher & found.keys())
    if not inner and not (outer and "tensorrt_llm" in found):
        return list(found.values())
    inner = inner or ["tensorrt_llm"]
    whole = _whole([found[model] for model in outer or inner], [found[model] for model in inner])
    beside = [reading for model, reading in found.items() if model not in {*outer, *inner, *_PARTS}]
    return [whole, *beside]


def _whole(outer: list[EngineReading], inner: list[EngineReading]) -> EngineReading:
    """Requests and times of the outermost models, and of the inner ones what only they tell."""
    entries, batcher = reduce(_added, outer), reduce(_added, inner)
    first = entries.time_to_first_token_seconds or batcher.time_to_first_token_seconds
    told = {name: getattr(batcher, name) for name in _INNER}
    return msgspec.structs.replace(entries, **told, time_to_first_token_seconds=first, queue_seconds=None)


def _added(one: EngineReading, other: EngineReading) -> EngineReading:
    """Two models that are called one beside the other, as one under the first's name."""
    durations = [h for h in (one.request_duration_seconds, other.request_duration_seconds) if h]
    firsts = [h for h in (one.time_to_first_token_seconds, other.time_to_first_token_seconds) if h]
    counts = [one.requests_total or {}, other.requests_total or {}]
    kinds = dict.fromkeys(kind for told in counts for kind in told)
    return msgspec.structs.replace(
        one,
        requests_running=_sum((one.requests_running, other.requests_running)),
        requests_waiting=_sum((one.requests_waiting, other.requests_waiting)),
        kv_cache_usage_ratio=max(
            (n for n in (one.kv_cache_usage_ratio, other.kv_cache_usage_ratio) if n is not None), default=None
        ),
        requests_total={kind: sum(told.get(kind, 0.0) for told in counts) for kind in kinds} or None,
        request_duration_seconds=_without_buckets(
            sum(h.count for h in durations), _sum(h.sum for h in durations) if durations else None
        ),
        time_to_first_token_seconds=None if len(firsts) > 1 else next(iter(firsts), None),  # no sum of different bounds
    )


def _sum(values: Iterable[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return sum(told) if told else None


class _Server(msgspec.Struct):
    version: str | None = None


def about(bodies: Bodies) -> About:
    """Version of the server; its models are on the page."""
    server = bodies.get("/v2")
    return About(version=server.version if server else None)


_SIDECAR = "Triton does not count tokens (its vLLM backend does): the sidecar tells them"
_BATCHER_ONLY = "told by tensorrtllm_backend 23.11 and later, but not by its Python backend"
_FROM_FIRST = "told from the first loaded model on"
_REASONS = "told by servers whose page gives the reasons of failures; older ones count all as errors"

ENGINE = EngineFile(
    kind="triton",
    title="Triton Inference Server",
    read=read,
    recognise=recognise,
    images=(r"(^|/)tritonserver(-|$)",),
    default_ports=(8000,),
    metrics_port=8002,
    matches=matches,
    about_paths={"/v2": _Server},
    about=about,
    health=HealthPaths(live="/v2/health/live", ready="/v2/health/ready"),
    metrics_hint=(
        "Triton shows its metrics at a port of their own (8002, or --metrics-port) unless it was started with "
        "--allow-metrics=false: remove that option"
    ),
    absent={
        "requests_running": _BATCHER_ONLY,
        "requests_waiting": _FROM_FIRST,
        "kv_cache_usage_ratio": _BATCHER_ONLY,
        "preemptions_total": "Triton does not tell it",
        "input": _SIDECAR,
        "input_cached": _SIDECAR,
        "output": _SIDECAR,
        "ok": _FROM_FIRST,
        "error": _FROM_FIRST,
        "rejected": _REASONS,
        "timeout": "Triton counts its timeouts among rejected requests; the sidecar tells those of the way",
        "client_abort": f"{_REASONS}; the sidecar tells it of all",
        "request_duration_seconds": f"{_FROM_FIRST}, as a mean: Triton has no buckets for it, the sidecar does",
        "time_to_first_token_seconds": (
            "told with --metrics-config histogram_latencies=true, of streaming models; the sidecar tells it of all"
        ),
        "time_per_output_token_seconds": "Triton does not tell it: the sidecar does",
        "queue_seconds": "requests wait inside TensorRT-LLM's batch manager, which tells how many, not how long",
        "model_memory_bytes": "Triton does not tell it",
    },
    label_values=frozenset(
        {
            "disaggregated_serving_type",
            "general_type",
            "inflight_batcher_specific_metric",
            "kv_cache_block_type",
            "memory_type",
            "model",
            "quantile",
            "reason",
            "request_type",
            "v1_specific_metric",
            "version",
        }
    ),
)
