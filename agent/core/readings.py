"""What inference engines reported: frozen values that also travel between processes as msgpack.

`None` means "not reported"; it is never 0. Data and health are separate fields: a reading whose `state`
is not ``ok`` carries no measurements.
"""

from typing import Literal

from msgspec import Struct

from agent.core.cost.shapes import ModelShape
from agent.core.workloads import Workload

EngineRole = Literal["prefill", "decode"]
"""Of an engine that does only a part of the work of a service; an engine that does all of it has none."""


class Histogram(Struct, frozen=True, kw_only=True):
    """A cumulative Prometheus histogram.

    `bounds` are the finite upper bounds, ascending; `counts` has one more entry (the ``+Inf`` bucket), cumulative.
    """

    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    sum: float | None = None

    @property
    def count(self) -> float:
        """Number of observations: the ``+Inf`` bucket."""
        return self.counts[-1]


class EngineReading(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One served model of one engine at one instant, in the canonical signals (design section 5).

    Counters are totals since the engine started. Keys of `tokens_total`: input, input_cached, output (disjoint).
    Keys of `requests_total`: ok, error, timeout, client_abort, rejected. What the engine does not report is absent.
    """

    engine: str  # the name under which this engine is shown: from config, or host:port
    kind: str  # vllm, llamacpp, ...
    url: str
    model: str
    read_at_ns: int
    role: EngineRole | None = None
    model_memory_bytes: float | None = None  # GPU memory that the loaded model takes, where the engine says so
    requests_running: float | None = None
    requests_waiting: float | None = None
    kv_cache_usage_ratio: float | None = None
    preemptions_total: float | None = None
    tokens_total: dict[str, float] | None = None
    requests_total: dict[str, float] | None = None
    request_duration_seconds: Histogram | None = None
    time_to_first_token_seconds: Histogram | None = None
    time_per_output_token_seconds: Histogram | None = None
    queue_seconds: Histogram | None = None


EngineState = Literal["starting", "ready", "not_ready", "down", "unknown_format"]
FoundBy = Literal["config", "process", "kubernetes"]


class Advice(Struct, frozen=True, kw_only=True):
    """Something that an engine does not tell: the signal, and the flag, mount or right that would give it."""

    signal: str  # a field of `EngineReading`, a kind of tokens or an outcome; metrics, processes, address
    text: str


class EngineStatus(Struct, frozen=True, kw_only=True):
    """Health of one engine target: apart from its data, which is withdrawn when a scrape fails.

    `live`, `ready`, `started` are three questions: does its process answer, would it serve a request now, has it been
    ready since its process began. None: it does not say.
    """

    engine: str
    kind: str | None  # None until a scrape could be classified
    url: str  # '' for a worker, which answers nobody
    state: EngineState
    reason: str = ""  # what was wrong and what to do, for people
    version: str | None = None
    scraped_at_ns: int | None = None  # last success
    scrape_seconds: float | None = None
    pids: tuple[int, ...] = ()  # processes that listen on the engine's port, and their descendants, when visible
    gpus: tuple[str, ...] = ()  # GPU uuids given in the config; empty = found through pids
    live: bool | None = None
    ready: bool | None = None
    started: bool | None = None
    process_started_at_ns: int | None = None
    ready_after_seconds: float | None = None  # from the start of its process, or from when it was first seen not ready
    restarts: int = 0  # seen by this agent
    crash_looping: bool = False
    found_by: FoundBy = "config"
    workload: Workload | None = None  # the pod, container or job that its processes run in
    part: Literal["server", "worker"] = "server"
    group: str = ""  # the same on every node of an engine that runs over several
    nodes: int | None = None
    node_rank: int | None = None
    role: EngineRole | None = None
    service: str = ""  # engines that do parts of the work of one service have one name for it
    advice: tuple[Advice, ...] = ()
    shapes: dict[str, ModelShape] = {}  # of its models, by the names clients use, as far as it tells their sizes


class EngineSnapshot(Struct, frozen=True, kw_only=True):
    """One scrape round of one engine: its health, and one reading for each served model."""

    status: EngineStatus
    readings: tuple[EngineReading, ...] = ()
