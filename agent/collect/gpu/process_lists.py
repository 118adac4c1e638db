"""Which of NVML's three lists of processes are worth asking for: they are its dearest calls. Pure."""

from collections.abc import Collection, Sequence

from agent.collect.gpu.parts.part import RARE
from agent.core.gpu_readings import GpuProcess, ProcessKind

KINDS: tuple[ProcessKind, ...] = ("graphics", "mps", "compute")
# Memory in use that no listed process holds: more than contexts and the driver leave unaccounted for.
UNEXPLAINED_BYTES = 512 * 2**20


class ProcessLists:
    """The list of compute processes each time; the others while somebody is on them, and each `RARE`th time.

    All are asked for when more memory is in use than the processes of the last answer hold: somebody is missing.
    """

    def __init__(self) -> None:
        self._turn = 0
        self._kinds: set[ProcessKind] = set()
        self._explained: int | None = None

    def wanted(self, used_bytes: int | None) -> Collection[ProcessKind]:
        """The lists for this reading."""
        turn, self._turn = self._turn, self._turn + 1
        unexplained = None not in (used_bytes, self._explained) and _over(used_bytes, self._explained)
        if turn % RARE == 0 or unexplained:
            return KINDS
        return ("compute", *self._kinds - {"compute"})

    def seen(self, processes: Sequence[GpuProcess]) -> None:
        """What they said."""
        self._kinds = {process.kind for process in processes}
        held = [process.memory_used_bytes for process in processes]
        # A process that does not say what it holds explains everything.
        self._explained = None if None in held else sum(value for value in held if value is not None)


def _over(used_bytes: int | None, explained: int | None) -> bool:
    return (used_bytes or 0) > (explained or 0) + UNEXPLAINED_BYTES
