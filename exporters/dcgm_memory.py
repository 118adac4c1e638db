"""Snapshots and counts of Xids in, what DCGM's fields need of the past out: rates, last Xids, recent Xids. Pure."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from agent.core.gpu_readings import GpuReading, GpuSnapshot

NS = 1_000_000_000
QUIET_READINGS = 3  # a counter that stands still for as long as it takes to read it so often has a rate of 0
WINDOW_NS = 300 * NS  # dcgm-exporter's
MOST_ARRIVALS = 4096

XidKey = tuple[str, int]  # uuid of the GPU, code


@dataclass(slots=True)
class _Counter:
    """A total that is read now and then, and its rate between the last two different readings."""

    total: int
    at_ns: int
    per_second: float | None = None

    def observe(self, total: int, at_ns: int, quiet_ns: int) -> None:
        if at_ns <= self.at_ns or (total == self.total and at_ns - self.at_ns < quiet_ns):
            return
        moved = total - self.total
        self.per_second = moved * NS / (at_ns - self.at_ns) if moved >= 0 else None  # it began anew
        self.total, self.at_ns = total, at_ns


@dataclass(slots=True)
class Memory:
    """Bounded: counters of the GPUs that are there, and at most `MOST_ARRIVALS` changes of Xid counts.

    `counters_seconds`: how often the reader asks for byte counters, `gpus.slow_interval_seconds`.
    """

    counters_seconds: float = 10.0
    _counters: dict[str, dict[str, _Counter]] = field(default_factory=dict)
    _counts: dict[XidKey, int] = field(default_factory=dict)
    _last: dict[str, tuple[int, int]] = field(default_factory=dict)  # uuid -> (when, code)
    _arrived: deque[tuple[int, XidKey, int]] = field(default_factory=lambda: deque(maxlen=MOST_ARRIVALS))

    def observe(
        self,
        snapshot: GpuSnapshot,
        counts: Mapping[XidKey, int],
        last_ns: Mapping[XidKey, int],
        *,
        watched: bool,
    ) -> None:
        """A tick. `counts` are totals by GPU and code since the start, `last_ns` the instants of the last one of each,
        those of before the start included. `watched`: somebody looks, so that no Xid means that there was none.
        """
        quiet_ns = int(QUIET_READINGS * self.counters_seconds * max(1.0, snapshot.tier_stretch) * NS)
        self._counters = {
            gpu.uuid: _followed(self._counters.get(gpu.uuid, {}), gpu, snapshot.read_at_ns, quiet_ns)
            for gpu in snapshot.gpus
            if gpu.state == "ok"
        }
        for key, count in counts.items():
            new = count - self._counts.get(key, 0)
            if new > 0:
                self._arrived.append((last_ns.get(key, snapshot.read_at_ns), key, new))
        self._counts = dict(counts)
        self._last = {gpu.uuid: (0, 0) for gpu in snapshot.gpus} if watched else {}
        for (uuid, code), at_ns in last_ns.items():
            if (at_ns, code) > self._last.get(uuid, (0, 0)):
                self._last[uuid] = (at_ns, code)

    def rates(self, uuid: str) -> dict[str, float]:
        """Bytes per second by name; a rate that is not known yet is left out."""
        counters = self._counters.get(uuid, {})
        found = {name: one.per_second for name, one in counters.items() if one.per_second is not None}
        if "nvlink_tx" in found and "nvlink_rx" in found:
            found["nvlink"] = found["nvlink_tx"] + found["nvlink_rx"]
        return found

    def last_xid(self, uuid: str) -> int | None:
        """The code of the last one; 0: none; None: nobody looks."""
        known = self._last.get(uuid)
        return known[1] if known is not None else None

    def recent_xids(self, uuid: str, now_ns: int) -> dict[int, int]:
        """Code -> how many within the window that ends at `now_ns`."""
        found: dict[int, int] = {}
        for at_ns, (of, code), count in self._arrived:
            if of == uuid and at_ns > now_ns - WINDOW_NS:
                found[code] = found.get(code, 0) + count
        return found


def _totals(gpu: GpuReading) -> Iterator[tuple[str, int | None]]:
    if gpu.pcie is not None:
        yield "pcie_tx", gpu.pcie.transmitted_bytes
        yield "pcie_rx", gpu.pcie.received_bytes
    if gpu.nvlink is not None:
        yield "nvlink_tx", gpu.nvlink.transmitted_bytes
        yield "nvlink_rx", gpu.nvlink.received_bytes


def _followed(before: Mapping[str, _Counter], gpu: GpuReading, at_ns: int, quiet_ns: int) -> dict[str, _Counter]:
    found = {}
    for name, total in _totals(gpu):
        if total is None:
            continue
        counter = before.get(name)
        if counter is None:
            counter = _Counter(total, at_ns)
        else:
            counter.observe(total, at_ns, quiet_ns)
        found[name] = counter
    return found
