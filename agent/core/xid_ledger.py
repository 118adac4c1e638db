"""Errors as NVML and the kernel log tell them in; counts, last instants and who was hit out. Pure.

Both sources usually tell of the same error, and either may miss it. An error that one has told within `window_ns` of
the other is the same one; beyond that, both count. In a storm each one pairs with one of the other side, so the count
is that of the source that saw more.
"""

from collections import deque
from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from agent.core.gpu_readings import GpuReading, GpuSnapshot, XidEvent, XidSource
from agent.core.workloads import Attribution, Workload
from agent.core.xid import pci_key
from agent.core.xid_blame import MOST_VICTIMS, victims
from agent.core.xids import COUNTED_FROM_ZERO

NS = 1_000_000_000
WINDOW_NS = 10 * NS
BURST_NS = 60 * NS  # errors of one kind that follow each other this closely are one burst
RECENT_NS = 3600 * NS
RECENT_MOST = 32
KEYS_MOST = 2048
UNPLACED_MOST = 256
STEP_NS = NS // 10
_OTHER: dict[XidSource, XidSource] = {"nvml": "kernel", "kernel": "nvml"}

Key = tuple[str, int]  # (uuid of the GPU, or '' where it is not ours; code)


class Burst(Struct, kw_only=True):
    """Errors of one kind on one GPU, close to each other. `count` grows as they come."""

    event: XidEvent  # the first; pid and words come from the kernel log where it told them later
    gpu: GpuReading | None
    workloads: tuple[Workload, ...]
    count: int
    last_ns: int


class _Told:
    """What one source has told of one kind of error and the other has not, yet."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open: deque[list[int]] = deque()  # [instant, how many]

    def take(self, wanted: int, since_ns: int, until_ns: int) -> int:
        """Pair up to `wanted` of those told between the two instants; older ones are forgotten."""
        while self.open and self.open[0][0] < since_ns:
            self.open.popleft()
        taken = 0
        while taken < wanted and self.open and self.open[0][0] <= until_ns:
            part = min(wanted - taken, self.open[0][1])
            taken += part
            self.open[0][1] -= part
            if not self.open[0][1]:
                self.open.popleft()
        return taken

    def add(self, at_ns: int, count: int, since_ns: int) -> None:
        """Wait for the other side to tell of these. A storm is kept in steps of `STEP_NS`, so that it stays small."""
        while self.open and self.open[0][0] < since_ns:
            self.open.popleft()
        if self.open and self.open[-1][0] > at_ns - STEP_NS:
            self.open[-1][1] += count
        else:
            self.open.append([at_ns, count])


class XidLedger:
    """Counts since it was made. `window_ns` must be longer than the time between two ticks of the GPU reader."""

    def __init__(self, window_ns: int = WINDOW_NS) -> None:
        self.counts: dict[Key, int] = {}
        self.last_ns: dict[Key, int] = {}
        self.dropped = 0
        self.gpus: dict[str, GpuReading] = {}
        self._places: dict[str, str] = {}  # PCI place -> uuid
        self._window_ns = window_ns
        self._told: dict[tuple[Key, XidSource], _Told] = {}
        self._bursts: dict[tuple[str, int, int | None], Burst] = {}  # the last one of each kind and MIG instance
        self._recent: deque[Burst] = deque(maxlen=RECENT_MOST)
        self._unplaced: list[XidEvent] = []
        self._named = False  # whether the reader has said which GPUs there are

    def observe_gpus(self, snapshot: GpuSnapshot, seen: Attribution | None = None) -> list[Burst]:
        """A tick: which GPUs there are, and what NVML told. Returns bursts that begin."""
        for gpu in snapshot.gpus:
            place = pci_key(gpu.pci_bus_id)
            if place is None:
                continue  # it has not said who it is
            self.gpus[gpu.uuid] = gpu
            self._places[place] = gpu.uuid
            for xid in COUNTED_FROM_ZERO:
                self.counts.setdefault((gpu.uuid, xid), 0)
        waiting: list[XidEvent] = []
        self._named = self._named or bool(self.gpus) or snapshot.driver in ("no_gpu", "no_library")
        if self._named:
            waiting, self._unplaced = self._unplaced, []
        return self.observe([*waiting, *snapshot.xids], seen)

    def observe(self, events: Iterable[XidEvent], seen: Attribution | None = None) -> list[Burst]:
        """Errors from either source. Returns the bursts that begin with them: what is worth a word to people."""
        begun = []
        for event in events:
            if not event.uuid and not self._named and len(self._unplaced) < UNPLACED_MOST:
                self._unplaced.append(event)  # the reader has not named the GPUs yet
                continue
            burst = self._one(self._placed(event), seen)
            if burst is not None:
                begun.append(burst)
        return begun

    def recall(self, events: Iterable[XidEvent]) -> None:
        """Errors of before the start, from the kernel's memory: they are not counted, but known as the last ones."""
        for event in events:
            placed = self._placed(event)
            key = (placed.uuid, placed.xid)
            if self._room(key):
                self.last_ns[key] = max(self.last_ns.get(key, 0), placed.at_ns)
                self.counts.setdefault(key, 0)

    def recent(self, now_ns: int) -> list[Burst]:
        """Bursts of the last hour, at most `RECENT_MOST`, oldest first."""
        return [burst for burst in self._recent if burst.last_ns >= now_ns - RECENT_NS]

    def latest(self, uuid: str) -> XidEvent | None:
        """The error that this GPU had last, since the start."""
        found = [burst for key, burst in self._bursts.items() if key[0] == uuid]
        return max(found, key=lambda burst: burst.last_ns).event if found else None

    def _placed(self, event: XidEvent) -> XidEvent:
        if event.uuid:
            return event
        uuid = self._places.get(pci_key(event.pci_bus_id) or "", "")
        return replace(event, uuid=uuid) if uuid else event

    def _room(self, key: Key) -> bool:
        if key in self.counts or len(self.counts) < KEYS_MOST:
            return True
        self.dropped += 1
        return False

    def _one(self, event: XidEvent, seen: Attribution | None) -> Burst | None:
        key = (event.uuid, event.xid)
        if not self._room(key):
            return None
        known = self._told.setdefault((key, _OTHER[event.source]), _Told())
        paired = known.take(event.count, event.at_ns - self._window_ns, event.at_ns + self._window_ns)
        fresh = event.count - paired
        if fresh:
            self._told.setdefault((key, event.source), _Told()).add(event.at_ns, fresh, event.at_ns - self._window_ns)
        self.counts[key] = self.counts.get(key, 0) + fresh
        self.last_ns[key] = max(self.last_ns.get(key, 0), event.at_ns)
        return self._burst(event, fresh, seen)

    def _burst(self, event: XidEvent, fresh: int, seen: Attribution | None) -> Burst | None:
        """Add to the burst that goes on, or begin one, which is returned."""
        burst = self._going_on(event, told_before=not fresh)
        if burst is None:
            gpu = self.gpus.get(event.uuid)
            burst = Burst(event=event, gpu=gpu, workloads=victims(event, gpu, seen), count=fresh, last_ns=event.at_ns)
            self._bursts[event.uuid, event.xid, event.gpu_instance] = burst
            self._recent.append(burst)
            return burst
        burst.count += fresh
        burst.last_ns = max(burst.last_ns, event.at_ns)
        if burst.event.pid is None and event.pid is not None:
            burst.event = _completed(burst.event, event)
            burst.workloads = victims(burst.event, burst.gpu, seen) or burst.workloads
        elif fresh:
            added = [one for one in victims(event, burst.gpu, seen) if one not in burst.workloads]
            burst.workloads = (*burst.workloads, *added)[:MOST_VICTIMS]
        return None

    def _going_on(self, event: XidEvent, *, told_before: bool) -> Burst | None:
        """The burst that an error belongs to. The sources may differ in whether they name the MIG instance."""
        burst = self._bursts.get((event.uuid, event.xid, event.gpu_instance))
        if burst is None and told_before:
            alike = [found for key, found in self._bursts.items() if key[:2] == (event.uuid, event.xid)]
            burst = max(alike, key=lambda found: found.last_ns, default=None)
        near = burst is not None and abs(event.at_ns - burst.last_ns) <= max(BURST_NS, self._window_ns)
        return burst if near else None


def _completed(first: XidEvent, later: XidEvent) -> XidEvent:
    return replace(
        first,
        pid=later.pid,
        process=later.process,
        text=later.text,
        gpu_instance=later.gpu_instance if first.gpu_instance is None else first.gpu_instance,
        compute_instance=later.compute_instance if first.compute_instance is None else first.compute_instance,
    )
