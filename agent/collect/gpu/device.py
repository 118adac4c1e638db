"""One GPU: its handle and what it can say in, a `GpuReading` per tick out. The cheap values are read each time, the
dear ones when due."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pynvml
from msgspec.structs import replace

from agent.collect.gpu.calls import Calls, GpuUnavailable, Missed
from agent.collect.gpu.codes import throttle_words
from agent.collect.gpu.meters import NS, EnergyMeter, ThrottleMeter
from agent.collect.gpu.processes import read_processes
from agent.core.gpu_readings import GpuProcess, GpuReading

_FIELD_MEMORY_TEMPERATURE = 82
_FIELD_ENERGY_MILLIJOULES = 83
_FIELD_SLOWDOWN_MARGIN = 194  # T.limit at which the clocks are cut; the current margin minus it is what is left

_CLOCKS = {
    "graphics": pynvml.NVML_CLOCK_GRAPHICS,
    "sm": pynvml.NVML_CLOCK_SM,
    "memory": pynvml.NVML_CLOCK_MEM,
    "video": pynvml.NVML_CLOCK_VIDEO,
}
_FIELD_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")  # by nvmlValueType_t

PROBE_FIRST_NS = 30 * NS
PROBE_MOST_NS = 600 * NS


@dataclass(slots=True)
class Slow:
    """Values of the slower tier, kept until they are read again."""

    due_ns: int = 0
    processes: tuple[GpuProcess, ...] | None = None
    processes_read_at_ns: int | None = None
    power_limit_watts: float | None = None
    memory_temperature_celsius: float | None = None
    temperature_slowdown_celsius: float | None = None


@dataclass(slots=True)
class Probing:
    """A GPU that is lost: when to look for it again."""

    reason: GpuUnavailable
    due_ns: int
    pause_ns: int = PROBE_FIRST_NS


@dataclass(slots=True)
class Fast:
    """Values of the fast tier, and how reading them went."""

    values: dict[str, Any] = field(default_factory=dict)
    answered: int = 0
    failure: str = ""


class Pace(NamedTuple):
    """How often one GPU is read."""

    slow_ns: int
    turn: float  # 0..1: part of `slow_ns` until the second slow reading, so that the GPUs take turns
    max_gap_ns: int  # readings further apart than this are not joined into totals


class Device:
    """Reads one GPU. `identity` carries the fields that never change; it stays when the GPU is lost."""

    def __init__(self, calls: Calls, handle: Any, identity: GpuReading, pace: Pace) -> None:
        self.identity = identity
        self._calls = calls
        self._handle = handle
        self._pace = pace
        self._energy = EnergyMeter(pace.max_gap_ns)
        self._throttle = ThrottleMeter(pace.max_gap_ns)
        self._slow = Slow()
        self._probing: Probing | None = None
        self._unknown_fields: set[int] = set()

    @property
    def will_be_touched(self) -> bool:
        return self._probing is None

    def probe_due(self, boot_ns: int) -> bool:
        return self._probing is not None and boot_ns >= self._probing.due_ns

    def read(self, unix_ns: int, boot_ns: int) -> GpuReading:
        """Touches NVML unless the GPU is lost and not yet due for a probe. Raises `DriverGone`."""
        if self._probing is not None and not self._found_again(boot_ns):
            return self._absent(unix_ns, self._probing.reason)
        try:
            return self._present(unix_ns, boot_ns)
        except GpuUnavailable as error:
            self._probing = Probing(error, boot_ns + PROBE_FIRST_NS)
            self._slow = Slow()
            return self._absent(unix_ns, error)

    def _absent(self, unix_ns: int, error: GpuUnavailable) -> GpuReading:
        return replace(self.identity, read_at_ns=unix_ns, state=error.state, reason=error.reason)

    def _found_again(self, boot_ns: int) -> bool:
        probing = self._probing
        if probing is None or boot_ns < probing.due_ns:
            return False
        probing.pause_ns = min(2 * probing.pause_ns, PROBE_MOST_NS)
        probing.due_ns = boot_ns + probing.pause_ns
        try:
            handle = self._ask("nvmlDeviceGetHandleByPciBusId", self.identity.pci_bus_id, bare=True)
            if handle is None:
                return False
            self._handle = handle
            if self._ask("nvmlDeviceGetUUID") != self.identity.uuid:
                return False
        except (GpuUnavailable, Missed):
            return False
        self._probing = None
        return True

    def _ask(self, function: str, *arguments: Any, bare: bool = False) -> Any:
        return self._calls.value(self.identity.uuid, function, *(() if bare else (self._handle,)), *arguments)

    def _present(self, unix_ns: int, boot_ns: int) -> GpuReading:
        fast = Fast()
        for step in (self._utilisation, self._memory, self._temperature, self._power, self._clocks, self._reasons):
            self._attempt(step, fast)
        self._energy_and_slow_fields(fast, unix_ns, boot_ns)
        if not fast.answered:
            return replace(self.identity, read_at_ns=unix_ns, state="error", reason=fast.failure or "nothing answered")
        slow = self._slow
        return replace(
            self.identity,
            read_at_ns=unix_ns,
            state="ok",
            processes=slow.processes,
            processes_read_at_ns=slow.processes_read_at_ns,
            power_limit_watts=slow.power_limit_watts,
            memory_temperature_celsius=slow.memory_temperature_celsius,
            temperature_slowdown_celsius=slow.temperature_slowdown_celsius,
            **fast.values,
        )

    def _attempt(self, step: Any, fast: Fast, *arguments: Any) -> None:
        try:
            found = step(*arguments)
        except Missed as error:
            fast.failure = fast.failure or str(error)
            return
        if found:
            fast.answered += 1
            fast.values.update(found)

    def _utilisation(self) -> dict[str, Any]:
        rates = self._ask("nvmlDeviceGetUtilizationRates")
        if rates is None:
            return {}
        return {"utilization_ratio": rates.gpu / 100, "memory_utilization_ratio": rates.memory / 100}

    def _memory(self) -> dict[str, Any]:
        # Version 1 counts what the driver reserves as used; it is only for drivers before 510.
        memory = self._calls.first_of(
            self.identity.uuid,
            ("nvmlDeviceGetMemoryInfo_v2", self._handle),
            ("nvmlDeviceGetMemoryInfo", self._handle),
        )
        if memory is None:
            return {}
        return {
            "memory_used_bytes": memory.used,
            "memory_free_bytes": memory.free,
            "memory_total_bytes": memory.total,
            "memory_reserved_bytes": getattr(memory, "reserved", None),
        }

    def _temperature(self) -> dict[str, Any]:
        sensor = pynvml.NVML_TEMPERATURE_GPU
        celsius = self._calls.first_of(
            self.identity.uuid,
            ("nvmlDeviceGetTemperatureV", self._handle, sensor),
            ("nvmlDeviceGetTemperature", self._handle, sensor),
        )
        return {} if celsius is None else {"temperature_celsius": float(celsius)}

    def _power(self) -> dict[str, Any]:
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        return {} if milliwatts is None else {"power_watts": milliwatts / 1000}

    def _clocks(self) -> dict[str, Any]:
        hertz = {}
        for domain, number in _CLOCKS.items():
            megahertz = self._ask("nvmlDeviceGetClockInfo", number)
            if megahertz is not None:
                hertz[domain] = megahertz * 1e6
        return {"clocks_hertz": hertz} if hertz else {}

    def _reasons(self) -> dict[str, Any]:
        mask = self._calls.first_of(
            self.identity.uuid,
            ("nvmlDeviceGetCurrentClocksEventReasons", self._handle),
            ("nvmlDeviceGetCurrentClocksThrottleReasons", self._handle),
        )
        return {} if mask is None else {"throttle_reasons": throttle_words(mask)}

    def _energy_and_slow_fields(self, fast: Fast, unix_ns: int, boot_ns: int) -> None:
        due = boot_ns >= self._slow.due_ns
        wanted = [_FIELD_ENERGY_MILLIJOULES]
        if due:
            wanted += [_FIELD_MEMORY_TEMPERATURE, _FIELD_SLOWDOWN_MARGIN]
        fields: dict[int, float] = {}
        try:
            fields = self._fields(wanted)
        except Missed as error:
            fast.failure = fast.failure or str(error)
        reasons = fast.values.get("throttle_reasons")
        self._throttle.add(boot_ns, reasons)
        if reasons is not None:
            fast.values["throttle_seconds"] = dict(self._throttle.seconds)
        self._add_energy(fast, boot_ns, fields.get(_FIELD_ENERGY_MILLIJOULES))
        if due:
            first = self._slow.due_ns == 0
            self._slow = self._read_slow(fast, unix_ns, fields)
            self._slow.due_ns = boot_ns + int(self._pace.slow_ns * (self._pace.turn if first else 1))

    def _add_energy(self, fast: Fast, boot_ns: int, millijoules: float | None) -> None:
        if millijoules is None and "nvmlDeviceGetFieldValues" in self._calls.missing:
            self._attempt(lambda: {"energy": self._ask("nvmlDeviceGetTotalEnergyConsumption")}, fast)
            millijoules = fast.values.pop("energy", None)
        counter = None if millijoules is None else millijoules / 1000
        joules, source = self._energy.read(boot_ns, fast.values.get("power_watts"), counter)
        if joules is not None:
            fast.values.update(energy_joules=joules, energy_source=source)

    def _fields(self, wanted: list[int]) -> dict[int, float]:
        """Those of the field values that this GPU has; one that it refuses for good is not asked for again."""
        asked = [number for number in wanted if number not in self._unknown_fields]
        answer = self._ask("nvmlDeviceGetFieldValues", asked) if asked else None
        found = {}
        for item in answer or ():
            if item.nvmlReturn == pynvml.NVML_SUCCESS:
                found[item.fieldId] = getattr(item.value, _FIELD_MEMBERS[item.valueType])
            elif item.nvmlReturn in (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_INVALID_ARGUMENT):
                self._unknown_fields.add(item.fieldId)  # a field newer than the driver is an invalid argument
            else:
                try:
                    self._calls.judge(self.identity.uuid, f"field {item.fieldId}", item.nvmlReturn)
                except Missed:
                    pass  # counted; the other fields of the batch are good
        return found

    def _read_slow(self, fast: Fast, unix_ns: int, fields: dict[int, float]) -> Slow:
        slow = Slow(temperature_slowdown_celsius=self._slow.temperature_slowdown_celsius)
        slow.memory_temperature_celsius = fields.get(_FIELD_MEMORY_TEMPERATURE)
        try:
            limit = self._calls.first_of(
                self.identity.uuid,
                ("nvmlDeviceGetEnforcedPowerLimit", self._handle),
                ("nvmlDeviceGetPowerManagementLimit", self._handle),
            )
            slow.power_limit_watts = None if limit is None else limit / 1000
        except Missed as error:
            fast.failure = fast.failure or str(error)
        try:
            slow.temperature_slowdown_celsius = self._slowdown(fast, fields)
        except Missed as error:
            fast.failure = fast.failure or str(error)
        try:
            slow.processes = read_processes(self._calls, self.identity.uuid, self._handle)
            slow.processes_read_at_ns = None if slow.processes is None else unix_ns
        except Missed as error:
            fast.failure = fast.failure or str(error)
        return slow

    def _slowdown(self, fast: Fast, fields: dict[int, float]) -> float | None:
        """Temperature of the core at which the clocks are cut, in °C.

        Since Ada the driver states margins instead: core temperature + margin left - margin at slowdown. The margin
        belongs to whichever sensor is nearest its limit, so the lowest result seen is the one to warn by.
        """
        threshold = self._ask("nvmlDeviceGetTemperatureThreshold", pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
        if threshold is not None:
            return float(threshold)
        celsius, at_slowdown = fast.values.get("temperature_celsius"), fields.get(_FIELD_SLOWDOWN_MARGIN)
        known = self._slow.temperature_slowdown_celsius
        if celsius is None or at_slowdown is None:
            return known
        margin = self._ask("nvmlDeviceGetMarginTemperature")
        if margin is None:
            return known
        found = float(celsius + margin - at_slowdown)
        return found if known is None else min(found, known)
