"""A metrics page of Triton with tensorrtllm_backend, made from the documented names: no server of it was at hand.

`python -m tests.support.triton_page > metrics.prom` writes the page of the capture folder.
"""

import sys
from collections.abc import Iterator, Mapping

PIPELINE = ("ensemble", "preprocessing", "tensorrt_llm", "postprocessing", "tensorrt_llm_bls")
BATCHER = {
    "request_metrics": ("request_type", {"waiting": 3, "context": 1, "scheduled": 7, "max": 512, "active": 8}),
    "runtime_memory_metrics": ("memory_type", {"pinned": 0, "gpu": 1610236, "cpu": 0}),
    "kv_cache_block_metrics": (
        "kv_cache_block_type",
        {"fraction": 0.4875, "tokens_per": 64, "used": 3042, "free": 3197, "max": 6239},
    ),
    "inflight_batcher_metrics": (
        "inflight_batcher_specific_metric",
        {"micro_batch_id": 0, "generation_requests": 6, "total_context_tokens": 812},
    ),
    "general_metrics": ("general_type", {"iteration_counter": 90210, "timestamp": 1700074049}),
}
TIMES = ("request", "queue", "compute_input", "compute_infer", "compute_output")
BUCKETS = {"100": 5, "500": 20, "2000": 38, "5000": 39, "+Inf": 40}


def series(name: str, value: float, **labels: str) -> str:
    """One line, as Triton writes it."""
    inside = ",".join(f'{label}="{text}"' for label, text in labels.items())
    return f"{name}{{{inside}}} {value:g}" if value < 1e6 else f"{name}{{{inside}}} {value:.0f}"


def page(requests: Mapping[str, int], batcher: str | None = "tensorrt_llm") -> str:
    """A page of models and their finished requests; `batcher` is the one with a batch manager."""
    return "\n".join((*_requests(requests), *_times(requests), *_batcher(batcher), *_first_response(requests))) + "\n"


def _requests(requests: Mapping[str, int]) -> Iterator[str]:
    yield "# TYPE nv_inference_request_success counter"
    for model, count in requests.items():
        yield series("nv_inference_request_success", count, model=model, version="1")
    yield "# TYPE nv_inference_request_failure counter"
    for model in requests:
        failures = {"REJECTED": 2, "CANCELED": 4, "BACKEND": 0, "OTHER": 1} if model == "ensemble" else {"OTHER": 1}
        for reason, count in failures.items():
            yield series("nv_inference_request_failure", count, model=model, reason=reason, version="1")
    for name in ("nv_inference_count", "nv_inference_exec_count"):
        yield f"# TYPE {name} counter"
        for model, count in requests.items():
            yield series(name, count, model=model, version="1")
    yield "# TYPE nv_inference_pending_request_count gauge"
    for model in requests:
        yield series("nv_inference_pending_request_count", 0, model=model, version="1")


def _times(requests: Mapping[str, int]) -> Iterator[str]:
    for at, time in enumerate(TIMES):
        yield f"# TYPE nv_inference_{time}_duration_us counter"
        for model, count in requests.items():
            each = 2_000_000 if model in ("ensemble", "tensorrt_llm_bls", "tensorrt_llm") else 1_500
            labels = {"model": model, "version": "1"}
            yield series(f"nv_inference_{time}_duration_us", count * each if not at else count * 10 * at, **labels)


def _batcher(model: str | None) -> Iterator[str]:
    for name, (label, values) in BATCHER.items() if model else ():
        yield f"# TYPE nv_trt_llm_{name} gauge"
        for kind, value in values.items():
            yield series(f"nv_trt_llm_{name}", value, **{"model": model or "", label: kind, "version": "1"})


def _first_response(requests: Mapping[str, int]) -> Iterator[str]:
    if "ensemble" not in requests:
        return
    name, labels = "nv_inference_first_response_histogram_ms", {"model": "ensemble", "version": "1"}
    yield f"# TYPE {name} histogram"
    yield series(f"{name}_count", 40, **labels)
    yield series(f"{name}_sum", 16230, **labels)
    for bound, count in BUCKETS.items():
        yield series(f"{name}_bucket", count, **labels, le=bound)


CAPTURE = page({**dict.fromkeys(PIPELINE, 40), "preprocessing": 50, "postprocessing": 50, "tensorrt_llm_bls": 10})

if __name__ == "__main__":
    sys.stdout.write(CAPTURE)
