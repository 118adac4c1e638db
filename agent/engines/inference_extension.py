"""Servers we do not know that speak the Gateway API inference extension's model-server protocol: page in, readings out.

The protocol asks a server for three gauges: requests queued, requests running, and the share of KV memory in use. Each
server names them after itself, in one of a few ways. A page that has the first two under one prefix is read, and with
them what servers of that way of naming show under the same prefix in names that tell the unit. Not read are finish
reasons, which each server spells differently. LMDeploy is read here. NVIDIA Dynamo's frontend is not: it is a router,
and the engines behind it have pages of their own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from msgspec.structs import replace

from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading
from agent.engines.contract import EngineFile, Origin, Page, Process, Recognised
from agent.engines.signals import SignalMap, Source, SourceType, read_signals


@dataclass(frozen=True, slots=True)
class _Naming:
    """One way of naming, without the server's prefix; of several names the first that is there counts."""

    waiting: str
    running: str
    usage: tuple[str, ...]
    queue: str


_NAMINGS = (
    _Naming(
        waiting="num_requests_waiting",
        running="num_requests_running",
        usage=("kv_cache_usage_perc", "gpu_cache_usage_perc", "kv_cache_utilization"),
        queue="request_queue_time_seconds",
    ),
    _Naming(waiting="num_queue_reqs", running="num_running_reqs", usage=("token_usage",), queue="queue_time_seconds"),
)
# Pages with these that no file of theirs takes are from something beside the engine, such as a router's.
_OF_KNOWN_ENGINES = ("vllm:", "ray_vllm", "sglang:", "sglang_", "trtllm_")
_MODEL_LABELS = ("model_name", "model")


def matches(scrape: Scrape, _path: str) -> bool:
    """A page with both gauges of requests under one prefix."""
    return _found(scrape) is not None


def read(page: Page, origin: Origin) -> list[EngineReading]:
    """One reading for each model that the page names, all ranks of it together."""
    found = _found(page.scrape) if page.scrape else None
    if page.scrape is None or found is None:
        return []
    prefix, naming = found
    labels = {name for sample in page.scrape.named(prefix + naming.running) for name, _ in sample.key.labels}
    label = next((name for name in _MODEL_LABELS if name in labels), None)
    readings = read_signals(_signals(prefix, naming, label), page.scrape, origin)
    return [_without_percent(reading) for reading in readings]


def recognise(_process: Process) -> Recognised | None:
    """None: servers we do not know are known by their page only."""
    return None


def _found(scrape: Scrape) -> tuple[str, _Naming] | None:
    """The prefix and the way of naming of a page."""
    names = {*scrape.names(), *scrape.families}
    return next((found for naming in _NAMINGS for found in _of_naming(names, naming)), None)


def _of_naming(names: set[str], naming: _Naming) -> Iterable[tuple[str, _Naming]]:
    for name in sorted(names):
        prefix = name.removesuffix(naming.running)
        named = prefix != name and prefix.endswith((":", "_")) and not prefix.startswith(_OF_KNOWN_ENGINES)
        if named and prefix + naming.waiting in names:
            yield prefix, naming


@lru_cache(maxsize=64)
def _signals(prefix: str, naming: _Naming, model_label: str | None) -> SignalMap:
    def sources(kind: SourceType, *names: str) -> tuple[Source, ...]:
        return tuple(Source(prefix + name, kind) for name in names)

    return SignalMap(
        kind="inference_extension",
        model_label=model_label,
        values={
            "requests_running": sources("gauge", naming.running),
            "requests_waiting": sources("gauge", naming.waiting),
            "kv_cache_usage_ratio": tuple(Source(prefix + name, "gauge", across="max") for name in naming.usage),
            "preemptions_total": sources("counter", "num_preemptions_total"),
        },
        tokens={
            "input": sources("counter", "prompt_tokens_total"),  # with cached ones, as far as the server counts them
            "output": sources("counter", "generation_tokens_total"),
        },
        histograms={
            "request_duration_seconds": sources("histogram", "e2e_request_latency_seconds"),
            "time_to_first_token_seconds": sources("histogram", "time_to_first_token_seconds"),
            "time_per_output_token_seconds": sources(
                "histogram",
                "request_time_per_output_token_seconds",
                "inter_token_latency_seconds",
                "time_per_output_token_seconds",
            ),
            "queue_seconds": sources("histogram", naming.queue),
        },
    )


def _without_percent(reading: EngineReading) -> EngineReading:
    """Without a share above 1: that server tells per cent, and 0.5 could then be half or half of a hundredth."""
    usage = reading.kv_cache_usage_ratio
    return reading if usage is None or usage <= 1 else replace(reading, kv_cache_usage_ratio=None)


_OWN_NAMES = "its page has no name for it that other servers share: put the sidecar in front of it, which measures it"
_PROTOCOL_ONLY = f"it is not part of the model-server protocol, and {_OWN_NAMES}"

ENGINE = EngineFile(
    kind="inference_extension",
    title="a model server of the Gateway API inference extension",
    read=read,
    recognise=recognise,
    matches=matches,
    generic=True,
    metrics_hint=(
        "its page must show the gauges of the Gateway API inference extension's model-server protocol, such as "
        "NAME:num_requests_running and NAME:num_requests_waiting"
    ),
    absent={
        "kv_cache_usage_ratio": "it is not on the page, or in per cent: the model-server protocol wants 0 to 1",
        "preemptions_total": "it is not part of the model-server protocol, and not on the page",
        "input": _PROTOCOL_ONLY,
        "input_cached": "cached prompt tokens are counted inside `input`: the sidecar tells them apart",
        "output": _PROTOCOL_ONLY,
        "ok": f"each server spells its finish reasons differently, so they are not read here: {_OWN_NAMES}",
        "error": f"each server spells its finish reasons differently, so they are not read here: {_OWN_NAMES}",
        "timeout": _PROTOCOL_ONLY,
        "client_abort": _PROTOCOL_ONLY,
        "rejected": _PROTOCOL_ONLY,
        "request_duration_seconds": _PROTOCOL_ONLY,
        "time_to_first_token_seconds": _PROTOCOL_ONLY,
        "time_per_output_token_seconds": _PROTOCOL_ONLY,
        "queue_seconds": "it is not part of the model-server protocol, and not on the page",
        "model_memory_bytes": "the model-server protocol does not tell it: see the GPU's memory",
    },
)
