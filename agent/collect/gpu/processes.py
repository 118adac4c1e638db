"""The processes on one GPU or its MIG devices, from NVML's three lists of them."""

from collections.abc import Collection
from typing import Any, NamedTuple

import pynvml

from agent.collect.gpu import sane
from agent.collect.gpu.calls import Calls, Missed
from agent.collect.gpu.parts.mig_tree import MigTree
from agent.collect.gpu.parts.part import Asker
from agent.core.gpu_readings import GpuProcess, ProcessKind

_RETRIES = 3  # the list may grow between asking its size and reading it
# A process may be on several lists; what comes later here decides what it is called.
_LISTS: dict[ProcessKind, str] = {
    "graphics": "nvmlDeviceGetGraphicsRunningProcesses",
    "mps": "nvmlDeviceGetMPSComputeRunningProcesses",
    "compute": "nvmlDeviceGetComputeRunningProcesses",
}
_NO_INSTANCE = 0xFFFFFFFF
# A GPU instance with nothing on it was seen to use 26 MiB at most; a process with a CUDA context takes hundreds.
# Only an MPS server without clients is as small, and it works for nobody.
_AT_REST_BYTES = 64 * 2**20


class Place(NamedTuple):
    """Where on a GPU in MIG mode: ids of GPU and compute instance, each `_NO_INSTANCE` outside of all."""

    gpu_instance: int
    compute_instance: int


_NOWHERE = Place(_NO_INSTANCE, _NO_INSTANCE)
_Found = dict[Place, dict[int, GpuProcess]]


def read_processes(
    calls: Calls, gpu: str, handle: Any, total: int | None = None, kinds: Collection[ProcessKind] = tuple(_LISTS)
) -> tuple[GpuProcess, ...] | None:
    """Processes by pid, each once; None if this GPU lists none at all. Raises as `Calls.value` does.

    `total`: bytes of memory that there are; a process that is said to hold more has none that is known. `kinds`: the
    lists to ask for.
    """
    found = _by_place(calls, gpu, handle, total, kinds)
    if found is None:
        return None
    merged: dict[int, GpuProcess] = {}
    for listed in found.values():
        merged |= listed
    return _in_order(merged)


def read_mig_processes(
    asker: Asker,
    tree: MigTree,
    unix_ns: int,
    total: int | None = None,
    kinds: Collection[ProcessKind] = tuple(_LISTS),
) -> None:
    """Processes of each MIG device, and those of the GPU that are in none of them, into `tree`.

    A GPU in MIG mode lists the processes of all its instances, with their ids, to who has the right: three calls in
    place of three for each device, and these are NVML's dearest. Where it does not, the devices are asked.
    """
    places = [Place(one.gpu_instance, one.compute_instance) for one in tree.devices]
    try:
        found = _by_place(asker.calls, asker.gpu, asker.handle, total, kinds)
    except Missed:
        found = None
    tree.processes_read_at_ns = unix_ns
    if found and _NOWHERE not in found:
        tree.processes = {place: _in_order(found.get(place, {})) for place in places}
        tree.outside = _outside(found, places)
        return
    tree.processes = {}
    for device, one in tree.askers():
        listed = _of_device(tree, one, device.gpu_instance, kinds)
        if listed is not None:
            tree.processes[Place(device.gpu_instance, device.compute_instance)] = listed
    inside = {process.pid for listed in tree.processes.values() for process in listed}
    tree.outside = None
    if found is not None:
        tree.outside = tuple(process for process in _outside(found, places) if process.pid not in inside)


def _outside(found: _Found, places: list[Place]) -> tuple[GpuProcess, ...]:
    merged: dict[int, GpuProcess] = {}
    for place, listed in found.items():
        if place not in places:
            merged |= listed
    return _in_order(merged)


def _of_device(
    tree: MigTree, one: Asker, gpu_instance: int, kinds: Collection[ProcessKind]
) -> tuple[GpuProcess, ...] | None:
    memory = tree.instances[gpu_instance].memory
    if memory is not None and memory.used < _AT_REST_BYTES:
        return ()  # no call needed: there is no room for a CUDA context in that
    try:
        return read_processes(one.calls, one.gpu, one.handle, memory and memory.total, kinds)
    except Missed:
        tree.stale = True  # the call is refused when the instance is gone
        return None


def _in_order(found: dict[int, GpuProcess]) -> tuple[GpuProcess, ...]:
    return tuple(found[pid] for pid in sorted(found))


def _by_place(
    calls: Calls, gpu: str, handle: Any, total: int | None, kinds: Collection[ProcessKind] = tuple(_LISTS)
) -> _Found | None:
    found: _Found = {}
    listed = False
    for kind, function in _LISTS.items():
        if kind not in kinds:
            continue
        entries = _retried(calls, gpu, handle, function)
        if entries is None:
            continue
        listed = True
        for entry in entries:
            if sane.pid(entry.pid) is None:
                text = f"{function}: no process id (0)"
                calls.errors[text] = calls.errors.get(text, 0) + 1
            else:
                _enter(found, entry, kind, total)
    return found if listed else None


def _enter(found: _Found, entry: Any, kind: ProcessKind, total: int | None) -> None:
    inside = found.setdefault(Place(entry.gpuInstanceId, entry.computeInstanceId), {})
    known = [sane.process_memory(entry.usedGpuMemory, total)]
    if entry.pid in inside:
        known.append(inside[entry.pid].memory_used_bytes)
    memory = max((value for value in known if value is not None), default=None)
    inside[entry.pid] = GpuProcess(pid=entry.pid, kind=kind, memory_used_bytes=memory)


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
