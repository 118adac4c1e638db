"""A node of simulated GPUs. Pure: a clock that is set from outside and a `Control` in, physical quantities out.

Power follows the load with a lag, temperature follows power with a longer one, and energy is the exact integral of
power, so that whatever reads both finds them in agreement at any tick length.
"""

import math
from dataclasses import dataclass, field

from agent.demo.gpus.board import Counters, Wishes
from agent.demo.gpus.control import Control, SimulatedProcess
from agent.demo.gpus.gpm import GpmSamples
from agent.demo.gpus.machine import Assumed, GpuFacts, Machine, Recorded
from agent.demo.gpus.mig import Mig
from agent.demo.gpus.process_samples import ProcessSamples

NS = 1_000_000_000

_SW_POWER_CAP, _HW_SLOWDOWN, _SW_THERMAL, _HW_THERMAL = 0x4, 0x8, 0x20, 0x40
_BUSY = 0.005  # a load below this leaves the clocks at rest


@dataclass(slots=True)
class SimulatedGpu:
    """One GPU. `facts` never change; the rest is its state at the node's instant."""

    facts: GpuFacts
    index: int
    uuid: str
    pci_bus_id: str
    power_watts: float
    temperature_celsius: float
    energy_joules: float = 0.0
    load: float = 0.0
    temperature_override: float | None = None
    memory_ratio_override: float | None = None
    processes: tuple[SimulatedProcess, ...] = ()
    wishes: Wishes = field(default_factory=Wishes)
    counters: Counters = field(default_factory=Counters)
    held: Recorded | None = None  # it says exactly what was recorded, instead of following the load
    busy_seconds: float = 0.0  # load over time
    lived_seconds: float = 0.0
    process_samples: ProcessSamples = field(default_factory=ProcessSamples)
    mig: Mig | None = None  # None: it cannot be divided
    mig_rights: bool = True
    gpm_samples: GpmSamples = field(default_factory=GpmSamples)  # one for all GPUs of the node

    @property
    def assumed(self) -> Assumed:
        known = self.facts.assumed
        if known is not None:
            return known
        busiest = self.facts.load or self.facts.idle
        power = self.facts.power_limit_watts or busiest.power_watts or 0.0
        return Assumed(full_power_watts=power, full_temperature_celsius=(busiest.temperature_celsius or 40.0))

    @property
    def recorded(self) -> Recorded | None:
        """The recorded state that it is in, where it does not follow a load: at rest, or held there."""
        if self.held is not None:
            return self.held
        return None if self.load > _BUSY or self._warm else self.facts.idle

    @property
    def _warm(self) -> bool:
        """Not yet as cool and quiet as it is at rest."""
        rest = self.facts.idle
        return abs(self.power_watts - (rest.power_watts or 0.0)) > 1 or (
            abs(self.temperature_celsius - (rest.temperature_celsius or 40.0)) > 1
        )

    def hold(self, state: Recorded) -> None:
        """Into this recorded state, and there it stays."""
        self.held, self.load = state, (state.utilization_percent or 0) / 100
        self.power_watts = state.power_watts or 0.0
        self.temperature_celsius = state.temperature_celsius or 40.0

    def divide(self, control: Control) -> None:
        """MIG mode and devices as `control` says, else as recorded. Raises ValueError for what this GPU cannot."""
        key = str(self.index)
        if self.mig is None:
            if control.mig.get(key) is not None:
                raise ValueError(f"mig: GPU {key} ({self.facts.model}) has no MIG profiles in its machine file")
            return
        if key in control.mig:
            self.mig.arrange(control.mig[key])
        else:
            self.mig.arrange(self.mig.recorded(self.load, self.processes))
            if self.mig.devices is not None:
                self.processes = ()  # they are in the first device
        if self.mig.devices is not None:
            self.load = self.mig.load

    def advance(self, seconds: float) -> None:
        """Exact over `seconds` of constant load: power and temperature approach their targets exponentially."""
        self.lived_seconds += seconds
        self.counters.advance(seconds, self.facts.board, self.load, self.throttle_mask)
        self.busy_seconds += self.load * seconds
        if self.mig is not None:
            self.mig.advance(seconds)
        if self.held is not None:
            self.energy_joules += self.power_watts * seconds
            return
        assumed, idle = self.assumed, self.facts.idle
        rest = idle.power_watts or 0.0
        target = rest + self.load * (assumed.full_power_watts - rest)
        decay = math.exp(-seconds / assumed.power_lag_seconds)
        self.energy_joules += target * seconds + (self.power_watts - target) * assumed.power_lag_seconds * (1 - decay)
        self.power_watts = target + (self.power_watts - target) * decay
        cool = math.exp(-seconds / assumed.temperature_lag_seconds)
        warmth = self._temperature_at(self.power_watts)
        self.temperature_celsius = warmth + (self.temperature_celsius - warmth) * cool

    def _temperature_at(self, watts: float) -> float:
        rest = self.facts.idle.power_watts or 0.0
        cold = self.facts.idle.temperature_celsius or 40.0
        span = self.assumed.full_power_watts - rest
        part = (watts - rest) / span if span else 0.0
        return cold + part * (self.assumed.full_temperature_celsius - cold)

    @property
    def core_celsius(self) -> float:
        return self.temperature_celsius if self.temperature_override is None else self.temperature_override

    @property
    def memory_celsius(self) -> float | None:
        if self.recorded is not None and self.temperature_override is None:
            return self.recorded.memory_temperature_celsius
        cold = self.facts.idle.memory_temperature_celsius
        if cold is None:
            return None
        hot = self.assumed.full_memory_temperature_celsius or cold
        core_cold = self.facts.idle.temperature_celsius or 40.0
        span = self.assumed.full_temperature_celsius - core_cold
        return cold + ((self.core_celsius - core_cold) / span * (hot - cold) if span else 0.0)

    @property
    def slowdown_celsius(self) -> float | None:
        """Core temperature at which the clocks are cut."""
        idle = self.facts.idle
        if self.facts.slowdown_celsius is not None:
            return self.facts.slowdown_celsius
        if self.facts.slowdown_margin_celsius is None or idle.temperature_margin_celsius is None:
            return None
        return (idle.temperature_celsius or 0) + idle.temperature_margin_celsius - self.facts.slowdown_margin_celsius

    @property
    def margin_celsius(self) -> float | None:
        """Kelvin left until the limit; what NVML calls margin temperature."""
        idle = self.facts.idle
        if self.recorded is not None and self.temperature_override is None:
            return self.recorded.temperature_margin_celsius
        if idle.temperature_margin_celsius is None:
            return None
        return idle.temperature_margin_celsius - (self.core_celsius - (idle.temperature_celsius or 0))

    @property
    def throttle_mask(self) -> int:
        return self._own_mask | self.wishes.throttle_mask

    @property
    def _own_mask(self) -> int:
        if self.held is not None:
            return self.held.throttle_mask
        mask = 0 if self.load > _BUSY else self.facts.idle.throttle_mask
        limit = self.facts.power_limit_watts
        if limit is not None and self.power_watts >= limit:
            mask |= _SW_POWER_CAP
        slowdown = self.slowdown_celsius
        if slowdown is not None and self.core_celsius >= slowdown:
            mask = mask & ~0x1 | _HW_SLOWDOWN | _HW_THERMAL
        elif slowdown is not None and self.core_celsius >= slowdown - 2:
            mask = mask & ~0x1 | _SW_THERMAL
        return mask

    @property
    def clocks_megahertz(self) -> dict[str, int]:
        at_work: Recorded = self.facts.load or self.facts.idle
        clocks = (self.held or (at_work if self.load > _BUSY else self.facts.idle)).clocks_megahertz
        if self.throttle_mask & (_HW_SLOWDOWN | _SW_THERMAL):
            lowest = self.facts.idle.clocks_megahertz
            return {
                domain: value if domain == "memory" else max(value // 2, lowest.get(domain, 0))
                for domain, value in clocks.items()
            }
        return clocks

    @property
    def utilization_percent(self) -> int:
        if self.wishes.utilization_percent is not None:
            return self.wishes.utilization_percent
        if self.recorded is not None and self.recorded.utilization_percent is not None:
            return self.recorded.utilization_percent
        return round(100 * self.load)

    @property
    def memory_utilization_percent(self) -> int:
        if self.recorded is not None and self.recorded.memory_utilization_percent is not None:
            return self.recorded.memory_utilization_percent
        rest = self.facts.idle.memory_utilization_percent or 0
        if self.load <= _BUSY:
            return rest
        return round(self.load * self.assumed.full_memory_utilization_percent)

    @property
    def memory_used_bytes(self) -> int:
        room = self.facts.memory_total_bytes - self.facts.memory_reserved_bytes
        if self.memory_ratio_override is not None:
            return int(min(max(self.memory_ratio_override, 0.0), 1.0) * room)
        if self.mig is not None and self.mig.devices is not None:
            return self.mig.used_bytes_in_all
        if self.held is not None:  # the processes of the time are counted in it
            used = self.held.memory_used_bytes
            return self.facts.memory_baseline_bytes if used is None else used
        return min(self.facts.memory_baseline_bytes + sum(process.memory_bytes for process in self.processes), room)


class NodeSim:
    """All GPUs of a machine, at the instant last given to `advance`."""

    def __init__(self, machine: Machine, now_ns: int = 0) -> None:
        self.machine = machine
        self.now_ns = now_ns
        self.unix_ahead_ns = 0  # of `now_ns`; the driver stamps its samples with Unix time
        self.gpm_samples = GpmSamples()
        self.control = Control()
        self.gpus: list[SimulatedGpu] = []
        for facts in machine.gpus:
            for number in range(facts.count):
                self.gpus.append(self._gpu(facts, number, len(self.gpus)))

    def _gpu(self, facts: GpuFacts, number: int, index: int) -> SimulatedGpu:
        bus = facts.pci_buses[number] if number < len(facts.pci_buses) else f"{0x20 + index:02X}"
        # Recognisably made up, unique for each machine and place, and the same in every run.
        place = f"{sum(self.machine.name.encode()) % 0x10000:04x}"
        uuid = f"GPU-51300000-{place}-4000-8000-{index:012x}"
        return SimulatedGpu(
            facts=facts,
            index=index,
            uuid=uuid,
            mig=None if facts.mig is None else Mig(facts.mig, uuid, index + 1),
            gpm_samples=self.gpm_samples,
            pci_bus_id=f"00000000:{bus}:00.0",
            power_watts=facts.idle.power_watts or 0.0,
            temperature_celsius=facts.idle.temperature_celsius or 40.0,
        )

    def apply(self, control: Control) -> None:
        """From this instant on, do as `control` says."""
        if control.driver == "loaded" and self.control.driver == "unloaded":
            for gpu in self.gpus:
                gpu.energy_joules = 0.0  # the counters start anew with the driver
                gpu.counters = Counters()
        self.control = control
        for gpu in self.gpus:
            key = str(gpu.index)
            gpu.load = min(max(control.load.get(key, 0.0), 0.0), 1.0)
            gpu.processes = tuple(control.processes.get(key, ()))
            gpu.wishes = control.board.get(key, Wishes())
            gpu.temperature_override = control.temperature.get(key)
            gpu.memory_ratio_override = control.memory_used_ratio.get(key)
            gpu.held = None
            if key in control.recorded:
                states = {"load": gpu.facts.load, "trailing": gpu.facts.trailing}
                gpu.hold(states.get(control.recorded[key]) or gpu.facts.idle)
            gpu.mig_rights = control.mig_rights
            gpu.divide(control)

    def advance(self, now_ns: int) -> None:
        """Move the node's clock; it never goes back."""
        seconds = (now_ns - self.now_ns) / NS
        if seconds <= 0:
            return
        before_us, self.now_ns = (self.now_ns + self.unix_ahead_ns) // 1000, now_ns
        for gpu in self.gpus:
            gpu.advance(seconds)
            now_us = (now_ns + self.unix_ahead_ns) // 1000
            gpu.process_samples.record(before_us, now_us, gpu.load, gpu.processes)
