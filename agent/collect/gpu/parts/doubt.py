"""Whether a utilisation can be believed: it can be high with nobody on the GPU.

An L40S without persistence mode was seen at 100 % with 0 MiB in use and no process, for seconds after the end of a
load; others report a steady 90 to 99 % where each query wakes the GPU anew.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from agent.collect.gpu.meters import NS
from agent.collect.gpu.parts.part import Asker, FieldKey, Fields, Moment, Tier
from agent.core.gpu_readings import GpuProcess

WINDOW_NS = NS  # the driver averages over 1/6 s to 1 s
BUSY = 0.05
# Whoever works on a GPU has a context there, of some 200 MiB at least; without one there is next to nothing.
BASELINE_BYTES = 128 * 2**20
LEARNT_MOST_BYTES = 1024 * 2**20  # more than this is a process whose list entry is not for us to see


class Doubt:
    """The verdict on one GPU's utilisation, from one reading after another.

    It is doubtful when the GPU is busy although no process is on it and no more memory is in use than it needs itself.
    The verdict is held for two windows, since what the driver averages over may still be from before.
    """

    def __init__(self) -> None:
        self._baseline = BASELINE_BYTES  # some use more with nobody there: the least that was seen with no process
        self._until_ns: int | None = None

    def judge(self, boot_ns: int, utilization: float, used_bytes: int, processes: Sequence[GpuProcess] | None) -> bool:
        """`processes` None: the list cannot be read. It may be older than the rest, so it is checked against memory."""
        listed = sum(process.memory_used_bytes or 0 for process in processes or ())
        gone = listed > used_bytes + BASELINE_BYTES  # they hold more than is in use: the list is of before
        empty = not processes or gone
        busy = utilization >= BUSY
        if empty and not busy and processes is not None:
            self._baseline = min(max(BASELINE_BYTES, used_bytes), LEARNT_MOST_BYTES)
        if busy and empty and used_bytes <= self._baseline:
            self._until_ns = boot_ns + 2 * WINDOW_NS
        return busy and self._until_ns is not None and boot_ns <= self._until_ns


class Doubtful:
    """After `Utilization`, `Memory` and the list of processes."""

    tier: Tier = "fast"
    fields: tuple[FieldKey, ...] = ()

    def __init__(self) -> None:
        self._doubt = Doubt()

    def read(self, _asker: Asker, _fields: Fields, known: Mapping[str, Any], now: Moment) -> dict[str, Any]:
        """The mark, where there is one."""
        utilization, used = known.get("utilization_ratio"), known.get("memory_used_bytes")
        if utilization is None or used is None or known.get("memory_source") == "system":
            return {}
        doubtful = self._doubt.judge(now.boot_ns, utilization, used, known.get("processes"))
        return {"utilization_doubtful": True} if doubtful else {}
