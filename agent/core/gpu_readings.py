"""What the GPU reader reported: frozen values that travel between processes as msgpack, most in base units.

`None` means "not reported"; it is never 0. Data and health are separate fields: a reading whose `state` is not ``ok``
carries no measurements. Totals are as the driver counts them, from its load on, unless a field says otherwise.
"""

from typing import Literal

from msgspec import Struct

GpuState = Literal["ok", "lost", "reset_required", "hung", "error"]
DriverState = Literal["starting", "ok", "no_library", "no_driver", "no_gpu", "restarting", "hung"]
ProcessKind = Literal["compute", "graphics", "mps"]
XidSource = Literal["nvml", "kernel"]

# nvml.h, nvmlDeviceGpuRecoveryAction_t; the last three are newer than CUDA 12.9.
RECOVERY_ACTIONS = (
    "none",
    "reset_gpu",
    "reboot_node",
    "drain_p2p",
    "drain_and_reset",
    "reset_imex",
    "reset_bus",
    "reboot_system",
)
"""What the driver wants done about a GPU, by its number."""


class GpuProcess(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One process that holds memory on a GPU, as NVML lists it."""

    pid: int
    kind: ProcessKind
    memory_used_bytes: int | None = None
    sm_utilization_ratio: float | None = None  # its share of the device's SM time since the last look; None: no sample


class GpuActivity(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Profiling ratios (GPM, Hopper and newer) of a GPU or a MIG GPU instance, since the sample before."""

    graphics_engine_ratio: float | None = None
    sm_ratio: float | None = None  # SMs with at least one warp
    sm_occupancy_ratio: float | None = None
    tensor_ratio: float | None = None
    dram_ratio: float | None = None
    fp64_ratio: float | None = None
    fp32_ratio: float | None = None
    fp16_ratio: float | None = None


class GpuPcie(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The PCIe link: as it is now, as it could be, and what went over it."""

    generation: int | None = None
    generation_max: int | None = None
    width: int | None = None  # lanes
    width_max: int | None = None
    transmitted_bytes: int | None = None  # total, GPU to host
    received_bytes: int | None = None
    replays: int | None = None
    errors: dict[str, int] | None = None  # kind (correctable, fatal, bad_tlp, ...) -> total


class GpuNvlink(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All NVLinks of a GPU together."""

    links: int | None = None
    links_active: int | None = None
    transmitted_bytes: int | None = None
    received_bytes: int | None = None
    errors: dict[str, int] | None = None  # kind (crc_flit, crc_data, replay, recovery, ecc) -> total


class GpuErrors(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Memory errors, what the driver did about them, and what it wants done."""

    ecc_enabled: bool | None = None
    # {un,}corrected_volatile (since driver load), {un,}corrected_aggregate (for life) -> total
    ecc_errors: dict[str, int] | None = None
    retired_pages: dict[str, int] | None = None  # single_bit, double_bit; before Ampere
    retired_pages_pending: bool | None = None
    remapped_rows: dict[str, int] | None = None  # corrected, uncorrected; Ampere and newer
    row_remap_pending: bool | None = None
    row_remap_failed: bool | None = None
    row_remap_banks: dict[str, int] | None = None  # spare rows left (max, high, partial, low, none) -> banks
    recovery_action: str | None = None  # a word of RECOVERY_ACTIONS


class GpuDetails(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What seldom or never changes."""

    minor_number: int | None = None  # of /dev/nvidiaN
    serial: str | None = None
    brand: str | None = None
    architecture: str | None = None  # ampere, ada, hopper, ...
    compute_capability: str | None = None  # 9.0
    vbios_version: str | None = None
    persistence_mode: bool | None = None
    compute_mode: str | None = None  # default, exclusive_process, prohibited
    ecc_mode: bool | None = None
    mig_mode: bool | None = None
    power_limit_default_watts: float | None = None
    power_limit_requested_watts: float | None = None
    power_limit_min_watts: float | None = None
    power_limit_max_watts: float | None = None
    temperature_shutdown_celsius: float | None = None
    clocks_max_hertz: dict[str, float] | None = None
    multiprocessors: int | None = None


class MigReading(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One MIG device: a compute instance in a GPU instance. Memory and activity are those of the GPU instance."""

    uuid: str
    index: int  # of the MIG device on its GPU
    gpu_instance: int
    compute_instance: int
    profile: str  # 1g.10gb; 1c.3g.40gb where it is a part of its GPU instance
    gpu_instance_slices: int | None = None  # compute slices of the GPU instance, of the GPU's `mig_slices`
    compute_slices: int | None = None
    placement_start: int | None = None  # first memory slice of the GPU instance; DRA names slices by it
    multiprocessors: int | None = None
    memory_used_bytes: int | None = None
    memory_free_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    memory_total_bytes: int | None = None
    activity: GpuActivity | None = None
    processes: tuple[GpuProcess, ...] | None = None


class GpuReading(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One GPU at one instant.

    Identity (`uuid`, `index`, `model`, ...) stays filled when the GPU is lost, so that an alert can name it.
    `*_read_at_ns` fields of the slower tiers say how old a tier is. Ratios are 0..1, the rest base units.
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
    encoder_utilization_ratio: float | None = None
    decoder_utilization_ratio: float | None = None
    jpeg_utilization_ratio: float | None = None
    ofa_utilization_ratio: float | None = None
    utilization_doubtful: bool = (
        False  # busy with no process and no memory in use: a trailing window, or no persistence
    )
    memory_used_bytes: int | None = None
    memory_free_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    memory_total_bytes: int | None = None
    memory_source: Literal["device", "system"] | None = None  # system: GPU and CPU share it (GB10), from /proc/meminfo
    bar1_used_bytes: int | None = None
    bar1_total_bytes: int | None = None
    temperature_celsius: float | None = None
    memory_temperature_celsius: float | None = None
    temperature_slowdown_celsius: float | None = None
    fan_speed_ratio: float | None = None
    power_watts: float | None = None
    power_scope: Literal["gpu", "module"] | None = None  # module: GPU and CPU together (Grace Hopper)
    power_limit_watts: float | None = None  # enforced
    energy_joules: float | None = None  # since driver load; resets with it
    energy_source: Literal["counter", "integrated"] | None = None
    clocks_hertz: dict[str, float] | None = None  # domain ("sm", "memory", "graphics", "video") -> Hz
    performance_state: int | None = None  # 0 is the fastest
    throttle_mask: int | None = None  # nvmlClocksEventReasons, for names that carry the number
    throttle_reasons: tuple[str, ...] | None = None  # reasons active at this instant; () = none active
    throttle_seconds: dict[str, float] | None = None  # reason -> seconds: driver's counter, else observed by the reader
    violation_ns: dict[str, int] | None = (
        None  # the driver's own counters: power, thermal, sync_boost, board_limit, ...
    )
    activity: GpuActivity | None = None
    pcie: GpuPcie | None = None
    nvlink: GpuNvlink | None = None
    errors: GpuErrors | None = None
    details: GpuDetails | None = None
    mig: tuple[MigReading, ...] | None = None  # (): MIG mode is on and there is no instance; None: it is off
    mig_slices: int | None = None  # compute slices that the GPU has in MIG mode
    # In MIG mode: only those that are in none of the devices of `mig`, so that each process is in one place.
    processes: tuple[GpuProcess, ...] | None = None
    processes_read_at_ns: int | None = None
    not_offered: tuple[str, ...] = ()  # NVML functions and fields that this GPU has said it does not have


class XidEvent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One error that the driver reported (NVIDIA's Xid). `uuid` '' : no GPU of ours is known for it."""

    at_ns: int
    uuid: str
    xid: int
    source: XidSource
    pci_bus_id: str | None = None
    pid: int | None = None
    process: str | None = None
    gpu_instance: int | None = None
    compute_instance: int | None = None
    text: str = ""  # the kernel's words, where it is from the kernel log
    count: int = 1  # how many of the same kind arrived together


class GpuSnapshot(Struct, frozen=True, kw_only=True):
    """All GPUs of the node at one tick, and the health of the reader that looked."""

    read_at_ns: int
    driver: DriverState
    message: str = ""  # what an operator should know or do; empty when all is well
    gpus: tuple[GpuReading, ...] = ()
    gpus_expected: int | None = None  # as many as there were at most since the agent started
    nvml_call_seconds: dict[str, float] = {}  # NVML function -> seconds spent in it since the reader started
    nvml_calls: dict[str, int] = {}  # NVML function -> number of calls
    nvml_errors: dict[str, int] = {}  # "function: meaning (code)" -> times
    nvml_missing: tuple[str, ...] = ()  # functions that this driver does not have
    nvml_forbidden: dict[str, str] = {}  # function -> the right that would open it
    tier_stretch: float = 1.0  # by how much the slower tiers are stretched to keep the call budget
    events_watched: bool | None = None  # whether NVML's events are being waited for; None: this driver has none
    events_problem: str = ""
    xids: tuple[XidEvent, ...] = ()  # those that arrived since the snapshot before
    events_seen: dict[str, int] = {}  # kind of NVML event -> times since the reader started
    events_dropped: int = 0  # events of too many kinds at once, lost since the agent started
    reader_restarts: int = 0
