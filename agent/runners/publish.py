"""Readings, records and our own state in; the board, the history and the samples of /metrics out."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from agent.clock import NS, BillClock
from agent.core.board import Board
from agent.core.gpu_readings import GpuSnapshot
from agent.core.metrics.published import gauge, labelled, series_key
from agent.core.metrics.published_engine import EngineSampler, InFlight, nothing_in_flight
from agent.core.metrics.published_gpu import GpuSampler, reader_samples
from agent.core.metrics.samples import Labels, Sample
from agent.core.metrics.series import History
from agent.core.readings import EngineSnapshot
from agent.core.requests import RequestRecord
from agent.core.traffic import Traffic
from agent.lifecycle import Health

GPU_SOURCE = "gpus"
SELF_SOURCE = "agent"

SelfSamples = Callable[[], Iterable[Sample]]


@dataclass(slots=True)
class Publisher:
    """The one writer of the board and of the history's `gpus`, `engine ...` and `agent` sources.

    Instants in the history are those of `clock`, which never steps: a wall clock set back an hour must not stop the
    rules for an hour. `in_flight` tells what sidecars have under way; `extra` are the samples of other stations.
    """

    node: str
    version: str
    board: Board
    history: History
    traffic: Traffic
    health: Health
    clock: BillClock
    extra: tuple[SelfSamples, ...] = ()
    in_flight: InFlight = nothing_in_flight
    gpus_at_ns: int | None = None
    sampler: GpuSampler = field(init=False)
    engine_sampler: EngineSampler = field(init=False)
    gpu_samples: list[Sample] = field(default_factory=list)  # of the board's snapshot, for every scrape until the next

    def __post_init__(self) -> None:
        self.sampler = GpuSampler(self.node)
        self.engine_sampler = EngineSampler(self.node, self.traffic, self.in_flight)

    def now_ms(self) -> int:
        """The history's now."""
        return self.clock.now_ns() // 1_000_000

    def on_gpus(self, snapshot: GpuSnapshot) -> None:
        """A tick of the GPU reader."""
        self.board.gpus = snapshot
        if snapshot.gpus:
            self.gpus_at_ns = self.clock.now_ns()
        self.gpu_samples = self.sampler.samples(snapshot)
        self.history.append(GPU_SOURCE, self.now_ms(), self.gpu_samples)

    def on_engine(self, snapshot: EngineSnapshot, raw: Iterable[Sample]) -> None:
        """A scrape of an engine, good or bad; a bad one has no raw samples, which ends its series."""
        self.board.engines[snapshot.status.engine] = snapshot
        samples = [*raw, *self.engine_sampler.samples(snapshot)]
        self.history.append(f"engine {snapshot.status.engine}", self.now_ms(), samples)

    def forget_engine(self, name: str) -> None:
        """The engine is watched no more: its series end, what was kept of them ages out."""
        if self.board.engines.pop(name, None) is not None:
            self.history.mark_stale(f"engine {name}", self.now_ms())

    def on_ended(self, engine: str, record: RequestRecord) -> None:
        """A request that a sidecar saw end, told for the first time."""
        self.traffic.add(engine, record)

    async def step(self) -> None:
        """Keep the agent's own series, too."""
        self.history.append(SELF_SOURCE, self.now_ms(), list(self.own_samples()))

    def samples(self) -> Iterator[Sample]:
        """Everything for /metrics, from the latest state."""
        yield from self.gpu_samples
        for snapshot in self.board.engines.values():
            yield from self.engine_sampler.samples(snapshot)
        yield from self.own_samples()

    def own_samples(self) -> Iterator[Sample]:
        """What is not a reading: traffic, health, history, and the other stations' own."""
        base: Labels = (("node", self.node),)
        yield from gauge("engineroom_build_info", 1, (*base, ("version", self.version)))
        yield from self.engine_sampler.sidecar_samples(self.board.engines)
        yield from self._cycles(base)
        stats = self.history.stats
        yield from gauge("engineroom_history_series", stats.series, base)
        yield from gauge("engineroom_history_bytes", stats.bytes, base)
        yield from labelled("engineroom_history_dropped_samples_total", stats.dropped_samples, "reason", base)
        yield from gauge("engineroom_clock_step_seconds", self.clock.steps_ns() / NS, base)
        if self.board.gpus is not None:
            yield from reader_samples(self.node, self.board.gpus)
        if self.gpus_at_ns is not None:
            age = (self.clock.now_ns() - self.gpus_at_ns) / NS
            yield from gauge("engineroom_gpu_data_age_seconds", age, base)
        for part in self.extra:
            yield from part()

    def _cycles(self, base: Labels) -> Iterator[Sample]:
        for name, cycle in self.health.cycles.items():
            labels = (*base, ("cycle", name))
            if cycle.ok is not None:
                yield Sample(series_key("engineroom_cycle_up", labels), float(cycle.ok))
            yield from gauge("engineroom_cycle_runs_total", cycle.successes, (*labels, ("result", "ok")))
            yield from gauge("engineroom_cycle_runs_total", cycle.failures, (*labels, ("result", "failed")))
            yield from gauge("engineroom_cycle_missed_total", cycle.missed, labels)
            yield from gauge("engineroom_cycle_last_seconds", cycle.last_seconds, labels)
