"""Which GPUs this node has and why some are not read; readings of a tick in, the whole snapshot out. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from agent.core.gpu_readings import DriverState, GpuReading, GpuState

UNLISTED = "the driver does not list this GPU any more"

# What stays of a reading when a GPU is not read: who it is.
_IDENTITY = ("uuid", "index", "model", "simulated", "pci_bus_id", "driver_version", "cuda_version")


@dataclass(slots=True)
class Benched:
    """A GPU that no reader touches for now. `pid` is the abandoned reader that hangs on it, if it may live yet."""

    state: GpuState
    reason: str
    since_ns: int
    due_ns: int
    pause_ns: int
    pid: int | None = None


class Roster:
    """Every GPU seen since the agent started, by index. One that is not found again later stays, as lost."""

    def __init__(self) -> None:
        self._known: dict[int, GpuReading] = {}
        self._displaced: dict[str, GpuReading] = {}  # by uuid: another GPU has taken its index since

    def __len__(self) -> int:
        return len(self._known) + len(self._displaced)

    def identify(self, reading: GpuReading) -> GpuReading:
        """Learn from a reading who the GPU is, or add that to a reading of a GPU that did not say."""
        if reading.uuid:
            # Indices may move when the driver comes back; a GPU is its uuid.
            for index, known in list(self._known.items()):
                if known.uuid == reading.uuid and index != reading.index:
                    del self._known[index]
            before = self._known.get(reading.index)
            if before is not None and before.uuid != reading.uuid:
                self._displaced[before.uuid] = before
            self._displaced.pop(reading.uuid, None)
            self._known[reading.index] = _bare(reading)
            return reading
        before = self._known.get(reading.index)
        if before is None:
            return replace(reading, uuid=f"index-{reading.index}", model=reading.model or "unknown GPU")
        return replace(before, read_at_ns=reading.read_at_ns, state=reading.state, reason=reading.reason)

    def gpus(
        self,
        read: Iterable[GpuReading],
        benched: dict[int, Benched],
        read_at_ns: int,
        driver: DriverState,
        message: str = "",
    ) -> tuple[GpuReading, ...]:
        """All GPUs at this tick: those that were read, and the others with the reason why not."""
        found = {reading.index: reading for reading in read}
        for index in sorted((self._known.keys() | benched.keys()) - found.keys()):
            bench = benched.get(index)
            if bench is not None:
                state, reason = bench.state, bench.reason
            elif driver == "ok":
                state, reason = "lost", UNLISTED
            else:
                state, reason = "error", message or f"not read: driver {driver}"
            unsaid = GpuReading(uuid="", index=index, model="", read_at_ns=read_at_ns, state=state, reason=reason)
            found[index] = self.identify(unsaid)
        missing = []
        for gpu in self._displaced.values():
            state, reason = ("lost", UNLISTED) if driver == "ok" else ("error", message or f"not read: driver {driver}")
            missing.append(replace(gpu, read_at_ns=read_at_ns, state=state, reason=reason))
        return tuple(sorted([*found.values(), *missing], key=lambda gpu: (gpu.index, gpu.state != "ok", gpu.uuid)))


def _bare(reading: GpuReading) -> GpuReading:
    kept = {name: getattr(reading, name) for name in _IDENTITY}
    return GpuReading(read_at_ns=reading.read_at_ns, state="ok", **kept)
