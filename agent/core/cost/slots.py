"""What was seen of GPUs and engines in; which state each GPU is in and which engines own it, over time, out.

A GPU snapshot holds from its instant until the next one, at most `hold_ns` (three intervals): beyond that nobody was
watching. An engine's status holds until the next one: its scraper reports failures too.
"""

from collections import deque
from typing import NamedTuple

from agent.core.cost.reports import SlotState
from agent.core.gpu_readings import GpuReading, GpuSnapshot
from agent.core.readings import EngineState, EngineStatus

NS = 1_000_000_000
# How far the first status of an engine counts backwards: a fresh agent sees GPUs before it has scraped the engines.
FIRST_SIGHT_NS = 5 * NS
UP: tuple[EngineState, ...] = ("starting", "ready", "not_ready", "unknown_format")
SERVING: tuple[EngineState, ...] = ("ready", "unknown_format")


class SlotSeen(NamedTuple):
    """The part of a `GpuReading` that decides about money."""

    uuid: str
    number: int  # NVML's index
    state: SlotState | None  # broken or gap; None when the GPU answers
    pids: frozenset[int] | None
    busy: bool


class EngineSeen(NamedTuple):
    """The part of an `EngineStatus` that decides about money."""

    state: EngineState
    pids: frozenset[int]
    gpus: frozenset[str]


class Owner(NamedTuple):
    """An engine that has a GPU; `ready` when it can serve (then idle time is loaded_idle, else warmup)."""

    engine: str
    ready: bool


class SlotView(NamedTuple):
    """Either engines own the slot (`owners` in name order), or it is in `state` as a whole."""

    state: SlotState | None
    owners: tuple[Owner, ...] = ()


View = dict[str, SlotView]
GAP = SlotView("gap")
BROKEN = SlotView("broken")


class Period:
    """What was seen from `start_ns` until `until_ns`; `gpus` None means that the GPUs could not be watched."""

    __slots__ = ("_view", "engines", "gpus", "start_ns", "until_ns")

    def __init__(
        self, start_ns: int, until_ns: int, gpus: tuple[SlotSeen, ...] | None, engines: dict[str, EngineSeen]
    ) -> None:
        self.start_ns = start_ns
        self.until_ns = until_ns
        self.gpus = gpus
        self.engines = engines
        self._view: View | None = None

    def add_engine(self, name: str, seen: EngineSeen) -> None:
        """An engine that turned out to have been there already."""
        self.engines = {**self.engines, name: seen}
        self._view = None

    def of(self, uuid: str) -> SlotView:
        """View of one slot. A slot that was watched for and not there has fallen off: it is broken."""
        if self.gpus is None:
            return GAP
        if self._view is None:
            self._view = {gpu.uuid: _judge(gpu, self.engines) for gpu in self.gpus}
        return self._view.get(uuid, BROKEN)


def _judge(gpu: SlotSeen, engines: dict[str, EngineSeen]) -> SlotView:
    if gpu.state is not None:
        return SlotView(gpu.state)
    used = bool(gpu.pids) if gpu.pids is not None else gpu.busy
    owners = []
    for name in sorted(engines):
        engine = engines[name]
        configured = gpu.uuid in engine.gpus or str(gpu.number) in engine.gpus
        found = not engine.gpus and bool(engine.pids and gpu.pids and engine.pids & gpu.pids)
        if not configured and not found:
            continue
        # Down, but its configured GPU is in use: an engine that loads its model has not opened its port yet.
        if engine.state in UP or (used and configured):
            owners.append(Owner(name, engine.state in SERVING))
    if owners:
        return SlotView(None, tuple(owners))
    return SlotView("other_workload" if used else "unallocated")


class Timeline:
    """Everything seen that is not settled yet. Equal periods are one period, so a quiet node costs nothing."""

    def __init__(self, hold_ns: int) -> None:
        self.periods: deque[Period] = deque()
        self._hold_ns = hold_ns
        self._engines: dict[str, EngineSeen] = {}
        self._gpus: tuple[SlotSeen, ...] | None = None
        self._watched_until = -1

    def see_gpus(self, at_ns: int, snapshot: GpuSnapshot) -> None:
        """A snapshot arrived at `at_ns` (bill clock)."""
        self._gpus = _seen_gpus(snapshot)
        self._watched_until = at_ns + self._hold_ns
        self._extend(at_ns)

    def see_engine(self, at_ns: int, status: EngineStatus) -> None:
        """An engine's status arrived at `at_ns` (bill clock)."""
        seen = EngineSeen(status.state, frozenset(status.pids), frozenset(status.gpus))
        before = self._engines.get(status.engine)
        if before == seen:
            return
        if before is None:
            for period in self.periods:
                if period.start_ns >= at_ns - FIRST_SIGHT_NS:
                    period.add_engine(status.engine, seen)
        self._engines = {**self._engines, status.engine: seen}
        if at_ns < self._watched_until:
            self._extend(at_ns)

    def forget_engine(self, at_ns: int, name: str) -> None:
        """The engine is no target any more."""
        if name in self._engines:
            self._engines = {k: v for k, v in self._engines.items() if k != name}
            if at_ns < self._watched_until:
                self._extend(at_ns)

    def _extend(self, at_ns: int) -> None:
        last = self.periods[-1] if self.periods else None
        if last is not None and last.until_ns >= at_ns:
            if last.gpus == self._gpus and last.engines == self._engines:
                last.until_ns = max(last.until_ns, self._watched_until)
                return
            last.until_ns = max(at_ns, last.start_ns)
        self.periods.append(Period(at_ns, self._watched_until, self._gpus, self._engines))

    def period_at(self, at_ns: int) -> tuple[Period | None, int | None]:
        """The period that covers `at_ns`, or None for a gap; and where that ends (None: open)."""
        for period in self.periods:
            if at_ns < period.start_ns:
                return None, period.start_ns
            if at_ns < period.until_ns:
                return period, period.until_ns
        return None, None

    def forget_before(self, at_ns: int) -> None:
        """Drop what ended before `at_ns`."""
        while self.periods and self.periods[0].until_ns <= at_ns:
            self.periods.popleft()


def _seen_gpus(snapshot: GpuSnapshot) -> tuple[SlotSeen, ...] | None:
    if snapshot.driver == "ok":
        return tuple(map(_seen_gpu, snapshot.gpus))
    if snapshot.driver == "hung":
        return ()  # watched, and no GPU answers: broken, every one of them
    return None


def _seen_gpu(gpu: GpuReading) -> SlotSeen:
    state: SlotState | None = None
    if gpu.state != "ok":
        state = "gap" if gpu.state == "error" else "broken"
    pids = None if gpu.processes is None else frozenset(process.pid for process in gpu.processes)
    busy = pids is None and bool(gpu.utilization_ratio)
    return SlotSeen(gpu.uuid, gpu.index, state, pids, busy)
