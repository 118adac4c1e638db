"""Renders what the Python simulator says into the file of the C library."""

import ctypes
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml
from msgspec.structs import replace

from agent.collect.gpu.raw import NOT_FOUND, SUCCESS, Choices, device_at
from agent.collect.gpu.shapes import SHAPES, STATEFUL
from agent.demo.gpus import nvml
from agent.demo.gpus.answers import events
from agent.demo.gpus.answers.fields import FIELDS
from agent.demo.gpus.calls import call_seconds
from agent.demo.gpus.control import Control
from agent.demo.gpus.machine import Machine
from agent.demo.gpus.model import NodeSim
from tests.support.nvml import table
from tests.support.nvml.profiles import Profiles
from tests.support.nvml.render import Row, rows_of

UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, GPU_IS_LOST = 1, 2, 3, 15
HANG, CRASH = -1, -2  # as in nvml.c
SETTLE_NS = 3600 * 1_000_000_000
_LINKS = (*range(18), 0xFFFFFFFF)
_LINK_FIELDS = {value for name, value in vars(pynvml).items() if name.startswith("NVML_FI_DEV_NVLINK")}
_ASKED = [(field, scope) for field in FIELDS for scope in (_LINKS if field in _LINK_FIELDS else (0,))]
_ITEM = struct.Struct("<IIqqIIQ")  # nvmlFieldValue_t: field, scope, time stamp, latency, type, code, value
_ITEMS = b"".join(_ITEM.pack(field, scope, 0, 0, 0, 0, 0) for field, scope in _ASKED)


class Writer:
    """The C library's file about one simulated machine. Its clock moves when it is told to."""

    def __init__(self, machine: Machine, path: Path) -> None:
        self.node = NodeSim(machine)
        self._path = path
        self._wanted = Control()
        self._library = nvml.SimulatedNvml(self.node)
        self._library.nvmlInitWithFlags(ctypes.c_uint(0))
        self._handles: dict[str, list[int]] = {"h": [], "g": [], "x": []}
        self._gpu_of: dict[int, int] = {}  # handle -> index of the GPU that it is about
        self._names = functions(self._library)
        self._profiles = Profiles(self._library)
        self._event_set = pynvml.c_nvmlEventSet_t()
        if "nvmlEventSetCreate" in self._names:
            self._library.nvmlEventSetCreate(ctypes.byref(self._event_set))
        self.write()

    def apply(self, control: Control, settle: bool = False) -> None:
        """From now on as `control` says; with `settle` power and temperature have arrived where it leads."""
        self._wanted = control
        # This process must survive what it only describes.
        driver = "unloaded" if control.driver == "unloaded" else "loaded"
        self.node.apply(replace(control, hang=[], crash=[], hang_driver=False, call_seconds=None, driver=driver))
        if settle:
            self.node.advance(self.node.now_ns + SETTLE_NS)
        self.write()

    def advance(self, now_ns: int) -> None:
        """Move the node's clock and write the file again."""
        self.node.advance(now_ns)
        self.write()

    def write(self) -> None:
        """Write the file, and tell those who have the old one open."""
        if self.node.control.driver == "loaded":
            self._library.nvmlInitWithFlags(ctypes.c_uint(0))
            self._discover()
        unknown = UNINITIALIZED if self.node.control.driver == "unloaded" else INVALID_ARGUMENT
        rows = [row._replace(latency_ns=self._latency_ns(row)) for row in self._rows()]
        upgraded = self._wanted.driver == "mismatch"
        table.write(self._path, rows, list(self._events()), unknown, upgraded=upgraded)

    def _latency_ns(self, row: Row) -> int:
        gpu = self._gpu_of.get(row.key[1]) if len(row.key) > 1 and isinstance(row.key[1], int) else None
        facts = None if gpu is None else self.node.gpus[gpu].facts
        if row.key[0] == "nvmlDeviceGetFieldValues" and len(row.key) > 2:
            return 0  # the batch as a whole takes time
        return int(call_seconds(self._wanted, facts, str(row.key[0])) * 1e9)

    def _events(self) -> Iterator[tuple[int, bytes]]:
        for event in sorted(self.node.control.events, key=lambda one: one.number):
            if event.kind in events.KINDS:
                yield event.number, bytes(events.event_data(event, event.gpu + 1))
            else:
                yield event.number, struct.pack("<QQQQ", 0, events._DRIVER_EVENTS[event.kind], event.gpu, 0)

    def _discover(self) -> None:
        """All handles that there are, and those that there were: a client may still hold them."""
        for index in range(len(self.node.gpus)):
            self._learn("h", index + 1, index)
        for handle in list(self._handles["h"]):
            gpu = self._gpu_of[handle]
            for function, kind in (("MigDeviceHandleByIndex", "h"), ("GpuInstanceById", "g")):
                for found in self._given(f"nvmlDeviceGet{function}", [handle]):
                    self._learn(kind, found, gpu)
        for handle in list(self._handles["g"]):
            for found in self._given("nvmlGpuInstanceGetComputeInstanceById", [handle]):
                self._learn("x", found, self._gpu_of[handle])

    def _given(self, function: str, handles: list[int]) -> Iterator[int]:
        if function not in self._names:
            return
        for row in rows_of(self._library, function, {"h": handles, "g": handles, "x": []}, self._choices()):
            if row.code == SUCCESS:
                yield int.from_bytes(row.payload[:8], "little")

    def _learn(self, kind: str, handle: int, gpu: int) -> None:
        if handle not in self._handles[kind]:
            self._handles[kind].append(handle)
        self._gpu_of[handle] = gpu

    def _choices(self) -> Choices:
        gpus = self.node.gpus
        uuids = [gpu.uuid for gpu in gpus]
        pids = {process.pid for gpu in gpus for process in gpu.processes}
        uuids += [device.uuid for gpu in gpus for device in (gpu.mig.devices if gpu.mig else None) or ()]
        return Choices(len(gpus), {"uuid": uuids, "pci_bus_id": [gpu.pci_bus_id for gpu in gpus]}, sorted(pids))

    def _rows(self) -> Iterator[Row]:
        control = self._wanted
        stuck = {**dict.fromkeys(control.hang, HANG), **dict.fromkeys(control.crash, CRASH)}
        answering = {
            kind: [handle for handle in handles if self._gpu_of[handle] not in stuck]
            for kind, handles in self._handles.items()
        }
        for handle, gpu in self._gpu_of.items():
            code = stuck.get(gpu, UNINITIALIZED if control.driver == "unloaded" else NOT_SUPPORTED)
            yield Row(("", handle), code)
        yield Row(("nvmlInitWithFlags",), HANG if control.hang_driver else self._library.nvmlInitWithFlags(0))
        for function in ("nvmlDeviceGetHandleByUUID", "nvmlDeviceGetHandleByPciBusId_v2"):
            yield Row((function,), NOT_FOUND)
        yield from self._waits()
        for function in self._names:
            if function in SHAPES and function != "nvmlDeviceGetFieldValues":
                for row in rows_of(self._library, function, answering, self._choices()):
                    yield row._replace(code=self._stuck_lookup(row, stuck))
        for handle in answering["h"]:
            yield from self._field_rows(handle)
            yield from self._special_rows(handle)

    def _stuck_lookup(self, row: Row, stuck: dict[int, int]) -> int:
        """Asking for the handle of a GPU that hangs does not return either."""
        if row.code == SUCCESS and str(row.key[0]).startswith("nvmlDeviceGetHandleBy"):
            return stuck.get(self._gpu_of.get(int.from_bytes(row.payload, "little"), -1), SUCCESS)
        return row.code

    def _waits(self) -> Iterator[Row]:
        """Codes of the functions that have no shape; what they give is not in rows."""
        returns, lost = self.node.control.returns, self.node.control.lost
        for function in self._names:
            if function in STATEFUL and function.startswith(("nvmlEventSet", "nvmlSystemEventSet", "nvmlGpmMetrics")):
                unloaded = UNINITIALIZED if self._wanted.driver == "unloaded" else SUCCESS
                forced = returns.get(function, returns.get("*", {})).get("*", SUCCESS)
                yield Row((function,), unloaded or forced)
        for gpu in lost:
            yield Row(("nvmlEventSetWait_v2", gpu + 1), GPU_IS_LOST)

    def _field_rows(self, handle: int) -> Iterator[Row]:
        name = "nvmlDeviceGetFieldValues"
        if name not in self._names:
            return
        items = (pynvml.c_nvmlFieldValue_t * len(_ASKED)).from_buffer_copy(_ITEMS)
        count = ctypes.c_int32(len(_ASKED))
        code = self._library.nvmlDeviceGetFieldValues(device_at(handle), count, ctypes.byref(items))
        yield Row((name, handle), code)
        answers = bytes(items)
        for number, (field, scope) in enumerate(_ASKED if code == SUCCESS else ()):
            item = answers[number * _ITEM.size : (number + 1) * _ITEM.size]
            if _ITEM.unpack(item)[-2] != NOT_SUPPORTED:
                yield Row((name, handle, field, scope), SUCCESS, item[8:])

    def _special_rows(self, handle: int) -> Iterator[Row]:
        """Functions with state: what they return, and what the profiling metrics are now."""
        if "nvmlDeviceRegisterEvents" in self._names:
            code = self._library.nvmlDeviceRegisterEvents(device_at(handle), ctypes.c_ulonglong(0), self._event_set)
            yield Row(("nvmlDeviceRegisterEvents", handle), code)
        if "nvmlGpmMetricsGet" in self._names:
            yield from self._profiles.rows(handle)


def functions(library: Any) -> list[str]:
    """The functions that the Python face has and the C library can have."""
    return [name for name in (*SHAPES, *STATEFUL) if getattr(library, name, None) is not None]
