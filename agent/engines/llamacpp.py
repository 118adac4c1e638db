"""llama.cpp's llama-server: metrics page in, one reading out.

The page has no labels, no histograms and no count of requests (those come from the sidecar, else they are absent). Its
model and build are told by ``/props``, its model alone by ``/v1/models``. The prompt counter leaves cached tokens out;
builds of late 2026 count those apart, older ones do not.
"""

from pathlib import PurePath

import msgspec

from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading
from agent.engines.arguments import number
from agent.engines.contract import About, Bodies, EngineFile, HealthPaths, Origin, Page, Process, Recognised
from agent.engines.signals import SignalMap, Source, read_signals

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


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model] = []


def matches(scrape: Scrape, _path: str) -> bool:
    """A page with any series or family of llama-server."""
    return any(name.startswith("llamacpp:") for name in (*scrape.names(), *scrape.families))


def about(bodies: Bodies) -> About:
    """Model: the name under which clients ask for it (``/v1/models``), else the alias or the file of ``/props``."""
    props = bodies.get("/props") or _Props()
    models = bodies.get("/v1/models") or _Models()
    name = models.data[0].id if models.data else props.model_alias or props.model_path
    # Without an alias the name is a path on the server's disk: its last part says what people call it.
    return About(model=PurePath(name).name if name else None, version=props.build_info or None)


def read(page: Page, origin: Origin) -> list[EngineReading]:
    """The one reading of this server, or none when the page has no signal."""
    return read_signals(SIGNALS, page.scrape, origin) if page.scrape else []


def recognise(process: Process) -> Recognised | None:
    """``llama-server``, by its program's name."""
    program = process.argv[0].rpartition("/")[2] if process.argv else ""
    if "llama-server" not in (program, process.name):
        return None
    return Recognised(port=number(process.argv, "--port"))


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
    metrics_hint="llama.cpp shows its metrics only when llama-server was started with --metrics",
)
