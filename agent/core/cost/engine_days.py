"""Readings of engines and GPUs in; the peaks of each engine's gauges and its preemptions, day by day, out.

Reports say what was booked; how full an engine's cache and memory were at most is in no ledger. Kept in memory, for as
many days as a report of a month needs: after a restart of the agent it begins anew, and `seen_ns` says how long it saw.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from msgspec import Struct

from agent.core.gpu_readings import GpuReading, GpuSnapshot
from agent.core.readings import EngineSnapshot

DAY_NS = 24 * 3600 * 1_000_000_000
MOST_DAYS = 40
MOST_ENGINES = 200
LONGEST_LOOK_NS = 60 * 1_000_000_000  # from one look to the next; in longer pauses nobody looked

_Number = TypeVar("_Number", int, float)


class Observed(Struct, kw_only=True):
    """One engine in a window. Peaks are None where nothing told them; `seen_ns` is for how long somebody looked."""

    seen_ns: int = 0
    kv_cache_usage_ratio: float | None = None
    requests_running: float | None = None
    requests_waiting: float | None = None
    gpu_memory_bytes: int | None = None  # of its processes, on that of its GPUs where they have most
    gpus: int = 0  # on which its processes were seen, at most
    preemptions: int | None = None

    def add(self, other: "Observed") -> None:
        """Join with another stretch of time."""
        self.seen_ns += other.seen_ns
        self.gpus = max(self.gpus, other.gpus)
        self.kv_cache_usage_ratio = _most(self.kv_cache_usage_ratio, other.kv_cache_usage_ratio)
        self.requests_running = _most(self.requests_running, other.requests_running)
        self.requests_waiting = _most(self.requests_waiting, other.requests_waiting)
        self.gpu_memory_bytes = _most(self.gpu_memory_bytes, other.gpu_memory_bytes)
        if other.preemptions is not None:
            self.preemptions = (self.preemptions or 0) + other.preemptions


class EngineDays:
    """What was seen of every engine, by day of UTC."""

    def __init__(self) -> None:
        self._days: dict[int, dict[str, Observed]] = {}
        self._last_look_ns: dict[str, int] = {}
        self._preemptions: dict[str, float] = {}  # the counter at the last look

    def observe(self, now_ns: int, gpus: GpuSnapshot | None, engines: Mapping[str, EngineSnapshot]) -> None:
        """A look at all engines; called every few seconds."""
        readings = gpus.gpus if gpus is not None and gpus.driver == "ok" else ()
        today = self._days.setdefault(now_ns // DAY_NS, {})
        if len(self._days) > MOST_DAYS:
            del self._days[min(self._days)]
        for name in self._last_look_ns.keys() - engines.keys():
            del self._last_look_ns[name]
            self._preemptions.pop(name, None)
        for name, engine in engines.items():
            if name not in today and len(today) >= MOST_ENGINES:
                continue
            today.setdefault(name, Observed()).add(self._look(now_ns, name, engine, readings))

    def observed(self, start_ns: int, end_ns: int) -> dict[str, Observed]:
        """What was seen in the days that the window touches, whole days."""
        found: dict[str, Observed] = {}
        for day, engines in self._days.items():
            if start_ns // DAY_NS <= day <= end_ns // DAY_NS:
                for name, one in engines.items():
                    found.setdefault(name, Observed()).add(one)
        return found

    def _look(self, now_ns: int, name: str, engine: EngineSnapshot, gpus: Iterable[GpuReading]) -> Observed:
        since = now_ns - self._last_look_ns.get(name, now_ns)
        self._last_look_ns[name] = now_ns
        found = Observed(seen_ns=max(0, min(since, LONGEST_LOOK_NS)))
        for reading in engine.readings:
            found.kv_cache_usage_ratio = _most(found.kv_cache_usage_ratio, reading.kv_cache_usage_ratio)
            found.requests_running = _most(found.requests_running, reading.requests_running)
            found.requests_waiting = _most(found.requests_waiting, reading.requests_waiting)
        told = [one.preemptions_total for one in engine.readings if one.preemptions_total is not None]
        if told:
            total = sum(told)
            before = self._preemptions.get(name, total)
            self._preemptions[name] = total
            found.preemptions = int(total - before if total >= before else total)  # a restart counts from 0
        sizes = _memory(engine.status.pids, gpus)
        if sizes:
            found.gpu_memory_bytes, found.gpus = max(sizes), len(sizes)
        return found


def _memory(pids: Iterable[int], gpus: Iterable[GpuReading]) -> list[int]:
    """What these processes have of each whole GPU that they are on; nothing where any of it is unknown."""
    wanted, found = frozenset(pids), []
    for gpu in gpus:
        sizes = [one.memory_used_bytes for one in gpu.processes or () if one.pid in wanted]
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes):
            return []
        if known:
            found.append(sum(known))
    return found


def _most(first: _Number | None, second: _Number | None) -> _Number | None:
    if first is None or second is None:
        return second if first is None else first
    return max(first, second)
