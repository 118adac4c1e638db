"""Engine targets in, one scrape cycle for each; discovery adds targets where none are configured."""

from collections.abc import Callable, Collection

import aiohttp
import anyio
import structlog
from anyio.abc import TaskGroup

from agent.collect.discovery import DISCOVER_SECONDS, Discovery
from agent.collect.engine import EngineScraper
from agent.collect.ports_of import PortOwners
from agent.collect.settings import EnginesSettings
from agent.collect.targets import EngineTarget
from agent.core.metrics.samples import Sample
from agent.core.readings import EngineSnapshot
from agent.lifecycle import Health, every

log = structlog.get_logger()

OnSnapshot = Callable[[EngineSnapshot, tuple[Sample, ...]], None]


class EngineWatch:
    """Scrapes every engine of this node; `run` ends only when cancelled. `own_ports` are never probed."""

    def __init__(
        self, settings: EnginesSettings, on_snapshot: OnSnapshot, health: Health, own_ports: Collection[int] = ()
    ) -> None:
        self._settings = settings
        self._on_snapshot = on_snapshot
        self._health = health
        self._own_ports = own_ports
        self._owners = PortOwners()

    async def run(self) -> None:
        """All cycles, over one HTTP session."""
        async with aiohttp.ClientSession() as session, anyio.create_task_group() as group:
            for settings in self._settings.targets:
                self._start(group, session, EngineTarget.from_settings(settings))
            if self._settings.discover and not self._settings.targets:
                discovery = Discovery(
                    session, lambda target: self._start(group, session, target), skip_ports=self._own_ports
                )
                group.start_soon(every, "discovery", DISCOVER_SECONDS, discovery.step, self._health)

    def _start(self, group: TaskGroup, session: aiohttp.ClientSession, target: EngineTarget) -> None:
        scraper = EngineScraper(target, self._on_snapshot, session, self._owners)
        group.start_soon(every, f"engine {target.engine}", target.interval_seconds, scraper.step, self._health)
