"""The thread that waits for NVML's events: GPUs to watch in, `Noticed` out. See events.py for who looks after it."""

import ctypes
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pynvml

from agent.collect.gpu.codes import EVENT_KINDS, describe
from agent.core.gpu_readings import XidEvent

PAUSE_FIRST_SECONDS = 1.0
PAUSE_MOST_SECONDS = 60.0
KINDS_MOST = 256  # different errors between two ticks
_NO_INSTANCE = 0xFFFFFFFF
_WANTED = sum(EVENT_KINDS)
_XID, _MIG = pynvml.nvmlEventTypeXidCriticalError, pynvml.nvmlEventMigConfigChange
_UNBIND, _BIND = pynvml.nvmlSystemEventTypeGpuDriverUnbind, pynvml.nvmlSystemEventTypeGpuDriverBind
_ABSENT = (
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
)

Gpus = Mapping[str, str]  # uuid -> PCI bus id
_Place = tuple[str, int, int, int]  # uuid, code, GPU instance, compute instance


@dataclass(slots=True)
class Noticed:
    """What has come since the last look."""

    xids: dict[_Place, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    mig_changed: set[str] = field(default_factory=set)
    unbound: bool = False
    bound: bool = False
    dropped: int = 0

    def events(self, at_ns: int) -> tuple[XidEvent, ...]:
        """The Xids, as of the instant of the tick."""
        return tuple(
            XidEvent(
                at_ns=at_ns,
                uuid=uuid,
                xid=xid,
                source="nvml",
                gpu_instance=None if gpu_instance == _NO_INSTANCE else gpu_instance,
                compute_instance=None if compute_instance == _NO_INSTANCE else compute_instance,
                count=count,
            )
            for (uuid, xid, gpu_instance, compute_instance), count in self.xids.items()
        )


class Waiter:
    """The thread. Only `follow`, `take` and the plain attributes are for others."""

    def __init__(self, gpus: Gpus, wait_milliseconds: int) -> None:
        self.thread = threading.Thread(target=self._run, name="nvml-events", daemon=True)
        self.ending = threading.Event()
        self.changed = threading.Event()
        self.turns = 0
        self.doing = "the start"
        self.watching = False
        self.pointless = False
        self.problem = ""
        self.gaps = ""
        self._gpus = dict(gpus)
        self._wait_milliseconds = wait_milliseconds
        self._lock = threading.Lock()
        self._noticed = Noticed()
        self._set: Any = None
        self._system_set: Any = None
        self._uuids: dict[int, str] = {}

    def follow(self, gpus: Gpus) -> None:
        if gpus != self._gpus:
            self._gpus = dict(gpus)
            self.changed.set()

    def take(self) -> Noticed:
        with self._lock:
            taken, self._noticed = self._noticed, Noticed()
        return taken

    def _run(self) -> None:
        pause = PAUSE_FIRST_SECONDS
        self.changed.set()
        self._open_system_set()
        try:
            while not self.ending.is_set():
                try:
                    if self.changed.is_set():
                        self.changed.clear()
                        self._build()
                    self._wait()
                    pause, self.problem = PAUSE_FIRST_SECONDS, ""
                except pynvml.NVMLError as error:
                    # Also a GPU that is lost: the call does not say which. The set is made anew, without it.
                    self.problem = f"{describe(self.doing, error.value)}; trying again"
                    self.watching = False
                    self.turns += 1
                    self._pause(pause)
                    pause = min(2 * pause, PAUSE_MOST_SECONDS)
                self.turns += 1
        finally:
            self._free()
            self._free_system_set()

    def _pause(self, seconds: float) -> None:
        """Until the GPUs to watch have changed, at most `seconds`. The turns go on: this thread is not stuck."""
        while seconds > 0 and not self.changed.wait(min(seconds, 1.0)):
            seconds -= 1.0
            self.turns += 1
        self.changed.set()  # make the set anew in any case

    def _call(self, function: str, *arguments: Any) -> Any:
        self.doing = function
        return getattr(pynvml, function)(*arguments)

    def _build(self) -> None:
        """A new set with every GPU that has events. Those that refuse are named in `gaps`."""
        self._free()
        self.watching, self.pointless, refused = False, False, []
        try:
            fresh = self._call("nvmlEventSetCreate")
        except pynvml.NVMLError as error:
            if error.value not in _ABSENT:
                raise
            self.pointless, self.gaps = True, "this driver has no events"
            return
        self._set = fresh
        for uuid, bus_id in self._gpus.items():
            try:
                self._register(uuid, bus_id)
            except pynvml.NVMLError as error:
                if error.value not in _ABSENT:
                    refused.append(f"{uuid}: {describe(self.doing, error.value)}")
        self.watching = bool(self._uuids)
        self.pointless = not self._uuids and not refused
        self.gaps = "; ".join(refused) or ("no GPU of this node has events" if self.pointless and self._gpus else "")
        if not self._uuids:
            self._free()

    def _register(self, uuid: str, bus_id: str) -> None:
        handle = self._call("nvmlDeviceGetHandleByPciBusId", bus_id)
        kinds = self._call("nvmlDeviceGetSupportedEventTypes", handle) & _WANTED
        if kinds:
            self._call("nvmlDeviceRegisterEvents", handle, kinds, self._set)
            self._uuids[_address(handle)] = uuid

    def _wait(self) -> None:
        if self._set is None and self._system_set is None:
            self.changed.wait(self._wait_milliseconds / 1000)
            return
        if self._set is not None:
            try:
                self._note(self._call("nvmlEventSetWait_v2", self._set, self._wait_milliseconds))
            except pynvml.NVMLError_Timeout:
                pass  # nothing has happened: the usual answer
        if self._system_set is not None:
            self._wait_for_system(0 if self._set is not None else self._wait_milliseconds)

    def _note(self, data: Any) -> None:
        uuid = self._uuids.get(_address(data.device))
        if uuid is None:
            uuid = str(self._call("nvmlDeviceGetUUID", data.device))
        kind = EVENT_KINDS.get(data.eventType, f"0x{data.eventType:x}")
        with self._lock:
            noticed = self._noticed
            if data.eventType == _MIG:
                noticed.mig_changed.add(uuid)
            if data.eventType == _XID:
                place = (uuid, int(data.eventData), int(data.gpuInstanceId), int(data.computeInstanceId))
                if place not in noticed.xids and len(noticed.xids) >= KINDS_MOST:
                    noticed.dropped += 1
                else:
                    noticed.xids[place] = noticed.xids.get(place, 0) + 1
            noticed.kinds[kind] = noticed.kinds.get(kind, 0) + 1

    def _open_system_set(self) -> None:
        """Bind and unbind of the driver, where it tells of them (575 and newer)."""
        try:
            fresh = self._call("nvmlSystemEventSetCreate", pynvml.nvmlSystemEventSetCreateRequest_v1)
            self._system_set = fresh
            version = pynvml.nvmlSystemRegisterEventRequest_v1
            self._call("nvmlSystemRegisterEvents", version, _UNBIND | _BIND, fresh)
        except pynvml.NVMLError:
            self._free_system_set()  # without it an upgrade is noticed when calls fail

    def _wait_for_system(self, milliseconds: int) -> None:
        room = 8
        buffer = (pynvml.c_nvmlSystemEventData_v1_t * room)()
        version = pynvml.nvmlSystemEventSetWaitRequest_v1
        try:
            found = self._call("nvmlSystemEventSetWait", version, self._system_set, milliseconds, buffer, room)
        except pynvml.NVMLError_Timeout:
            return
        except pynvml.NVMLError:
            self._free_system_set()
            return
        with self._lock:
            for event in found:
                self._noticed.unbound |= event["eventType"] == _UNBIND
                self._noticed.bound |= event["eventType"] == _BIND
                kind = "driver_unbind" if event["eventType"] == _UNBIND else "driver_bind"
                self._noticed.kinds[kind] = self._noticed.kinds.get(kind, 0) + 1

    def _free(self) -> None:
        self._uuids = {}
        old, self._set = self._set, None
        if old is not None:
            try:
                self._call("nvmlEventSetFree", old)
            except pynvml.NVMLError:
                pass  # a driver that has gone away has freed it

    def _free_system_set(self) -> None:
        old, self._system_set = self._system_set, None
        if old is not None:
            try:
                self._call("nvmlSystemEventSetFree", pynvml.nvmlSystemEventSetFreeRequest_v1, old)
            except pynvml.NVMLError:
                pass  # as above


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
