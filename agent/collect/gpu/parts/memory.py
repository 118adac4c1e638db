"""The GPU's memory and the window through which the host sees it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.collect.gpu import sane
from agent.collect.gpu.parts.part import Asker, FieldKey, Fields, Moment, Tier

MEMINFO = Path("/proc/meminfo")
_VERSIONS = ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo")
_KIB = 1024


class Memory:
    """Device memory; where the GPU has none of its own (GB10), the system's, which it shares with the CPU."""

    tier: Tier = "fast"
    fields: tuple[FieldKey, ...] = ()

    def __init__(self, meminfo: Path = MEMINFO) -> None:
        self._meminfo = meminfo

    def read(self, asker: Asker, _fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """Bytes used, free, reserved by the driver, in all."""
        # Version 1 counts what the driver reserves as used; it is only for drivers before 510.
        memory = asker.first_of(*((version,) for version in _VERSIONS))
        if memory is None:
            return self._shared() if all(asker.never(version) for version in _VERSIONS) else {}
        reserved = getattr(memory, "reserved", None)
        if not sane.fits(memory.used, memory.total) or not sane.fits(memory.free, memory.total):
            asker.odd("nvmlDeviceGetMemoryInfo: more used or free than there is")
            return {}
        return {
            "memory_used_bytes": memory.used,
            "memory_free_bytes": memory.free,
            "memory_total_bytes": memory.total,
            "memory_reserved_bytes": reserved if sane.fits(reserved, memory.total) else None,
            "memory_source": "device",
        }

    def _shared(self) -> dict[str, Any]:
        try:
            total, free = shared_memory(self._meminfo.read_text())
        except (OSError, ValueError):
            return {}
        used = {"memory_used_bytes": total - free, "memory_free_bytes": free}
        return {**used, "memory_total_bytes": total, "memory_source": "system"}


def shared_memory(meminfo: str) -> tuple[int, int]:
    """Total and available bytes from the text of /proc/meminfo. Raises ValueError if it does not say."""
    rows = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    total, free = (_bytes(rows.get(name, "")) for name in ("MemTotal", "MemAvailable"))
    if not sane.fits(free, total):
        raise ValueError("no MemTotal and MemAvailable")
    return total, free


def _bytes(text: str) -> int:
    number, _, unit = text.strip().partition(" ")
    return int(number) * (_KIB if unit == "kB" else 1)


class Bar1:
    """The window into device memory that the host has (BAR1)."""

    tier: Tier = "rare"
    fields: tuple[FieldKey, ...] = ()

    def read(self, asker: Asker, _fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """Bytes used, in all."""
        window = asker.ask("nvmlDeviceGetBAR1MemoryInfo")
        if window is None or not sane.fits(window.bar1Used, window.bar1Total):
            return {}
        return {"bar1_used_bytes": window.bar1Used, "bar1_total_bytes": window.bar1Total}
