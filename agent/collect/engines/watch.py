"""Configured and found engine targets in, one scrape cycle for each out; engines that are gone are forgotten."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import anyio
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskGroup, TaskStatus
from msgspec.structs import replace

from agent.clock import NS, boot_ns
from agent.collect.discovery.discovery import DISCOVER_SECONDS, Discovery
from agent.collect.discovery.kubernetes.client import PodList
from agent.collect.discovery.processes.table import ProcessTable
from agent.collect.engines.fetch import engine_session
from agent.collect.engines.ports_of import PortOwners
from agent.collect.engines.scraper import LARGE_PAGES, EngineScraper, OnSnapshot
from agent.collect.engines.settings import EnginesSettings
from agent.collect.engines.targets import EngineTarget
from agent.core.engine_life import EngineLife
from agent.core.metrics.published import gauge
from agent.core.metrics.samples import Sample
from agent.core.readings import EngineSnapshot
from agent.engines.addresses import endpoint
from agent.lifecycle import Health, every

SPREAD_SECONDS = 1.0  # first scrapes are spread over at most this time, and so are all that follow
REMEMBER_NS = 1800 * NS  # what was seen of an engine that is gone: one that crashes again and again comes and goes
_GOLDEN = 0.6180339887  # multiples of it, without their whole parts, lie evenly however many there are


def _ignore(_name: str) -> None:
    return None


@dataclass(slots=True)
class _Watched:
    scraper: EngineScraper
    scope: anyio.CancelScope


class EngineWatch:
    """Scrapes every engine of this node; `run` ends only when cancelled. `own_ports` are never probed.

    `on_gone` gets the name of an engine that discovery found and that is no more: nothing is told of it after that.
    `gpu_pids` are the processes on the GPUs, for discovery.
    """

    def __init__(
        self,
        settings: EnginesSettings,
        on_snapshot: OnSnapshot,
        health: Health,
        own_ports: Collection[int] = (),
        *,
        on_gone: Callable[[str], None] = _ignore,
        gpu_pids: Callable[[], Collection[int]] = tuple,
        proc: Path = Path("/proc"),
    ) -> None:
        self._settings = settings
        self._on_snapshot = on_snapshot
        self._health = health
        self._on_gone = on_gone
        self._proc = proc
        self._table = ProcessTable(proc)
        self._owners = PortOwners(table=self._table)
        self._parses = anyio.CapacityLimiter(LARGE_PAGES)
        self._watched: dict[str, _Watched] = {}
        self._names: dict[str, str] = {}  # the name that discovery gave -> the one that is shown
        self._past: dict[str, tuple[int, EngineLife]] = {}  # engines that are gone, and since when
        self._started = 0
        self._session: aiohttp.ClientSession
        self._group: TaskGroup
        self.discovery = self._discovery(own_ports, gpu_pids) if settings.discover else None

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """All cycles, over one HTTP session."""
        async with engine_session() as self._session, anyio.create_task_group() as self._group:
            for settings in self._settings.targets:
                self._start(EngineTarget.from_settings(settings))
            if self.discovery is not None:
                self._group.start_soon(every, "discovery", DISCOVER_SECONDS, self.discovery.step, self._health)
            task_status.started()
            await anyio.sleep_forever()  # engines may be found when none is watched yet

    def samples(self, node: str) -> Iterator[Sample]:
        """How the engines are read."""
        found_by = dict.fromkeys(("config", "process", "kubernetes"), 0)
        for name, watched in self._watched.items():
            scraper = watched.scraper
            found_by[scraper.target.found_by] += 1
            labels = (("node", node), ("engine", name))
            if scraper.target.url:
                for result, count in scraper.scrapes.items():
                    yield from gauge("engineroom_engine_scrapes_total", count, (*labels, ("result", result)))
            yield from gauge("engineroom_engine_page_problems", scraper.page_problems, labels)
        for how, count in found_by.items():
            yield from gauge("engineroom_engines", count, (("node", node), ("found_by", how)))

    def taken(self) -> frozenset[str]:
        """host:port of every configured engine: discovery leaves them alone."""
        return frozenset(endpoint(settings.url) for settings in self._settings.targets)

    def _discovery(self, own_ports: Collection[int], gpu_pids: Callable[[], Collection[int]]) -> Discovery:
        return Discovery(
            table=self._table,
            on_found=self.found,
            on_gone=self.gone,
            pods=PodList(self._settings.kubernetes),
            taken=self.taken,
            gpu_pids=gpu_pids,
            skip_ports=own_ports,
        )

    def found(self, target: EngineTarget) -> None:
        """Discovery has a new engine, or knows more of one that it had found. Only while `run` does."""
        if target.url and endpoint(target.url) in self.taken():
            return
        found = target.engine
        name = self._names.get(found)
        if name is None:
            name = found if found not in self._watched else f"{found} ({target.instance if target.url else 'worker'})"
            self._names[found] = name
        target = replace(target, name=name)
        if name in self._watched:
            self._watched[name].scraper.retarget(target)
        else:
            self._start(target)

    def gone(self, found: str) -> None:
        """Discovery has lost an engine that it had found under this name."""
        name = self._names.pop(found, None)
        if name is None:
            return  # one that is configured, too, and stays
        watched = self._watched.pop(name)
        watched.scope.cancel()
        now = boot_ns()
        self._past = {n: past for n, past in self._past.items() if now - past[0] <= REMEMBER_NS}
        self._past[name] = (now, watched.scraper.life)
        self._health.cycles.pop(_cycle(name), None)
        self._on_gone(name)

    def _start(self, target: EngineTarget) -> None:
        _, life = self._past.pop(target.engine, (0, None))
        scraper = EngineScraper(
            target,
            self._hand_over,
            self._session,
            self._owners,
            probe_generating=self._settings.probe_generating,
            parses=self._parses,
            life=life,
            proc=self._proc,
        )
        watched = _Watched(scraper, anyio.CancelScope())
        self._watched[target.engine] = watched
        self._group.start_soon(self._watch, watched, self._started * _GOLDEN % 1)
        self._started += 1

    def _hand_over(self, snapshot: EngineSnapshot, raw: tuple[Sample, ...]) -> None:
        if snapshot.status.engine in self._watched:  # a scrape may end after its engine was given up
            self._on_snapshot(snapshot, raw)

    async def _watch(self, watched: _Watched, phase: float) -> None:
        scraper = watched.scraper
        interval = scraper.target.interval_seconds
        with watched.scope:
            await anyio.sleep(phase * min(interval, SPREAD_SECONDS))
            await every(_cycle(scraper.target.engine), interval, scraper.step, self._health)


def _cycle(engine: str) -> str:
    return f"engine {engine}"
