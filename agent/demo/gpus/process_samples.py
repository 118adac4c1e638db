"""The driver's ring of per-process samples: who used how much of a GPU's SM time, five times a second."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from agent.demo.gpus.control import SimulatedProcess

PERIOD_US = 200_000
_KEPT = 100


class ProcessSample(NamedTuple):
    """One process in one period."""

    stamp_us: int
    pid: int
    sm_percent: int


class ProcessSamples:
    """Bounded; stamps are Unix microseconds."""

    def __init__(self) -> None:
        self._ring: deque[ProcessSample] = deque(maxlen=_KEPT)

    def record(self, from_us: int, to_us: int, load: float, processes: Sequence[SimulatedProcess]) -> None:
        """What happened in this time, at constant load. A process that does nothing leaves no sample."""
        shares = [(pid, round(100 * ratio)) for pid, ratio in _ratios(load, processes).items()]
        busy = [(pid, percent) for pid, percent in shares if percent]
        first = from_us // PERIOD_US + 1
        last = to_us // PERIOD_US
        for number in range(max(first, last - _KEPT), last + 1):
            self._ring.extend(ProcessSample(number * PERIOD_US, pid, percent) for pid, percent in busy)

    def since(self, stamp_us: int) -> list[ProcessSample]:
        """Those recorded after this instant, oldest first."""
        return [sample for sample in self._ring if sample.stamp_us > stamp_us]


def _ratios(load: float, processes: Sequence[SimulatedProcess]) -> dict[int, float]:
    stated = {process.pid: process.sm_ratio for process in processes if process.sm_ratio is not None}
    others = [process.pid for process in processes if process.sm_ratio is None]
    left = max(load - sum(stated.values()), 0.0)
    return stated | {pid: left / len(others) for pid in others}
