"""How a GPU is divided, for a recording: MIG profiles, layout and the memory in use while nothing runs."""

from collections.abc import Callable
from typing import Any

import pynvml

Ask = Callable[..., Any]  # NVML function and arguments after the handle -> answer, or None
_PROFILES = 16  # more than NVML has
_MEGABYTE = 2**20


def partition(ask: Ask) -> dict[str, Any] | None:
    """The `mig` part of a machine file; None for a GPU that cannot be divided."""
    mode = ask("nvmlDeviceGetMigMode")
    if mode is None:
        return None
    profiles = _profiles(ask)
    devices = _devices(ask) if mode[0] else []
    slices = ask("nvmlDeviceGetMaxMigDeviceCount") or 0
    if not profiles or not slices:
        return None
    used = [device["used"] / max(1, device["slices"]) for device in devices]
    smallest = min(profiles.values(), key=lambda profile: int(profile["slices"]))
    found = {
        "slices": slices,
        "slice_multiprocessors": smallest["multiprocessors"] // max(1, smallest["slices"]),
        "slice_used_bytes": int(min(used, default=0)),
        "profiles": profiles,
    }
    if mode[0]:
        places = ("profile", "gpu_instance", "compute_instance")
        found["layout"] = [{key: device[key] for key in places} for device in devices]
    return found


def _profiles(ask: Ask) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for number in range(_PROFILES):
        info = ask("nvmlDeviceGetGpuInstanceProfileInfo", number)
        if info is None or not getattr(info, "name", b""):
            continue
        name = info.name.decode() if isinstance(info.name, bytes) else info.name
        found[name.removeprefix("MIG ")] = {
            "number": number,
            "slices": info.sliceCount,
            "multiprocessors": info.multiprocessorCount,
            "memory_bytes": info.memorySizeMB * _MEGABYTE,
        }
    return found


def _devices(ask: Ask) -> list[dict[str, Any]]:
    found = []
    for index in range(ask("nvmlDeviceGetMaxMigDeviceCount") or 0):
        handle = ask("nvmlDeviceGetMigDeviceHandleByIndex", index)
        if handle is None:
            continue
        try:
            name = pynvml.nvmlDeviceGetName(handle)
            found.append(
                {
                    "profile": (name.decode() if isinstance(name, bytes) else name).rpartition(" MIG ")[2],
                    "gpu_instance": pynvml.nvmlDeviceGetGpuInstanceId(handle),
                    "compute_instance": pynvml.nvmlDeviceGetComputeInstanceId(handle),
                    "slices": pynvml.nvmlDeviceGetAttributes_v2(handle).gpuInstanceSliceCount,
                    "used": pynvml.nvmlDeviceGetMemoryInfo(handle).used,
                }
            )
        except pynvml.NVMLError:
            continue  # it was taken away while we looked
    return found
