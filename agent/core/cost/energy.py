"""Energy readings of GPUs in; the energy of any stretch of time that is not closed yet, in whole microjoules, out.

Between two readings a GPU draws evenly. Rounding is that of a running total, so stretches add up to what the meter
counted. Nothing that it counted is lost: what was drawn in time that was closed before the next reading came (nobody
could watch, or the agent was away) belongs to the time up to that reading that is still open. A meter that counts from
the start again (with its driver) has told nothing of the time between.
"""

from collections import deque
from math import isfinite
from typing import NamedTuple

from agent.core.gpu_readings import GpuReading

MICROJOULES = 1_000_000
MOST_WATTS = 10_000  # a mean beyond what any GPU can draw is a meter that jumped, not energy
SLACK_NS = 10 * 1_000_000_000  # readings may arrive together that were taken so far apart


class Reading(NamedTuple):
    """The meter of one GPU at an instant of the bill's clock, in microjoules since it began to count."""

    at_ns: int
    total_uj: int
    source: str = ""


class Drawn(NamedTuple):
    """Energy of a stretch, and how much of that stretch it is known for."""

    energy_uj: int
    metered_ns: int


NOTHING = Drawn(0, 0)


def reading_of(at_ns: int, gpu: GpuReading) -> Reading | None:
    """What the GPU's meter showed; None: it has none, or said nonsense."""
    joules = gpu.energy_joules
    if gpu.state != "ok" or joules is None or not isfinite(joules) or not 0 <= joules < 1e12:
        return None
    return Reading(at_ns, round(joules * MICROJOULES), gpu.energy_source or "")


class Meter:
    """The meter of one GPU."""

    __slots__ = ("_carried", "_stretches", "last")

    def __init__(self, last: Reading | None = None) -> None:
        """`last`: what it showed where the ledger ends (`at`), when the agent is started anew."""
        self.last = last
        self._carried = 0  # counted, and no open time to give it to yet
        self._stretches: deque[tuple[int, int, int]] = deque()  # (from, to, microjoules), ascending

    def see(self, reading: Reading, closed_ns: int) -> None:
        """A reading, in order of time; `closed_ns`: everything before is closed."""
        last, self.last = self.last, reading
        if last is None:
            return
        if reading.at_ns <= last.at_ns:
            self.last = last
            return
        counted = reading.total_uj - last.total_uj
        believable = counted * 1000 <= MOST_WATTS * (reading.at_ns - last.at_ns + SLACK_NS)  # uJ x 1000 = W x ns
        if reading.source != last.source or counted < 0 or not believable:
            return
        counted += self._carried
        start = max(last.at_ns, closed_ns)
        self._carried = 0 if start < reading.at_ns else counted
        if start < reading.at_ns:
            self._stretches.append((start, reading.at_ns, counted))

    def drawn(self, start_ns: int, end_ns: int) -> Drawn:
        """Energy of [start, end), as far as it was metered."""
        energy = metered = 0
        for begin, stop, counted in self._stretches:
            if begin >= end_ns:
                break
            low, high = max(begin, start_ns), min(stop, end_ns)
            if low < high:
                length = stop - begin
                energy += counted * (high - begin) // length - counted * (low - begin) // length
                metered += high - low
        return Drawn(energy, metered) if metered else NOTHING

    def at(self, closed_ns: int) -> Reading | None:
        """What it showed when everything before `closed_ns` was closed: what a `Meter` that goes on there needs."""
        if self.last is None:
            return None
        ahead = self._carried
        for begin, stop, counted in self._stretches:
            if stop > closed_ns:
                ahead += counted - counted * (max(begin, closed_ns) - begin) // (stop - begin)
        return Reading(min(closed_ns, self.last.at_ns), self.last.total_uj - ahead, self.last.source)

    def forget_before(self, at_ns: int) -> None:
        """Drop what ended before `at_ns`."""
        while self._stretches and self._stretches[0][1] <= at_ns:
            self._stretches.popleft()
