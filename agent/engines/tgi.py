"""Text Generation Inference 1 to 3: metrics page in, one reading out. Its model and version are told by ``/info``.

Facts that shape the map (read in the router and the backends of 3.3.7):
- Counters have no `_total`, and no label names the model: a router serves one. Blank lines stand between families.
- Requests end as `tgi_request_success` or as one of `tgi_request_failure{err}`. `overloaded` and `validation` were
  turned away at the door, before any work was done for them (429, 422): both are `rejected`. `generation`,
  `incomplete` and `template` are the server's failures. `dropped`: the client had gone when its turn or its next token
  came; one that goes while nothing is produced for it is counted nowhere.
- Tokens are counted in sums of histograms: those of a prompt when it is accepted, with those that the prefix cache
  spared, and generated ones when a request succeeds. The histograms of time hold successful requests alone.
- A reason for failure is on the page from its first time on; until then it is absent.
- ``/health`` makes the model generate a token when the generation before failed, and touches the GPU each time: it is
  asked like a probe that generates. The router opens its port after the model has been warmed up, so ``/info`` tells
  that it is ready, at no cost.
- The launcher, the router and the shards are processes beside each other, the launcher above them.
"""

import msgspec

from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading
from agent.engines.arguments import number, option
from agent.engines.contract import About, Bodies, EngineFile, HealthPaths, Origin, Page, Process, Recognised
from agent.engines.signals import SignalMap, Source, read_signals

_FAILURE = "tgi_request_failure"
_FROM_THE_FIRST = "Text Generation Inference shows this count from the first such request on"


def _failed(*reasons: str) -> tuple[Source, ...]:
    return (Source(_FAILURE, "counter", where={"err": reasons}),)


SIGNALS = SignalMap(
    kind="tgi",
    model_label=None,
    values={
        "requests_running": (Source("tgi_batch_current_size", "gauge"),),
        "requests_waiting": (Source("tgi_queue_size", "gauge"),),
    },
    tokens={
        "input": (Source("tgi_request_input_length_sum", "histogram"),),
        "output": (Source("tgi_request_generated_tokens_sum", "histogram"),),
    },
    requests={
        "ok": (Source("tgi_request_success", "counter"),),
        "error": _failed("generation", "incomplete", "template"),
        "client_abort": _failed("dropped"),
        "rejected": _failed("overloaded", "validation"),
    },
    histograms={
        "request_duration_seconds": (Source("tgi_request_duration", "histogram"),),
        "time_per_output_token_seconds": (Source("tgi_request_mean_time_per_token_duration", "histogram"),),
        "queue_seconds": (Source("tgi_request_queue_duration", "histogram"),),
    },
)


class _Info(msgspec.Struct):
    model_id: str | None = None
    version: str | None = None


def matches(scrape: Scrape, _path: str) -> bool:
    """A page with any series or family of the router."""
    return any(name.startswith("tgi_") for name in (*scrape.names(), *scrape.families))


def about(bodies: Bodies) -> About:
    """Model and version from ``/info``."""
    info = bodies.get("/info") or _Info()
    return About(model=info.model_id or None, version=info.version or None)


def read(page: Page, origin: Origin) -> list[EngineReading]:
    """The one reading of this server, or none when the page has no signal."""
    return read_signals(SIGNALS, page.scrape, origin) if page.scrape else []


def recognise(process: Process) -> Recognised | None:
    """``text-generation-launcher`` and the ``-router`` it starts are the server, the ``-server`` shards work for it."""
    argv = process.argv
    programs = [word.rpartition("/")[2] for word in argv[:2]]  # the shards are Python scripts
    if "text-generation-server" in programs:
        return Recognised(part="worker") if "serve" in argv[1:3] else None  # it also downloads and converts models
    if not programs or programs[0] not in ("text-generation-launcher", "text-generation-router"):
        return None
    model = option(argv, "--model-id") if programs[0] == "text-generation-launcher" else None
    return Recognised(port=number(argv, "--port", "-p"), model=model)


ENGINE = EngineFile(
    kind="tgi",
    title="Text Generation Inference",
    read=read,
    recognise=recognise,
    images=(r"(^|/)text-generation-inference($|-)",),
    default_ports=(3000, 80),  # of the program, and of its image
    matches=matches,
    about_paths={"/info": _Info},
    about=about,
    health=HealthPaths(live="/info", ready="/info", generating="/health"),
    metrics_hint="Text Generation Inference always shows its metrics: give the address of its router",
    absent={
        "error": _FROM_THE_FIRST,
        "client_abort": _FROM_THE_FIRST,
        "rejected": _FROM_THE_FIRST,
        "time_to_first_token_seconds": (
            "Text Generation Inference does not tell: put the engineroom sidecar before it, which measures it"
        ),
        "input_cached": "Text Generation Inference counts prompt tokens with those that its prefix cache spared",
        "kv_cache_usage_ratio": "Text Generation Inference does not tell how full its key-value cache is",
        "preemptions_total": "Text Generation Inference does not preempt requests",
        "timeout": "Text Generation Inference has no time limit for requests",
    },
    label_values=frozenset({"err", "method"}),
)
