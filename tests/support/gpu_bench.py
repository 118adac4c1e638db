"""One simulated GPU under the reader's `Device`, at a clock of its own; and calls that have a price."""

from typing import Any

import msgspec
import pynvml

from agent.collect.gpu.calls import Calls
from agent.collect.gpu.device import Device, Pace
from agent.collect.gpu.meters import NS
from agent.core.gpu_readings import GpuReading
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.board import Wishes
from agent.demo.gpus.control import Control
from agent.demo.gpus.model import NodeSim


class PricedCalls(Calls):
    """Every call takes what `prices` says, in seconds: exact, and without waiting for it."""

    def __init__(self, prices: dict[str, float]) -> None:
        super().__init__()
        self.prices = prices

    def raw(self, function: str, *arguments: Any) -> Any:
        before = self.seconds.get(function, 0.0)
        try:
            return super().raw(function, *arguments)
        finally:
            self.seconds[function] = before + self.prices.get(function, self.prices.get("*", 0.0))


class GpuBench:
    """`read()` moves the clock by a second. The GPU is the first of the machine."""

    def __init__(self, name: str = "h100x8", calls: Calls | None = None, **board: Any) -> None:
        recorded = machine.load(name)
        facts = recorded.gpus[0]
        facts = msgspec.structs.replace(facts, board=msgspec.structs.replace(facts.board, **board))
        self.node = NodeSim(msgspec.structs.replace(recorded, gpus=(facts,)))
        self.library = nvml.install(self.node)
        pynvml.nvmlInit()
        self.calls = calls or PricedCalls({})
        self.now = 0
        self.device = self.attach(0)

    def attach(self, index: int, turn: float = 1.0) -> Device:
        gpu = self.node.gpus[index]
        identity = GpuReading(
            uuid=gpu.uuid, index=index, model=gpu.facts.model, read_at_ns=0, state="ok", pci_bus_id=gpu.pci_bus_id
        )
        return Device(self.calls, pynvml.nvmlDeviceGetHandleByIndex(index), identity, Pace(10 * NS, turn, 5 * NS))

    def facts(self, **other: Any) -> None:
        gpu = self.node.gpus[0]
        gpu.facts = msgspec.structs.replace(gpu.facts, **other)

    def wish(self, load: float = 0.0, **wishes: Any) -> None:
        self.node.apply(Control(load={"0": load}, board={"0": Wishes(**wishes)}))

    def control(self, **wishes: Any) -> None:
        self.node.apply(Control(**wishes))

    def read(self, seconds: int = 1) -> GpuReading:
        for _ in range(seconds):
            self.now += NS
            self.node.advance(self.now)
            reading = self.device.read(self.now, self.now)
        return reading

    def close(self) -> None:
        nvml.uninstall()
