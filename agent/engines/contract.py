"""What every engine file provides, and the small values that pass between it and those who find and read engines.

To add an engine: write `agent/engines/<kind>.py` with one `ENGINE = EngineFile(...)`, and record the pages of the real
server under `tests/engines/<kind>/<version>/` (`engineroom record engine URL DIR` does it). Nothing else names engines.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec import Struct

from agent.core.cost.shapes import ModelShape
from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading, EngineRole

UNKNOWN_MODEL = "unknown"  # shown for an engine that does not tell which model it serves

Part = Literal["server", "worker"]
Bodies = Mapping[str, Any]
"""Path -> the JSON body that was answered there, decoded to the type that the engine file names for it."""


class About(Struct, frozen=True, kw_only=True):
    """What an engine says about itself beside its metrics; None where it does not.

    `shapes`: of its models, by the names under which clients ask for them, as far as it tells their sizes.
    """

    model: str | None = None
    version: str | None = None
    role: EngineRole | None = None
    shapes: Mapping[str, ModelShape] = {}


class Origin(Struct, frozen=True, kw_only=True):
    """Where and when a page was read; goes unchanged into the readings."""

    engine: str
    url: str
    read_at_ns: int
    about: About = About()


class Page(Struct, frozen=True, kw_only=True):
    """One look at an engine. `scrape` None: it shows no metrics page; `path`: where the page was found."""

    scrape: Scrape | None = None
    path: str = ""
    bodies: Bodies = {}


class Process(Struct, frozen=True, kw_only=True):
    """A process as /proc shows it to everybody; `environ` only to its own user, and only names in `ENVIRONMENT`."""

    pid: int
    name: str = ""  # comm: at most 15 characters; servers that set a title cut it there
    argv: tuple[str, ...] = ()  # with a title set, the title is the first and only one
    environ: Mapping[str, str] = {}


# Not secret by nature: what engines, launchers and operators use to tell processes their place in a group.
ENVIRONMENT = frozenset(
    {
        "CUDA_VISIBLE_DEVICES",
        "LLAMA_ARG_ENDPOINT_METRICS",
        "LLAMA_ARG_PORT",
        "LWS_GROUP_SIZE",
        "LWS_LEADER_ADDRESS",
        "LWS_WORKER_INDEX",
        "MASTER_ADDR",
        "MASTER_PORT",
        "NVIDIA_VISIBLE_DEVICES",
        "OLLAMA_HOST",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "RANK",
        "RAY_ADDRESS",
        "SLURM_JOB_ID",
        "SLURM_NNODES",
        "SLURM_STEP_ID",
        "TLLM_SPAWN_EXTRA_MAIN_PROCESS",
        "TLLM_SPAWN_PROXY_PROCESS",
        "VLLM_HOST_IP",
        "VLLM_PROCESS_NAME_PREFIX",
        "VLLM_USE_RUST_FRONTEND",
        "WORLD_SIZE",
    }
)


class Recognised(Struct, frozen=True, kw_only=True):
    """What the command line of a process says about the engine it belongs to.

    A server answers HTTP; a worker works for a server, perhaps on another node. `group` is the same text on every node
    of an engine that runs over several, and for no other engine: the address at which its processes meet.
    """

    part: Part = "server"
    port: int | None = None  # as given; None: not given, so the default
    metrics_port: int | None = None
    tls: bool = False  # it was given a certificate
    group: str | None = None
    nodes: int | None = None
    node_rank: int | None = None
    role: EngineRole | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPaths:
    """Where an engine tells how it is: GET, 200 means yes. None: it has no such path.

    `generating` makes the engine produce a token: it is asked only where the configuration allows it.
    """

    live: str | None = None
    live_elsewhere: str | None = None  # the same of another front door, asked where the first is not there
    ready: str | None = None
    generating: str | None = None


def _of_nobody(_scrape: Scrape, _path: str) -> bool:
    return False


def _says_nothing(_bodies: Bodies) -> About:
    return About()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFile:
    """One inference server. Paths are relative to its base address, asked by GET, and nothing else is ever asked.

    The mappings of paths give the msgspec type to which a JSON body is decoded: what the type does not name is neither
    read nor recorded. `state_paths` are asked at each scrape, `fallback_paths` at each scrape while none of
    `metrics_paths` shows a page, `about_paths` rarely.
    """

    kind: str  # short lower-case name, as in the config; the name of the module
    title: str  # as its makers write it
    read: Callable[[Page, Origin], list[EngineReading]]  # one reading for each served model; [] without any signal
    recognise: Callable[[Process], Recognised | None]  # None: not a process of this engine
    images: tuple[str, ...] = ()  # regular expressions, searched in the image's name without registry and tag
    owners: tuple[str, ...] = ()  # `owned_by` in its /v1/models
    default_ports: tuple[int, ...] = ()  # its HTTP address when nobody says otherwise
    metrics_port: int | None = None  # where that is another one than the HTTP address's
    metrics_paths: tuple[str, ...] = ("/metrics",)  # the first that shows a page of this engine counts
    matches: Callable[[Scrape, str], bool] = _of_nobody  # whether a page (found at a path) is from this engine
    generic: bool = False  # its names are shared by several servers: asked after all others
    state_paths: Mapping[str, Any] = field(default_factory=dict)
    fallback_paths: Mapping[str, Any] = field(default_factory=dict)
    about_paths: Mapping[str, Any] = field(default_factory=dict)
    about: Callable[[Bodies], About] = _says_nothing
    health: HealthPaths = HealthPaths()
    metrics_hint: str = ""  # what an operator must do so that it shows its metrics; ends a sentence
    bounds_flag: str = ""  # what changes the bounds of its histograms
    absent: Mapping[str, str] = field(default_factory=dict)  # signal -> why it may be missing, and what would give it
    label_values: frozenset[str] = frozenset()  # labels whose values a capture may keep, besides the usual ones

    @property
    def paths(self) -> frozenset[str]:
        """Every path that may be asked."""
        health = (self.health.live, self.health.live_elsewhere, self.health.ready, self.health.generating)
        told = (*self.metrics_paths, *self.state_paths, *self.fallback_paths, *self.about_paths, *health)
        return frozenset(path for path in told if path is not None)
