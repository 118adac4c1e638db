"""llama.cpp's llama-server: metrics page in, one reading out.

Facts that shape this file (seen on the build of 2026-10, read for others):
- The page has no labels, no histograms and no count of requests (those come from the sidecar, else they are absent).
  Averages since the start (`*_tokens_seconds`, `n_busy_slots_per_decode`) and the largest prompt are no signals.
- The prompt counter leaves cached tokens out; builds of late 2026 count those apart, older ones nowhere.
- Model and build are told by ``/props``, the model alone by ``/v1/models``, with its number of parameters. A router
  lists several models there, and none of them is its own.
- ``/slots`` would tell the number of running requests where the metrics are off. It is not asked: builds before 2025,
  and later ones that are told to, answer with the prompts of everybody. One option shows the metrics instead.
- ``/health`` answers 200 when it serves, 503 while it loads its model: it lives then, but is not ready.
- ``llama_cpp.server`` (llama-cpp-python) and llamafile are other servers, without these metrics: none of ours.
- Ollama starts a llama-server for each model, and a short one to look for GPUs. They work for Ollama; one that was told
  to show its metrics (LLAMA_ARG_ENDPOINT_METRICS in Ollama's environment) is read as a server of its own. It listens on
  the loopback address of Ollama's network namespace, out of reach for everybody outside of that.
"""

from pathlib import PurePath

import msgspec

from agent.core.cost.shapes import ModelShape, shape_of_size
from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading
from agent.engines.arguments import given, number, option
from agent.engines.contract import About, Bodies, EngineFile, HealthPaths, Origin, Page, Process, Recognised
from agent.engines.signals import SignalMap, Source, read_signals

_SIDECAR = "llama.cpp does not tell: put the engineroom sidecar before it, which measures every request"
_METRICS = "start llama-server with --metrics, or with LLAMA_ARG_ENDPOINT_METRICS=1 in its environment"
_TRUE = ("1", "true", "on", "enabled")  # how llama.cpp spells yes in the environment

SIGNALS = SignalMap(
    kind="llamacpp",
    model_label=None,
    values={
        "requests_running": (Source("llamacpp:requests_processing", "gauge"),),
        "requests_waiting": (Source("llamacpp:requests_deferred", "gauge"),),
        "kv_cache_usage_ratio": (Source("llamacpp:kv_cache_usage_ratio", "gauge"),),  # builds before mid-2025
    },
    tokens={
        "input": (Source("llamacpp:prompt_tokens_total", "counter"),),
        "input_cached": (Source("llamacpp:prompt_tokens_cached_total", "counter"),),
        "output": (Source("llamacpp:tokens_predicted_total", "counter"),),
    },
)


class _Props(msgspec.Struct):
    build_info: str | None = None
    model_alias: str | None = None
    model_path: str | None = None


class _Meta(msgspec.Struct):
    n_params: float | None = None
    size: float | None = None  # bytes of all its weights


class _Model(msgspec.Struct):
    id: str
    meta: _Meta | None = None  # null in a router, of a model that is not loaded


class _Models(msgspec.Struct):
    data: list[_Model] = []


def matches(scrape: Scrape, _path: str) -> bool:
    """A page with any series or family of llama-server."""
    return any(name.startswith("llamacpp:") for name in (*scrape.names(), *scrape.families))


def about(bodies: Bodies) -> About:
    """Model: the name under which clients ask for it (``/v1/models``), else the alias or the file of ``/props``."""
    props = bodies.get("/props") or _Props()
    models = bodies.get("/v1/models") or _Models()
    told = [model.id for model in models.data]
    name = None if len(told) > 1 else next(iter(told), None) or props.model_alias or props.model_path
    sized = {model.id: shape for model in models.data if model.meta and (shape := _shape(model.meta))}
    return About(model=_called(name), version=props.build_info or None, shapes=sized)


def _shape(meta: _Meta) -> ModelShape | None:
    """All parameters count as active: of a mixture of experts llama.cpp does not tell how many are."""
    return shape_of_size(meta.n_params, meta.size, "/v1/models")


def read(page: Page, origin: Origin) -> list[EngineReading]:
    """The one reading of this server, or none when the page has no signal."""
    return read_signals(SIGNALS, page.scrape, origin) if page.scrape else []


def recognise(process: Process) -> Recognised | None:
    """``llama-server``, by its program's name or by the one that a host of the library gave its process."""
    argv = process.argv
    program = PurePath(argv[0]) if argv else PurePath()
    if "llama-server" not in (program.name, process.name):
        return None
    if _is_ollamas(program, argv):
        if not (_shows_metrics(process) and given(argv, "--model")):  # without a model it only looks for GPUs
            return Recognised(part="worker")
        return Recognised(port=number(argv, "--port"))  # its model's name is Ollama's to tell: here it is a digest
    model = option(argv, "--alias", "-a") or option(argv, "--model", "-m", "-hf", "--hf-repo")
    port = number(argv, "--port")
    return Recognised(
        tls=given(argv, "--ssl-cert-file"),
        port=port if port is not None else _number(process.environ.get("LLAMA_ARG_PORT")),
        model=_called(model),
    )


def _is_ollamas(program: PurePath, argv: tuple[str, ...]) -> bool:
    """From Ollama's own folder; or with a model of its store and the options that it always gives."""
    stored = "/blobs/sha256-" in (option(argv, "--model") or "")
    return program.parent.name == "ollama" or (stored and given(argv, "--offline") and given(argv, "--no-webui"))


def _shows_metrics(process: Process) -> bool:
    told = process.environ.get("LLAMA_ARG_ENDPOINT_METRICS", "")
    return given(process.argv, "--metrics") or told.lower() in _TRUE


def _called(name: str | None) -> str | None:
    """Without an alias the name may be a path on the server's disk: its last part says what people call it."""
    is_path = name is not None and (name.startswith(("/", "./", "../")) or name.endswith(".gguf"))
    return PurePath(name).name if name and is_path else name or None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() else None


ENGINE = EngineFile(
    kind="llamacpp",
    title="llama.cpp",
    read=read,
    recognise=recognise,
    images=(r"(^|/)llama\.cpp($|-)", r"(^|/)llama-server$"),
    owners=("llamacpp",),
    default_ports=(8080,),
    matches=matches,
    about_paths={"/props": _Props, "/v1/models": _Models},
    about=about,
    health=HealthPaths(live="/health", ready="/health"),
    metrics_hint=(
        "llama.cpp shows its metrics only when llama-server was started with --metrics (or with "
        "LLAMA_ARG_ENDPOINT_METRICS=1 in its environment), and a router of several models never shows them as one page"
    ),
    absent={
        "requests_running": _METRICS,
        "requests_waiting": _METRICS,
        "input": _METRICS,
        "input_cached": "builds of llama.cpp before late 2026 count cached prompt tokens nowhere: upgrade llama.cpp",
        "output": _METRICS,
        "requests_total": _SIDECAR,
        "request_duration_seconds": _SIDECAR,
        "time_to_first_token_seconds": _SIDECAR,
        "time_per_output_token_seconds": _SIDECAR,
        "queue_seconds": "llama.cpp does not tell how long a request waited, and nobody outside of it can see that",
        "kv_cache_usage_ratio": "llama.cpp has not told this since mid-2025",
        "preemptions_total": "llama.cpp does not preempt requests",
    },
)
