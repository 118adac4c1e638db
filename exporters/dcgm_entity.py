"""A GPU, or a GPU instance of MIG, as DCGM's fields see it: its own values where it has some, else its GPU's."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.core.gpu_readings import GpuActivity, GpuDetails, GpuErrors, GpuNvlink, GpuPcie, GpuReading, MigReading

_NO_ACTIVITY = GpuActivity()
_NO_DETAILS = GpuDetails()
_NO_ERRORS = GpuErrors()
_NO_NVLINK = GpuNvlink()
_NO_PCIE = GpuPcie()
BEFORE_GPM = frozenset({"kepler", "maxwell", "pascal", "volta", "turing", "ampere", "ada", ""})  # "": not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """What one line of each family is about. `instance`: one of the MIG devices of the GPU instance, all alike here.

    `rates` are bytes per second by the names of `exporters.dcgm_memory`. What the GPU has not said is an empty value
    of its kind, so that each field has one short expression.
    """

    gpu: GpuReading
    instance: MigReading | None = None
    slots: tuple[str, ...] = ()  # uuids under which it is handed out
    rates: Mapping[str, float] = field(default_factory=dict)
    last_xid: int | None = None
    utilization_as_engine_active: bool = False

    @property
    def memory(self) -> GpuReading | MigReading:
        return self.instance or self.gpu

    @property
    def memory_used_ratio(self) -> float | None:
        """Used / (total - reserved), as DCGM defines it."""
        place = self.memory
        if place.memory_used_bytes is None or place.memory_total_bytes is None:
            return None
        usable = place.memory_total_bytes - (place.memory_reserved_bytes or 0)
        return place.memory_used_bytes / usable if usable > 0 else None

    @property
    def activity(self) -> GpuActivity:
        return (self.instance.activity if self.instance else self.gpu.activity) or _NO_ACTIVITY

    @property
    def engine_active_ratio(self) -> float | None:
        """Measured; where the hardware cannot and the user says so, the utilisation instead."""
        measured = self.activity.graphics_engine_ratio
        if measured is not None or not self.utilization_as_engine_active or self.instance is not None:
            return measured
        return self.gpu.utilization_ratio if (self.details.architecture or "") in BEFORE_GPM else None

    @property
    def details(self) -> GpuDetails:
        return self.gpu.details or _NO_DETAILS

    @property
    def errors(self) -> GpuErrors:
        return self.gpu.errors or _NO_ERRORS

    @property
    def pcie(self) -> GpuPcie:
        return self.gpu.pcie or _NO_PCIE

    @property
    def nvlink(self) -> GpuNvlink:
        return self.gpu.nvlink or _NO_NVLINK
