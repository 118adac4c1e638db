"""The parts of a GPU's reading, in the order in which they are read: a part may use what those before it have said."""

from agent.collect.gpu.parts.details import Details
from agent.collect.gpu.parts.doubt import Doubtful
from agent.collect.gpu.parts.gpm import Activity
from agent.collect.gpu.parts.health import Health
from agent.collect.gpu.parts.limits import Fan, MemoryTemperature, PowerLimit, Slowdown
from agent.collect.gpu.parts.load import Clocks, Engines, Reasons, Temperature, Utilization
from agent.collect.gpu.parts.memory import Bar1, Memory
from agent.collect.gpu.parts.mig import MigLayout, MigMemory, MigReadings
from agent.collect.gpu.parts.mig_tree import MigTree
from agent.collect.gpu.parts.nvlink import Nvlink
from agent.collect.gpu.parts.part import Part
from agent.collect.gpu.parts.pcie import Pcie
from agent.collect.gpu.parts.power import Energy, Power
from agent.collect.gpu.parts.process_list import BusyTime, Processes
from agent.collect.gpu.parts.throttle import ThrottleTime, Violations
from agent.collect.gpu.process_load import DeviceLoad


def parts(max_gap_ns: int) -> tuple[Part, ...]:
    """Fresh parts for one GPU. Readings further apart than `max_gap_ns` are not joined into totals."""
    tree, load = MigTree(), DeviceLoad()
    return (
        MigLayout(tree),
        Utilization(),
        Engines(),
        Memory(),
        Bar1(),
        Temperature(),
        Power(),
        Energy(max_gap_ns),
        Clocks(),
        Reasons(),
        Violations(),
        ThrottleTime(max_gap_ns),
        PowerLimit(),
        Fan(),
        MemoryTemperature(),
        Slowdown(),
        Pcie(),
        Nvlink(),
        Health(),
        Details(),
        BusyTime(load),
        MigMemory(tree),
        Processes(tree, load),
        Activity(tree, max_gap_ns),
        MigReadings(tree),
        Doubtful(),
    )
