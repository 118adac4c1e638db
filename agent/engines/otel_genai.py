"""Servers that show OpenTelemetry's gen_ai server metrics on a Prometheus page: page in, readings out.

Names, units and labels are those of OpenTelemetry's semantic conventions for generative AI, as its Prometheus exporters
write them: dots are underscores and the unit is in the name. There are histograms only: requests are counted by the
histogram of their durations, tokens by the sum of the histogram of their numbers. Input tokens hold the cached ones. A
page with the client's metrics alone is an application's that calls models, and is not read.
"""

from msgspec.structs import replace

from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading
from agent.engines.contract import EngineFile, Origin, Page, Process, Recognised
from agent.engines.signals import SignalMap, Source, read_signals

_DURATION = "gen_ai_server_request_duration_seconds"
_COUNT = f"{_DURATION}_count"
_TOKENS = "gen_ai_client_token_usage_sum"
_SERVER = (_DURATION, "gen_ai_server_time_to_first_token_seconds", "gen_ai_server_time_per_output_token_seconds")

# What servers write into `error_type`, which has no list of values: status codes, names of exceptions, short words.
_TIMEOUT = ("timeout", "TimeoutError", "asyncio.TimeoutError", "deadline_exceeded", "response_timeout", "408", "504")
_ABORT = (
    "cancelled",
    "canceled",
    "CancelledError",
    "asyncio.CancelledError",
    "asyncio.exceptions.CancelledError",
    "499",
)
_REJECTED = ("rejected", "overload", "overloaded", "resource_exhausted", "429", "503")


def _signals(model_label: str) -> SignalMap:
    def requests(*errors: str) -> tuple[Source, ...]:
        return (Source(_COUNT, "histogram", where={"error_type": errors}),)

    def tokens(kind: str) -> tuple[Source, ...]:
        return (Source(_TOKENS, "histogram", where={"gen_ai_token_type": (kind,)}),)

    return SignalMap(
        kind="otel_genai",
        model_label=model_label,
        tokens={"input": tokens("input"), "output": tokens("output")},
        requests={
            "ok": requests(""),
            "error": (Source(_COUNT, "histogram"),),  # all of them; what is counted elsewhere is taken off in `read`
            "timeout": requests(*_TIMEOUT),
            "client_abort": requests(*_ABORT),
            "rejected": requests(*_REJECTED),
        },
        histograms={
            "request_duration_seconds": (Source(_DURATION, "histogram", where={"error_type": ("",)}),),
            "time_to_first_token_seconds": (Source(_SERVER[1], "histogram"),),
            "time_per_output_token_seconds": (Source(_SERVER[2], "histogram"),),  # mean of each request
        },
    )


# By the name under which clients asked, which is the one that a bill knows; else by the one that answered.
_ASKED, _ANSWERED = _signals("gen_ai_request_model"), _signals("gen_ai_response_model")


def matches(scrape: Scrape, _path: str) -> bool:
    """A page with any of the server's histograms."""
    return any(scrape.named(f"{name}_count") or name in scrape.families for name in _SERVER)


def read(page: Page, origin: Origin) -> list[EngineReading]:
    """One reading for each model that the page names."""
    if page.scrape is None:
        return []
    asked = any(sample.key.get("gen_ai_request_model") for sample in page.scrape.named(_COUNT))
    return [_with_errors(one) for one in read_signals(_ASKED if asked else _ANSWERED, page.scrape, origin)]


def recognise(_process: Process) -> Recognised | None:
    """None: servers we do not know are known by their page only."""
    return None


def _with_errors(reading: EngineReading) -> EngineReading:
    """With `error` as the requests that are neither fine nor one of the other outcomes."""
    told = dict(reading.requests_total or {})
    if "error" not in told:
        return reading
    told["error"] = max(0.0, told["error"] - sum(count for outcome, count in told.items() if outcome != "error"))
    return replace(reading, requests_total=told)


_NO_METRIC = "OpenTelemetry's gen_ai server metrics do not have it"
_BY_ERROR_TYPE = (
    "no request ended so yet, or the server writes another `error_type`, which counts as error: the sidecar tells them "
    "apart"
)

ENGINE = EngineFile(
    kind="otel_genai",
    title="a server with OpenTelemetry's gen_ai metrics",
    read=read,
    recognise=recognise,
    matches=matches,
    generic=True,
    metrics_hint=f"its page must show OpenTelemetry's gen_ai server metrics, such as {_DURATION}",
    absent={
        "requests_running": f"{_NO_METRIC}: the sidecar in front of the server counts it",
        "requests_waiting": _NO_METRIC,
        "kv_cache_usage_ratio": _NO_METRIC,
        "preemptions_total": _NO_METRIC,
        "input": f"{_NO_METRIC} unless the server also records gen_ai.client.token.usage",
        "input_cached": f"{_NO_METRIC}: cached tokens are inside `input`; the sidecar tells them apart",
        "output": f"{_NO_METRIC} unless the server also records gen_ai.client.token.usage",
        "ok": f"the server does not record {_DURATION}",
        "error": f"the server does not record {_DURATION}",
        "timeout": _BY_ERROR_TYPE,
        "client_abort": _BY_ERROR_TYPE,
        "rejected": _BY_ERROR_TYPE,
        "request_duration_seconds": f"the server does not record {_DURATION}",
        "time_to_first_token_seconds": "the server does not record gen_ai.server.time_to_first_token",
        "time_per_output_token_seconds": "the server does not record gen_ai.server.time_per_output_token",
        "queue_seconds": _NO_METRIC,
        "model_memory_bytes": f"{_NO_METRIC}: see the GPU's memory",
    },
)
