"""The control file of the simulated GPUs: what the demo or a test wants them to do, as one small JSON file.

Keys of the mappings are GPU indices. A file that is absent means: nothing runs, nothing is broken.
"""

import os
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from agent.demo.gpus.board import Wishes

GpmRatio = Literal["graphics_engine", "sm", "sm_occupancy", "tensor", "dram", "fp64", "fp32", "fp16"]


class SimulatedProcess(Struct, frozen=True, kw_only=True):
    """A process that holds memory on a simulated GPU."""

    pid: int
    memory_bytes: int
    kind: Literal["compute", "graphics", "mps"] = "compute"
    sm_ratio: float | None = None  # of the GPU's SM time; None: an even part of what the others leave of the load


class SimulatedSlice(Struct, frozen=True, kw_only=True):
    """A MIG device: a compute instance in a GPU instance. Those with the same `gpu_instance` share its memory."""

    profile: str  # 3g.40gb; 1c.3g.40gb where it is a part of its GPU instance
    gpu_instance: int
    compute_instance: int = 0
    load: float = 0.0  # 0..1 of this slice
    processes: list[SimulatedProcess] = []
    memory_used_bytes: int | None = None  # of the GPU instance, where it is not what is at rest and the processes


class SimulatedEvent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that the driver tells of. `number` grows from event to event: each is told once."""

    number: int
    gpu: int = 0
    kind: str = "xid"  # a word of agent/collect/gpu/codes.EVENT_KINDS, driver_unbind or driver_bind
    xid: int | None = None
    gpu_instance: int | None = None
    compute_instance: int | None = None
    pid: int | None = None  # only the kernel log names the process
    process: str | None = None


class Control(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Work and faults. All of it holds until the file changes."""

    load: dict[str, float] = {}  # 0..1 of the recorded full load
    processes: dict[str, list[SimulatedProcess]] = {}
    temperature: dict[str, float] = {}  # °C of the core, whatever the power
    memory_used_ratio: dict[str, float] = {}  # of what is not reserved
    lost: list[int] = []
    hang: list[int] = []  # calls about these GPUs never return
    hang_driver: bool = False  # nvmlInit never returns
    crash: list[int] = []  # calls about these GPUs end the process by SIGSEGV
    # GPUs that say exactly what was recorded in this state, instead of following `load`
    recorded: dict[str, Literal["idle", "load", "trailing"]] = {}
    call_seconds: dict[str, float] | None = None  # NVML function ("*": every other) -> how long it takes; None: at once
    returns: dict[str, dict[str, int]] = {}  # NVML function -> GPU index ("*": every one) -> return code
    returns_after: dict[str, int] = {}  # NVML function -> calls that succeed before `returns` holds
    board: dict[str, Wishes] = {}  # what a GPU is to say of itself, whatever its load
    # mismatch: the driver was upgraded under the processes that have it open; new ones find the new library.
    driver: Literal["loaded", "unloaded", "mismatch"] = "loaded"
    events: list[SimulatedEvent] = []  # a growing list
    removed: list[int] = []  # GPUs that are not on the bus any more; those behind them move up
    mig: dict[str, list[SimulatedSlice] | None] = {}  # null: MIG mode is off; a GPU that is not here: as recorded
    activity: dict[GpmRatio, float] = {}  # of every GPU at full load, instead of what is assumed
    mig_rights: bool = True  # False: no process of a GPU in MIG mode is shown


def write(path: Path, control: Control) -> None:
    """Replace the file in one step: a reader sees the old control or the new, never half of one."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(msgspec.json.encode(control))
    fresh.replace(path)


class ControlFile:
    """Reads the file again only when it has changed."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    def changed(self) -> Control | None:
        """The new control if there is one. Raises msgspec.ValidationError, which names the key that is wrong."""
        if self._path is None:
            return None
        try:
            status = os.stat(self._path)  # noqa: PTH116 -- once a tick, without making a Path each time
        except FileNotFoundError:
            seen = None
        else:
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        if seen == self._seen:
            return None
        self._seen = seen
        return Control() if seen is None else msgspec.json.decode(self._path.read_bytes(), type=Control)
