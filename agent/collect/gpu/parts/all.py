"""The parts of a GPU's reading, in the order in which they are read: a part may use what those before it have said."""

from agent.collect.gpu.parts.limits import MemoryTemperature, PowerLimit, Slowdown
from agent.collect.gpu.parts.load import Clocks, Memory, Reasons, Temperature, Utilization
from agent.collect.gpu.parts.part import Part
from agent.collect.gpu.parts.power import Energy, Power, ThrottleTime
from agent.collect.gpu.parts.process_list import Processes


def parts(max_gap_ns: int) -> tuple[Part, ...]:
    """Fresh parts for one GPU. Readings further apart than `max_gap_ns` are not joined into totals."""
    return (
        Utilization(),
        Memory(),
        Temperature(),
        Power(),
        Energy(max_gap_ns),
        Clocks(),
        Reasons(),
        ThrottleTime(max_gap_ns),
        PowerLimit(),
        MemoryTemperature(),
        Slowdown(),
        Processes(),
    )
