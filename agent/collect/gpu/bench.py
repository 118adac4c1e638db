"""GPUs that no reader touches for now, because a reader hung or crashed on them; when they may be tried again. Pure."""

from collections.abc import Collection

from agent.collect.gpu.meters import NS
from agent.collect.gpu.roster import Benched
from agent.core.gpu_readings import GpuState

CRASHES_TO_BENCH = 3  # that many crashes in a row on the same GPU, and it is left alone
BENCH_FIRST_NS = 30 * NS
BENCH_MOST_NS = 600 * NS


class Bench:
    """By NVML index. Pauses double from one time to the next, until the GPU answers again."""

    def __init__(self) -> None:
        self.benched: dict[int, Benched] = {}
        self._pauses: dict[int, int] = {}  # index -> how long it was benched last, while it has not answered since
        self._crash_site: tuple[int | None, int] = (None, 0)

    def troubled(self, index: int | None) -> bool:
        """Whether this GPU was benched before and has not answered since."""
        return index in self._pauses

    def answered(self, index: int) -> None:
        """This GPU has answered: it is trusted again."""
        self._pauses.pop(index, None)

    def well(self) -> None:
        """A whole tick went well: crashes of before do not count any more."""
        self._crash_site = (None, 0)

    def put(self, index: int, state: GpuState, reason: str, now_ns: int, pid: int | None = None) -> None:
        """Leave this GPU alone for a while. `pid` is the reader that hangs on it, and may hang for ever."""
        pause = min(2 * self._pauses.get(index, BENCH_FIRST_NS // 2), BENCH_MOST_NS)
        self._pauses[index] = pause
        self.benched[index] = Benched(state, reason, now_ns, now_ns + pause, pause, pid=pid)

    def due(self, now_ns: int, stuck: Collection[int]) -> list[int]:
        """Those whose pause is over and whose old reader (not in `stuck`) is gone: they may be tried again."""
        return [index for index, bench in self.benched.items() if now_ns >= bench.due_ns and bench.pid not in stuck]

    def admit(self, index: int) -> None:
        """It may be touched again. It is trusted when it has answered the reader of all GPUs."""
        self.benched.pop(index, None)

    def keep(self, index: int, now_ns: int, pid: int | None) -> None:
        """It was tried in vain: leave it alone for twice as long."""
        bench = self.benched[index]
        self.put(index, bench.state, bench.reason, now_ns, pid)

    def crashed(self, index: int | None, now_ns: int) -> bool:
        """A reader has crashed while it touched this GPU. Whether the GPU is left alone from now on."""
        site, times = self._crash_site
        times = times + 1 if index == site else 1
        self._crash_site = (index, times)
        if index is None or times < CRASHES_TO_BENCH:
            return False
        reason = f"{times} readers in a row have crashed while reading this GPU; it is tried again later"
        self.put(index, "error", reason, now_ns)
        self._crash_site = (None, 0)
        return True
