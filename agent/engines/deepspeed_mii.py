"""DeepSpeed-MII (FastGen): command lines in, what runs where out; MII has no page that tells how it is doing.

Everything measured comes from the sidecar. MII is asked for its model and for a sign of life, nothing else: the RESTful
gateway ends on ``GET /terminate``, so no path is ever tried there.

Facts that shape this file (read in 0.3.3, the last release):
- Three front doors: the OpenAI server and the plain API server (port 8000, ``/health``; the first also ``/v1/models``),
  and the RESTful gateway (port 51080, ``/healthz`` alone). They call replicas over gRPC, by way of a load balancer.
- ``/health`` and ``/healthz`` are constants: they say ok while the replicas are dead. They tell that the front door
  lives, never that it is ready.
- All parts but the first two front doors are ``mii.launch.multi_gpu_server``, told apart by an option; replicas are
  started by the deepspeed launcher, which starts training jobs too. Those are none of ours.
- Replicas meet at ``localhost``, which does not tell one deployment from another's: they have no group, and belong to
  the front door of their container or job.
"""

from pathlib import PurePath

import msgspec

from agent.core.readings import EngineReading
from agent.engines.arguments import given, number, option
from agent.engines.contract import About, Bodies, EngineFile, HealthPaths, Origin, Page, Process, Recognised

_FRONT_DOORS = ("mii.entrypoints.openai_api_server", "mii.entrypoints.api_server")
_PARTS = ("mii.launch.multi_gpu_server", "mii.legacy.launch.multi_gpu_server")
_OWNER = "deepspeed-mii"
_NOT_TOLD = "DeepSpeed-MII does not tell: put the engineroom sidecar before it, which measures every request"
_NOBODY = "DeepSpeed-MII does not tell, and nobody outside of it can see that"


class _Model(msgspec.Struct):
    id: str
    owned_by: str = ""


class _Models(msgspec.Struct):
    data: list[_Model] = []


def about(bodies: Bodies) -> About:
    """The one model of ``/v1/models``; the version is told nowhere."""
    models = bodies.get("/v1/models") or _Models()
    names = [model.id for model in models.data if model.owned_by == _OWNER]
    return About(model=names[0] if names and names[0] else None)


def read(_page: Page, _origin: Origin) -> list[EngineReading]:
    """Always []: a reading without any signal would say nothing."""
    return []


def recognise(process: Process) -> Recognised | None:
    """Front doors are servers; replicas, their launchers and the load balancer work for them."""
    argv = process.argv
    modules = {word for at, word in enumerate(argv) if at and argv[at - 1] == "-m"}
    if modules.intersection(_FRONT_DOORS):
        return Recognised(port=number(argv, "--port"), model=_name(option(argv, "--model")))
    if not modules.intersection(_PARTS):
        return None
    # Every part is told the gateway's port; only the gateway has the option that says it is one.
    if given(argv, "--restful-gateway"):
        return Recognised(port=number(argv, "--restful-gateway-port"))
    return Recognised(part="worker")


def _name(model: str | None) -> str | None:
    """A model from a folder is called by the folder's name."""
    return PurePath(model).name if model and model.startswith(("/", "./", "../")) else model


ENGINE = EngineFile(
    kind="deepspeed_mii",
    title="DeepSpeed-MII",
    read=read,
    recognise=recognise,
    images=(r"(^|/)(deepspeed-)?mii($|-)",),
    owners=(_OWNER,),
    default_ports=(8000, 51080),
    metrics_paths=(),
    about_paths={"/v1/models": _Models},
    about=about,
    health=HealthPaths(live="/health", live_elsewhere="/healthz"),  # that of the RESTful gateway
    absent={
        "ready": (
            "DeepSpeed-MII says ok as long as its front door lives, whatever has become of the replicas behind it: "
            "the engineroom sidecar before it sees the requests that fail"
        ),
        "requests_total": _NOT_TOLD,
        "request_duration_seconds": _NOT_TOLD,
        "time_to_first_token_seconds": _NOT_TOLD,
        "time_per_output_token_seconds": _NOT_TOLD,
        "tokens_total": _NOT_TOLD,
        "requests_running": _NOT_TOLD,
        "requests_waiting": _NOBODY,
        "queue_seconds": _NOBODY,
        "kv_cache_usage_ratio": _NOBODY,
        "preemptions_total": _NOBODY,
    },
)
