"""Recorded machines: JSON files in, `Machine` values out. The format is ours; it holds facts, no captured text.

Values in base units, except where NVML's own unit is the natural one for a fact that goes back into NVML (MHz, %).
"""

from pathlib import Path

import msgspec
from msgspec import Struct

from agent.demo.gpus.board import Board

FOLDER = Path(__file__).parent / "machines"
FORMAT = 1


class Recorded(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one GPU said in one state. None: it does not say."""

    utilization_percent: int | None = None
    memory_utilization_percent: int | None = None
    power_watts: float | None = None
    temperature_celsius: float | None = None
    memory_temperature_celsius: float | None = None
    temperature_margin_celsius: float | None = None
    clocks_megahertz: dict[str, int] = {}
    throttle_mask: int = 0
    memory_used_bytes: int | None = None  # None: what is used at rest
    encoder_percent: int = 0
    decoder_percent: int = 0
    fan_percent: int = 0
    performance_state: int | None = None
    pcie_generation: int | None = None


class RecordedCall(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one NVML function answered on one GPU: return code, kind of value, median of a few calls."""

    code: int = 0
    kind: str = ""
    seconds: float = 0.0


class Assumed(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the simulation needs and nobody recorded."""

    full_power_watts: float
    full_temperature_celsius: float
    full_memory_temperature_celsius: float | None = None
    full_memory_utilization_percent: int = 50
    power_lag_seconds: float = 1.0
    temperature_lag_seconds: float = 20.0


class MigProfile(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a GPU instance of one profile is made of. `number` is its NVML_GPU_INSTANCE_PROFILE_*."""

    number: int
    slices: int
    multiprocessors: int
    memory_bytes: int


class MigPlace(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A MIG device that exists while nobody asks for another layout."""

    profile: str
    gpu_instance: int
    compute_instance: int = 0


class MigFacts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A GPU that can be divided. `slice_used_bytes` is in use per compute slice while nothing runs."""

    slices: int
    slice_multiprocessors: int
    slice_used_bytes: int
    profiles: dict[str, MigProfile]
    layout: tuple[MigPlace, ...] | None = None  # None: MIG mode is off


class GpuFacts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One kind of GPU, `count` times. Absolute slowdown temperatures or margins (Ada and newer), not both."""

    count: int
    model: str
    pci_buses: tuple[str, ...]
    memory_total_bytes: int
    memory_reserved_bytes: int = 0
    memory_baseline_bytes: int = 0  # used although nothing of ours runs
    brand: str = ""
    architecture: int | None = None
    compute_capability: tuple[int, int] | None = None
    vbios_version: str | None = None
    pci_device_id: str = "0x0"
    power_limit_watts: float | None = None
    power_limit_default_watts: float | None = None
    power_limit_min_watts: float | None = None
    power_limit_max_watts: float | None = None
    idle: Recorded
    load: Recorded | None = None
    trailing: Recorded | None = None  # just after a load, with nobody on it: the values lag behind
    clocks_max_megahertz: dict[str, int] = {}
    slowdown_celsius: float | None = None
    shutdown_celsius: float | None = None
    slowdown_margin_celsius: float | None = None
    shutdown_margin_celsius: float | None = None
    unsupported: tuple[str, ...] = ()  # NVML functions that answer "not supported"
    unsupported_fields: tuple[int, ...] = ()
    assumed: Assumed | None = None
    mig: MigFacts | None = None
    persistence_mode: bool = True
    board: Board = Board()
    calls: dict[str, RecordedCall] = {}  # by NVML function, as `engineroom record` writes them


class Machine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node. `missing` are NVML functions that its driver does not export."""

    format: int
    name: str
    source: str
    driver_version: str
    cuda_driver_version: int | None
    nvml_version: str | None
    missing: tuple[str, ...] = ()
    gpus: tuple[GpuFacts, ...]


def names() -> list[str]:
    """Machines that come with engineroom."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name_or_path: str) -> Machine:
    """A machine by name, or from a JSON file. Raises ValueError that says what would be right."""
    path = Path(name_or_path) if name_or_path.endswith(".json") else FOLDER / f"{name_or_path}.json"
    try:
        machine = msgspec.json.decode(path.read_bytes(), type=Machine)
    except FileNotFoundError:
        known = ", ".join(names())
        raise ValueError(f"no machine {name_or_path!r}: use {known}, or the path of a .json file") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: not a machine file: {error}") from error
    if machine.format != FORMAT:
        raise ValueError(f"{path}: format {machine.format}; this version reads format {FORMAT}")
    return machine
