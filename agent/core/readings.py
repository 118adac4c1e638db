"""What GPUs and inference engines reported: frozen values that also travel between processes as msgpack.

`None` means "not reported"; it is never 0. Data and health are separate fields: a reading whose `state`
is not ``ok`` carries no measurements.
"""

from typing import Literal

from msgspec import Struct

GpuState = Literal["ok", "lost", "reset_required", "hung", "error"]
DriverState = Literal["starting", "ok", "no_library", "no_driver", "no_gpu", "restarting", "hung"]
ProcessKind = Literal["compute", "graphics", "mps"]


class GpuProcess(Struct, frozen=True, kw_only=True):
    """One process that holds memory on a GPU, as NVML lists it."""

    pid: int
    kind: ProcessKind
    memory_used_bytes: int | None = None


class GpuReading(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One GPU at one instant.

    Identity (`uuid`, `index`, `model`, ...) stays filled when the GPU is lost, so that an alert can name it.
    `*_read_at_ns` fields of the slower tier say how old that tier is. Ratios are 0..1, the rest base units.
    """

    uuid: str
    index: int
    model: str
    read_at_ns: int
    state: GpuState
    reason: str = ""
    simulated: bool = False
    pci_bus_id: str | None = None
    driver_version: str | None = None
    cuda_version: str | None = None

    utilization_ratio: float | None = None
    memory_utilization_ratio: float | None = None  # the memory controller, not how full the memory is
    memory_used_bytes: int | None = None
    memory_free_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_celsius: float | None = None
    memory_temperature_celsius: float | None = None
    temperature_slowdown_celsius: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    energy_joules: float | None = None  # since driver load; resets with it
    energy_source: Literal["counter", "integrated"] | None = None
    clocks_hertz: dict[str, float] | None = None  # domain ("sm", "memory", "graphics", "video") -> Hz
    throttle_reasons: tuple[str, ...] | None = None  # reasons active at this instant; () = none active
    throttle_seconds: dict[str, float] | None = None  # reason -> seconds observed active since the reader started
    processes: tuple[GpuProcess, ...] | None = None
    processes_read_at_ns: int | None = None


class GpuSnapshot(Struct, frozen=True, kw_only=True):
    """All GPUs of the node at one tick, and the health of the reader that looked."""

    read_at_ns: int
    driver: DriverState
    message: str = ""  # what an operator should know or do; empty when all is well
    gpus: tuple[GpuReading, ...] = ()
    nvml_call_seconds: dict[str, float] = {}  # NVML function -> seconds spent in it since the reader started
    nvml_calls: dict[str, int] = {}  # NVML function -> number of calls
    reader_restarts: int = 0


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


class EngineStatus(Struct, frozen=True, kw_only=True):
    """Health of one engine target: apart from its data, which is withdrawn when a scrape fails."""

    engine: str
    kind: str | None  # None until a scrape could be classified
    url: str
    state: EngineState
    reason: str = ""  # what was wrong and what to do, for people
    version: str | None = None
    scraped_at_ns: int | None = None  # last success
    scrape_seconds: float | None = None
    pids: tuple[int, ...] = ()  # processes that listen on the engine's port, and their descendants, when visible
    gpus: tuple[str, ...] = ()  # GPU uuids given in the config; empty = found through pids


class EngineSnapshot(Struct, frozen=True, kw_only=True):
    """One scrape round of one engine: its health, and one reading for each served model."""

    status: EngineStatus
    readings: tuple[EngineReading, ...] = ()
