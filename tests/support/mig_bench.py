"""One simulated GPU behind genuine pynvml and a `Device` that reads it, a second at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pynvml

from agent.collect.gpu.calls import Calls
from agent.collect.gpu.device import Device, Pace
from agent.collect.gpu.meters import NS
from agent.core.gpu_readings import GpuReading
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import Control, SimulatedProcess, SimulatedSlice
from agent.demo.gpus.model import NodeSim

MIB = 2**20
START_NS = 1_800_000_000 * NS


def part(profile: str, gpu_instance: int, compute_instance: int = 0, **more: Any) -> SimulatedSlice:
    """A MIG device of the control file."""
    return SimulatedSlice(profile=profile, gpu_instance=gpu_instance, compute_instance=compute_instance, **more)


def held(pid: int, mebibytes: int = 512, **more: Any) -> SimulatedProcess:
    """A process of the control file."""
    return SimulatedProcess(pid=pid, memory_bytes=mebibytes * MIB, **more)


SEVEN = [part("1g.10gb", 7 + number, load=number / 7, processes=[held(100 + number)]) for number in range(7)]


class MigBench:
    """`read` lets a second pass first."""

    def __init__(self, recorded: machine.Machine) -> None:
        self.node = NodeSim(recorded, START_NS)
        self.library = nvml.install(self.node)
        pynvml.nvmlInit()
        self.calls = Calls()
        self.devices = [self._device(index) for index in range(len(self.node.gpus))]
        self.now_ns = START_NS

    def _device(self, index: int) -> Device:
        gpu = self.node.gpus[index]
        identity = GpuReading(
            uuid=gpu.uuid, index=index, model=gpu.facts.model, read_at_ns=0, state="ok", pci_bus_id=gpu.pci_bus_id
        )
        return Device(self.calls, pynvml.nvmlDeviceGetHandleByIndex(index), identity, Pace(10 * NS, 1.0, 5 * NS))

    def control(self, **wishes: Any) -> None:
        self.node.apply(Control(**wishes))

    def read(self, seconds: int = 1) -> GpuReading:
        """The first GPU after so many ticks."""
        for _ in range(seconds):
            reading = self.read_all()[0]
        return reading

    def read_all(self) -> list[GpuReading]:
        self.now_ns += NS
        self.node.advance(self.now_ns)
        return [device.read(self.now_ns, self.now_ns) for device in self.devices]

    def count(self, word: str) -> int:
        """Calls of all functions with this in their name."""
        return sum(times for name, times in self.calls.counts.items() if word in name)


@contextmanager
def mig_bench(name: str | machine.Machine = "h100mig") -> Iterator[MigBench]:
    """Simulated until the end of the block."""
    try:
        yield MigBench(machine.load(name) if isinstance(name, str) else name)
    finally:
        nvml.uninstall()
