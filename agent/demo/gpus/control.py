"""The control file of the simulated GPUs: what the demo or a test wants them to do, as one small JSON file.

Keys of the mappings are GPU indices. A file that is absent means: nothing runs, nothing is broken.
"""

import os
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct


class SimulatedProcess(Struct, frozen=True, kw_only=True):
    """A process that holds memory on a simulated GPU."""

    pid: int
    memory_bytes: int


class Control(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Work and faults. All of it holds until the file changes."""

    load: dict[str, float] = {}  # 0..1 of the recorded full load
    processes: dict[str, list[SimulatedProcess]] = {}
    temperature: dict[str, float] = {}  # °C of the core, whatever the power
    memory_used_ratio: dict[str, float] = {}  # of what is not reserved
    lost: list[int] = []
    hang: list[int] = []  # calls about these GPUs never return
    returns: dict[str, dict[str, int]] = {}  # NVML function -> GPU index ("*": every one) -> return code
    driver: Literal["loaded", "unloaded"] = "loaded"


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
