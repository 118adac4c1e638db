"""Ollama: the list of loaded models in, one reading with the memory of each out; Ollama tells no more.

No release of Ollama has a metrics page, so none is asked for: it would be a 404 in its log at every scrape. Several
changes that would add one are proposed, each with names of its own; once one is released, its page is recorded and its
names come here. Until then, what a page would tell comes from the sidecar, else it is absent.

Nothing that is asked loads a model or keeps one loaded.

Facts that shape this file (seen on Ollama 0.6.5 and 0.33.0-rc2, read in 0.6 to 0.33):
- ``/api/ps`` lists loaded models only. `size_vram` is what a model takes of GPU memory: 0 on a machine without GPUs. A
  model that runs in Ollama's cloud takes none here and does no work here, so it is none of ours.
- Ollama answers as soon as it runs, and loads models when they are asked for: an answer means that it is ready.
- Models run in children: ``ollama runner`` up to 0.29, ``llama-server`` (see llamacpp.py) from 0.30 on.
- On a loopback address Ollama answers 403 to any Host header that does not name this machine.
"""

from math import isfinite
from urllib.parse import urlsplit

import msgspec

from agent.core.cost.shapes import shape_of_size
from agent.core.readings import EngineReading
from agent.engines.contract import About, Bodies, EngineFile, HealthPaths, Origin, Page, Process, Recognised

_DEFAULT_PORT = 11434
_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_NOT_TOLD = "Ollama does not tell: put the engineroom sidecar before it, which measures every request"
_CHILD = (
    "; or set LLAMA_ARG_ENDPOINT_METRICS=1 in the environment of Ollama 0.30 or later, so that the llama-server it "
    "starts for each model is read (not both: tokens would count twice)"
)


class _Details(msgspec.Struct):
    parameter_size: str | None = None  # 8.0B, 124K


class _Loaded(msgspec.Struct):
    name: str = ""
    size_vram: float | None = None
    remote_host: str | None = None
    details: _Details | None = None


class _Ps(msgspec.Struct):
    models: list[_Loaded] | None = None


class _Version(msgspec.Struct):
    version: str | None = None


def about(bodies: Bodies) -> About:
    """Version from ``/api/version``, sizes of loaded models from ``/api/ps``; which are loaded each reading tells."""
    told, loaded = bodies.get("/api/version"), bodies.get("/api/ps")
    shapes = {}
    for model in (loaded.models or ()) if loaded else ():
        shape = shape_of_size(_parameters(model.details.parameter_size), None, "/api/ps") if model.details else None
        if shape is not None and model.name and not _in_the_cloud(model):
            shapes[model.name] = shape
            shapes[model.name.removesuffix(":latest")] = shape  # clients may leave that out
    return About(version=(told.version if told else None) or None, shapes=shapes)


def _parameters(text: str | None) -> float | None:
    """What Ollama writes for people, as a number; experts of a mixture are all in it."""
    number, unit = (text or "")[:-1], (text or "")[-1:].upper()
    if unit not in _UNITS or not number.replace(".", "", 1).isdecimal() or not number.isascii():
        return None
    return float(number) * _UNITS[unit]


def read(page: Page, origin: Origin) -> list[EngineReading]:
    """One reading for each model that is loaded here; [] while none is, or while Ollama does not say."""
    told = page.bodies.get("/api/ps")
    memory: dict[str, float | None] = {}
    for model in (told.models or ()) if told else ():
        if model.name and not _in_the_cloud(model):
            memory[model.name] = _larger(memory.get(model.name), model.size_vram)
    return [
        EngineReading(
            engine=origin.engine,
            kind="ollama",
            url=origin.url,
            model=model,
            read_at_ns=origin.read_at_ns,
            model_memory_bytes=size,
        )
        for model, size in memory.items()
    ]


def _in_the_cloud(model: _Loaded) -> bool:
    """Its tag says so (``:cloud``, ``:20b-cloud``), or the host that it runs on."""
    tag = model.name.rpartition(":")[2].lower() if ":" in model.name else ""
    return bool(model.remote_host) or tag == "cloud" or ("/" not in tag and tag.endswith("-cloud"))


def _larger(known: float | None, told: float | None) -> float | None:
    """A model that is listed twice is loaded once; a size below zero is none."""
    sizes = [size for size in (known, told) if size is not None and isfinite(size) and size >= 0]
    return max(sizes, default=None)


def recognise(process: Process) -> Recognised | None:
    """``ollama serve`` is the server, ``ollama runner`` works for it; every other ``ollama ...`` is a client."""
    argv = process.argv
    if len(argv) < 2 or argv[0].rpartition("/")[2] != "ollama":
        return None
    if argv[1] == "runner":
        return Recognised(part="worker")
    # `start` is another name of `serve`.
    return Recognised(port=_port(process.environ.get("OLLAMA_HOST"))) if argv[1] in ("serve", "start") else None


def _port(host: str | None) -> int | None:
    """The port of OLLAMA_HOST as Ollama reads it: ``host``, ``host:port``, ``:port``, with or without a scheme."""
    if not host or not host.strip():
        return None
    scheme, separator, place = host.strip().strip("\"'").rpartition("://")
    usual = {"http": 80, "https": 443}.get(scheme, _DEFAULT_PORT) if separator else _DEFAULT_PORT
    if place.count(":") > 1 and "[" not in place:
        return usual  # an IPv6 address alone
    try:
        return urlsplit(f"//{place}").port or usual
    except ValueError:
        return usual


ENGINE = EngineFile(
    kind="ollama",
    title="Ollama",
    read=read,
    recognise=recognise,
    images=(r"(^|/)ollama$",),
    owners=("library",),  # where its models come from
    default_ports=(_DEFAULT_PORT,),
    metrics_paths=(),
    state_paths={"/api/ps": _Ps},
    about_paths={"/api/version": _Version},
    about=about,
    health=HealthPaths(live="/", ready="/api/ps"),  # asked anyway: each request is a line in its log
    absent={
        "requests_total": _NOT_TOLD,
        "request_duration_seconds": _NOT_TOLD,
        "time_to_first_token_seconds": _NOT_TOLD,
        "time_per_output_token_seconds": _NOT_TOLD,
        "tokens_total": _NOT_TOLD + _CHILD,
        "requests_running": _NOT_TOLD + _CHILD,
        "requests_waiting": (
            "Ollama does not tell: requests to a model that is loaded wait unseen, and OLLAMA_MAX_QUEUE bounds only "
            "those to models that are not" + _CHILD
        ),
        "queue_seconds": "Ollama does not tell how long a request waited, and nobody outside of it can see that",
        "kv_cache_usage_ratio": "Ollama does not tell how full the key-value cache of a model is",
        "preemptions_total": "Ollama does not preempt requests",
    },
)
