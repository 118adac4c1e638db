"""Everything about the engines of a node but their money: settings in; health, readings and series of each out.

Part of the composition root: the watch over engines and their discovery, the join of their processes with what is on
the GPUs, and the forgetting of engines that are gone.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from anyio.abc import TaskGroup

from agent.collect.engines.settings import EnginesSettings
from agent.collect.engines.watch import EngineWatch
from agent.core.attribution.assemble import pids_of
from agent.core.board import Board
from agent.core.engine_join import EngineJoin
from agent.core.metrics.samples import Sample
from agent.core.readings import EngineSnapshot
from agent.core.workloads import Attribution, Feature
from agent.lifecycle import Health
from agent.runners.publish import Publisher
from agent.runners.settlement import Settlement


class EngineStations:
    """Hands each scrape round to the publisher and to the bill, with every process that is the engine's.

    Whose a process is may change without a scrape: then both are told of the status alone.
    """

    def __init__(
        self,
        settings: EnginesSettings,
        board: Board,
        publisher: Publisher,
        settlement: Settlement,
        health: Health,
        own_ports: Collection[int],
        proc: Path,
    ) -> None:
        self._board = board
        self._publisher = publisher
        self._settlement = settlement
        self._join = EngineJoin()
        self.watch = EngineWatch(
            settings, self._scraped, health, own_ports, on_gone=self._gone, gpu_pids=self._pids_on_gpus, proc=proc
        )

    def start(self, group: TaskGroup) -> None:
        """Start watching in `group`."""
        group.start_soon(self.watch.run)

    def on_workloads(self, attribution: Attribution) -> None:
        """Who holds and who uses the slots, as known now."""
        self._retell(self._join.on_attribution(attribution))

    def samples(self) -> Iterator[Sample]:
        """How the engines are read."""
        yield from self.watch.samples(self._board.node)

    def features(self) -> tuple[Feature, ...]:
        """The rights that finding engines needs."""
        return self.watch.discovery.features() if self.watch.discovery is not None else ()

    def refused(self) -> Mapping[str, str]:
        """What was looked at and not taken for an engine, and why."""
        return self.watch.discovery.refused if self.watch.discovery is not None else {}

    def _scraped(self, snapshot: EngineSnapshot, raw: tuple[Sample, ...]) -> None:
        whole, *others = self._join.on_engine(snapshot)
        self._publisher.on_engine(whole, raw)
        self._settlement.observe_engine(whole)
        self._retell(others)

    def _retell(self, snapshots: Collection[EngineSnapshot]) -> None:
        for snapshot in snapshots:
            self._board.engines[snapshot.status.engine] = snapshot
            self._settlement.observe_status(snapshot.status)

    def _gone(self, name: str) -> None:
        self._publisher.forget_engine(name)
        self._settlement.forget_engine(name)
        self._retell(self._join.forget(name))

    def _pids_on_gpus(self) -> frozenset[int]:
        return frozenset() if self._board.gpus is None else pids_of(self._board.gpus)
