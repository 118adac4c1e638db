"""The MIG devices of a simulated GPU: a layout from the control file in, instances with handles and UUIDs out.

An instance that stays in the layout stays the same; one that leaves it takes its handle with it, and its handle is
never used again. UUIDs follow from the GPU and the two ids, as the driver's do: the same slice made anew has the same.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.demo.gpus.control import SimulatedProcess, SimulatedSlice
from agent.demo.gpus.machine import MigFacts, MigProfile

_NAMES = uuid.UUID("51300000-0000-4000-8000-000000000000")
_SERIALS = 1 << 32  # handles of GPUs are below, those of MIG devices above: GPU's handle * this + serial number


@dataclass(slots=True)
class MigDevice:
    """One compute instance in its GPU instance."""

    handle: int
    uuid: str
    name: str  # as nvidia-smi -L has it
    gpu_instance: int
    compute_instance: int
    whole: MigProfile  # of its GPU instance
    compute_slices: int
    multiprocessors: int
    load: float = 0.0
    processes: tuple[SimulatedProcess, ...] = ()
    memory_used_bytes: int | None = None
    busy_seconds: float = 0.0  # load over time


@dataclass(slots=True)
class Mig:
    """MIG of one GPU. `devices` is None while MIG mode is off."""

    facts: MigFacts
    gpu_uuid: str
    gpu_handle: int
    devices: list[MigDevice] | None = None
    _made: int = field(default=0)

    def __post_init__(self) -> None:
        self.arrange(self.recorded())

    def recorded(self, load: float = 0.0, processes: Sequence[SimulatedProcess] = ()) -> list[SimulatedSlice] | None:
        """The layout that the machine was recorded with; None: it was recorded with MIG mode off.

        Work that is meant for the GPU goes to all devices alike, its processes to the first.
        """
        if self.facts.layout is None:
            return None
        return [
            SimulatedSlice(
                profile=place.profile,
                gpu_instance=place.gpu_instance,
                compute_instance=place.compute_instance,
                load=load,
                processes=[] if number else list(processes),
            )
            for number, place in enumerate(self.facts.layout)
        ]

    def arrange(self, wanted: Sequence[SimulatedSlice] | None) -> None:
        """From now on there are these; None: MIG mode is off. Raises ValueError for a profile that it does not have."""
        if wanted is None:
            self.devices = None
            return
        kept = {(one.gpu_instance, one.compute_instance, one.name): one for one in self.devices or ()}
        self.devices = []
        for one in wanted:
            key = (one.gpu_instance, one.compute_instance, one.profile)
            device = kept.get(key) or self._make(one)
            device.load = min(max(one.load, 0.0), 1.0)
            device.processes = tuple(one.processes)
            device.memory_used_bytes = one.memory_used_bytes
            self.devices.append(device)

    def _make(self, wanted: SimulatedSlice) -> MigDevice:
        part, _, rest = wanted.profile.partition("c.")
        whole = self.facts.profiles.get(rest or wanted.profile)
        if whole is None or (rest and not part.isdigit()):
            known = ", ".join(self.facts.profiles)
            raise ValueError(f"mig: no profile {wanted.profile!r}: use {known}, or a part of one (1c.3g.40gb)")
        slices = int(part) if rest else whole.slices
        self._made += 1
        name = f"{self.gpu_uuid}/{wanted.gpu_instance}/{wanted.compute_instance}"
        return MigDevice(
            handle=self.gpu_handle * _SERIALS + self._made,
            uuid=f"MIG-{uuid.uuid5(_NAMES, name)}",
            name=wanted.profile,
            gpu_instance=wanted.gpu_instance,
            compute_instance=wanted.compute_instance,
            whole=whole,
            compute_slices=slices,
            multiprocessors=slices * self.facts.slice_multiprocessors if rest else whole.multiprocessors,
        )

    def advance(self, seconds: float) -> None:
        """Over `seconds` of constant load."""
        for device in self.devices or ():
            device.busy_seconds += device.load * seconds

    @property
    def load(self) -> float:
        """0..1 of the whole GPU."""
        return sum(one.load * one.compute_slices for one in self.devices or ()) / self.facts.slices

    def inside(self, gpu_instance: int) -> list[MigDevice]:
        """The compute instances of a GPU instance; none if it does not exist."""
        return [one for one in self.devices or () if one.gpu_instance == gpu_instance]

    def used_bytes(self, gpu_instance: int) -> int:
        """Memory in use in a GPU instance."""
        inside = self.inside(gpu_instance)
        stated = [one.memory_used_bytes for one in inside if one.memory_used_bytes is not None]
        if stated:
            return max(stated)
        held = sum(process.memory_bytes for one in inside for process in one.processes)
        return min(inside[0].whole.slices * self.facts.slice_used_bytes + held, inside[0].whole.memory_bytes)

    @property
    def used_bytes_in_all(self) -> int:
        """Memory in use on the GPU: its instances', and what is at rest where there is none."""
        instances = {one.gpu_instance: one.whole.slices for one in self.devices or ()}
        rest = max(self.facts.slices - sum(instances.values()), 0) * self.facts.slice_used_bytes
        return rest + sum(self.used_bytes(number) for number in instances)


def placement_start(gpu_instance: int) -> int:
    """First of the eight memory slices: the driver numbers the whole, halves, quarters and eighths one after another.

    So 0 is the GPU, 1 and 2 its halves, 3 to 6 its quarters, 7 to 14 its eighths.
    """
    size = 8
    first = 0
    while size > 1 and gpu_instance >= first + 8 // size:
        first += 8 // size
        size //= 2
    return (gpu_instance - first) * size


def parent_of(handle: int) -> int:
    """The handle of the GPU to which a handle belongs: itself, or that of a MIG device's GPU."""
    return handle // _SERIALS if handle >= _SERIALS else handle
