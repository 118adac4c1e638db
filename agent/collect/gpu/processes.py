"""The processes on one GPU, from NVML's three lists of them."""

from typing import Any

import pynvml

from agent.collect.gpu.calls import Calls, Missed
from agent.core.gpu_readings import GpuProcess, ProcessKind

_RETRIES = 3  # the list may grow between asking its size and reading it
# A process may be on several lists; what comes later here decides what it is called.
_LISTS: dict[ProcessKind, str] = {
    "graphics": "nvmlDeviceGetGraphicsRunningProcesses",
    "mps": "nvmlDeviceGetMPSComputeRunningProcesses",
    "compute": "nvmlDeviceGetComputeRunningProcesses",
}


def read_processes(calls: Calls, gpu: str, handle: Any) -> tuple[GpuProcess, ...] | None:
    """Processes by pid, each once; None if this GPU lists none at all. Raises as `Calls.value` does."""
    found: dict[int, GpuProcess] = {}
    listed = False
    for kind, function in _LISTS.items():
        entries = _retried(calls, gpu, handle, function)
        if entries is None:
            continue
        listed = True
        for entry in entries:
            known = [entry.usedGpuMemory, found[entry.pid].memory_used_bytes if entry.pid in found else None]
            memory = max((value for value in known if value is not None), default=None)
            found[entry.pid] = GpuProcess(pid=entry.pid, kind=kind, memory_used_bytes=memory)
    return tuple(found[pid] for pid in sorted(found)) if listed else None


def _retried(calls: Calls, gpu: str, handle: Any, function: str) -> list[Any] | None:
    for remaining in reversed(range(_RETRIES)):
        try:
            return _entries(calls, gpu, handle, function)
        except Missed as error:
            if remaining == 0 or "insufficient size" not in str(error):
                raise
    return None


def _entries(calls: Calls, gpu: str, handle: Any, function: str) -> list[Any] | None:
    for version in ("_v2",) if _odd_v3() else ("_v3", "_v2"):
        name = function + version
        if calls.knows_not(gpu, name):
            continue
        entries = calls.value(gpu, name, handle)
        if entries is not None:
            return list(entries)
        if not calls.knows_not(gpu, name):
            return []  # NVML said "nothing" with an error code
    return None


def _odd_v3() -> bool:
    """Early 535 drivers had a larger struct in `_v3`; they have the first of these functions, not the second."""
    return _has("nvmlDeviceGetConfComputeMemSizeInfo") and not _has("nvmlDeviceGetRunningProcessDetailList")


def _has(symbol: str) -> bool:
    try:
        pynvml._nvmlGetFunctionPointer(symbol)
    except pynvml.NVMLError:
        return False
    return True
