"""The MIG devices of one GPU as far as they are known: what its parts share between readings.

A MIG handle dies when its instance is destroyed; whoever meets a dead one says so here (`gone`), and the devices are
listed anew within the same tick. Everything that was known of an instance that is no more is forgotten.
"""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pynvml

from agent.collect.gpu.calls import Missed
from agent.collect.gpu.codes import describe
from agent.collect.gpu.parts.mig_profile import derived_profile, stated_profile
from agent.collect.gpu.parts.part import Asker
from agent.core.gpu_readings import GpuActivity, GpuProcess

_DEAD = (pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_INVALID_ARGUMENT)
_STRIKES = 3  # a call that is refused so often although the instance lives is not made again
_MOST_DEVICES = 64
# Profiles of a whole GPU, largest first; the one that a GPU has says how many compute slices there are.
_WHOLE = (
    pynvml.NVML_GPU_INSTANCE_PROFILE_8_SLICE,
    pynvml.NVML_GPU_INSTANCE_PROFILE_7_SLICE,
    pynvml.NVML_GPU_INSTANCE_PROFILE_6_SLICE,
    pynvml.NVML_GPU_INSTANCE_PROFILE_4_SLICE,
)


class InstanceGone(Exception):
    """The instance that was asked exists no longer, or the call is not for it."""


class InstanceMemory(NamedTuple):
    """Bytes of a GPU instance."""

    used: int
    free: int
    reserved: int | None
    total: int


@dataclass(frozen=True, slots=True)
class MigDevice:
    """One compute instance in its GPU instance. Two of them are the same instance if they are equal."""

    handle: int  # the pointer's value; for comparison
    uuid: str
    index: int
    gpu_instance: int
    compute_instance: int
    gpu_instance_slices: int | None
    compute_slices: int | None
    multiprocessors: int | None
    memory_megabytes: int | None


@dataclass(slots=True)
class GpuInstance:
    """What is measured of a GPU instance, once for all of its compute instances."""

    devices: tuple[MigDevice, ...]
    placement_start: int | None = None
    memory: InstanceMemory | None = None
    activity: GpuActivity | None = None


@dataclass(slots=True)
class MigTree:
    """`enabled` is None while it is not known, or when the GPU has no MIG mode."""

    enabled: bool | None = None
    listed: bool = False  # whether the devices could be listed
    slices: int | None = None
    devices: tuple[MigDevice, ...] = ()
    instances: dict[int, GpuInstance] = field(default_factory=dict)  # by GPU instance id
    # By GPU and compute instance id; one that is not here is not known.
    processes: dict[tuple[int, int], tuple[GpuProcess, ...]] = field(default_factory=dict)
    outside: tuple[GpuProcess, ...] | None = None  # in none of the devices
    processes_read_at_ns: int | None = None
    stale: bool = False
    profiles: dict[MigDevice, str] = field(default_factory=dict)
    _askers: dict[MigDevice, Asker] = field(default_factory=dict)
    _refused: list[tuple[str, str]] = field(default_factory=list)
    _strikes: dict[tuple[str, str], int] = field(default_factory=dict)

    def look(self, asker: Asker) -> None:
        """List the devices. Raises as `Asker.ask`; `Missed` when the mode itself could not be asked."""
        mode = asker.ask("nvmlDeviceGetMigMode")
        enabled = None if mode is None else bool(mode[0])
        if enabled != self.enabled and self.enabled is not None:
            asker.forget()  # what it does not have in one mode it may have in the other
        if enabled != self.enabled:
            self.slices = None
        self.enabled, self.stale = enabled, False
        self._keep(self._found(asker) if enabled else {}, asker)
        if enabled and self.slices is None:
            self.slices = _slices(asker)

    @property
    def all_processes(self) -> list[GpuProcess]:
        """Those in the devices, and those outside of them."""
        inside = [process for listed in self.processes.values() for process in listed]
        return inside + list(self.outside or ())

    def askers(self) -> Iterator[tuple[MigDevice, Asker]]:
        """Each device and how to ask it; use with `ask`."""
        yield from self._askers.items()

    def asker_of_device(self, device: MigDevice) -> Asker:
        """How to ask one device; use with `ask`."""
        return self._askers[device]

    def asker_of(self, gpu_instance: int) -> Asker:
        """How to ask a GPU instance for what its devices share."""
        return self._askers[self.instances[gpu_instance].devices[0]]

    def ask(self, asker: Asker, function: str, *arguments: Any) -> Any:
        """As `Asker.ask`, for a handle or id of an instance. Raises `InstanceGone` too."""
        calls = asker.calls
        if calls.knows_not(asker.gpu, function):
            return None
        try:
            return calls.raw(function, asker.handle, *arguments)
        except pynvml.NVMLError as error:
            if error.value not in _DEAD:
                calls.judge(asker.gpu, function, error.value)
                return None
            text = describe(function, error.value)
            asker.odd(text)
            self.stale = True
            self._refused.append((asker.gpu, function))
            raise InstanceGone(text) from error

    def _found(self, asker: Asker) -> dict[MigDevice, Asker]:
        found: dict[MigDevice, Asker] = {}
        count = asker.ask("nvmlDeviceGetMaxMigDeviceCount")
        for index in range(min(count or 0, _MOST_DEVICES)):
            handle = self._handle(asker, index)
            if handle is None:
                continue
            try:
                device = self._identify(asker, handle, index)
            except (InstanceGone, Missed):
                continue  # destroyed meanwhile: `stale` has it looked for at the next tick
            if device is not None:
                found[device] = Asker(asker.calls, device.uuid, handle)
        self.listed = count is not None and not asker.calls.knows_not(asker.gpu, "nvmlDeviceGetMigDeviceHandleByIndex")
        return found

    def _handle(self, asker: Asker, index: int) -> Any:
        try:
            return asker.ask("nvmlDeviceGetMigDeviceHandleByIndex", index)
        except Missed:
            return None  # counted; MIG mode may have been switched off meanwhile

    def _identify(self, asker: Asker, handle: Any, index: int) -> MigDevice | None:
        nameless = Asker(asker.calls, f"{asker.gpu} MIG {index}", handle)
        uuid = self.ask(nameless, "nvmlDeviceGetUUID")
        if not uuid:
            return None
        one = Asker(asker.calls, uuid, handle)
        gpu_instance = self.ask(one, "nvmlDeviceGetGpuInstanceId")
        compute_instance = self.ask(one, "nvmlDeviceGetComputeInstanceId")
        if gpu_instance is None or compute_instance is None:
            return None
        has = self.ask(one, "nvmlDeviceGetAttributes_v2")
        return MigDevice(
            handle=_address(handle),
            uuid=uuid,
            index=index,
            gpu_instance=gpu_instance,
            compute_instance=compute_instance,
            gpu_instance_slices=has and has.gpuInstanceSliceCount,
            compute_slices=has and has.computeInstanceSliceCount,
            multiprocessors=has and has.multiprocessorCount,
            memory_megabytes=has and has.memorySizeMB,
        )

    def _keep(self, found: dict[MigDevice, Asker], asker: Asker) -> None:
        """Only what is known of instances that still are the same."""
        changed = found.keys() != self._askers.keys()
        for device in self._askers.keys() - found.keys():
            asker.calls.forget_gpu(device.uuid)
        self._askers, self.devices = found, tuple(found)
        grouped: dict[int, list[MigDevice]] = {}
        for device in self.devices:
            grouped.setdefault(device.gpu_instance, []).append(device)
        old, self.instances = self.instances, {}
        for number, devices in grouped.items():
            known = old.get(number)
            same = known is not None and known.devices == tuple(devices)
            fresh = known if same else None
            if fresh is None:
                asker.calls.forget_gpu(name_of(asker.gpu, number))
            self.instances[number] = fresh or GpuInstance(tuple(devices), _placement(asker, number))
        self.profiles = {one: self.profiles.get(one) or self._name(asker, one) for one in self.devices}
        if changed:
            self.processes, self.outside, self.processes_read_at_ns = {}, None, None
            self._strikes = {}
        self._judge_refusals(asker, changed=changed)

    def _judge_refusals(self, asker: Asker, *, changed: bool) -> None:
        for refusal in [] if changed else self._refused:
            self._strikes[refusal] = self._strikes.get(refusal, 0) + 1
            if self._strikes[refusal] >= _STRIKES:
                asker.calls.unsupported.add(refusal)
        self._refused = []

    def _name(self, asker: Asker, device: MigDevice) -> str:
        try:
            name = self.ask(self._askers[device], "nvmlDeviceGetName")
            if stated := stated_profile(name):
                return stated
            memory = asker.first_of(("nvmlDeviceGetMemoryInfo_v2",), ("nvmlDeviceGetMemoryInfo",))
        except (InstanceGone, Missed):
            return ""
        has = (device.compute_slices, device.gpu_instance_slices, device.memory_megabytes)
        return derived_profile(*has, None if memory is None else memory.total)


def name_of(gpu: str, gpu_instance: int) -> str:
    """Under which it is remembered what a GPU instance does not have."""
    return f"{gpu} instance {gpu_instance}"


def _placement(asker: Asker, gpu_instance: int) -> int | None:
    """First memory slice; only root may ask."""
    handle = asker.try_ask("nvmlDeviceGetGpuInstanceById", gpu_instance)
    if handle is None:
        return None
    try:
        info = asker.calls.value(asker.gpu, "nvmlGpuInstanceGetInfo", handle)
    except Missed:
        return None
    return None if info is None else int(info.placement.start)


def _slices(asker: Asker) -> int | None:
    for number in _WHOLE:
        one = Asker(asker.calls, f"{asker.gpu} profile {number}", asker.handle)
        try:
            info = one.ask("nvmlDeviceGetGpuInstanceProfileInfo", number)
        except Missed:
            continue
        if info is not None and info.sliceCount:
            return int(info.sliceCount)
    return None


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
