"""Spools that no process of this configuration writes any more → delivered to the agent all the same.

They are left when `workers` has become smaller, or has changed from one to several or back.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import structlog
from prometheus_client.metrics_core import Metric

from agent.clock import unix_ns
from agent.core.metrics.published import labelled
from agent.core.metrics.samples import Sample
from agent.core.ports import ConfigError
from agent.delivery.numbers import queue_samples, stream_samples
from agent.lifecycle import Health
from agent.sidecar.admin.families import families
from agent.sidecar.admin.site import Change, change_of
from agent.sidecar.records.shipping import RECORDS, Shipping, shipping, spool_folder, worker_folders, worker_number
from agent.sidecar.settings import SidecarSettings

log = structlog.get_logger()

AGAIN_SECONDS = 10.0


def orphan_folders(settings: SidecarSettings, workers: int) -> list[Path]:
    """Folders with records of an earlier number of workers, those of the single process included.

    An unreadable folder counts as empty: the workers themselves say what is wrong with it.
    """
    base = spool_folder(settings)
    used = range(workers if workers > 1 else 0)
    try:
        found = [
            folder
            for number, folder in worker_folders(base).items()
            if number not in used and (folder / RECORDS).is_dir()
        ]
        if workers > 1 and (base / RECORDS).is_dir():
            found.insert(0, base)
    except OSError:
        return []
    return found


@dataclass(slots=True)
class Orphans:
    """Open orphaned spools by the name of their folder. They stay open, so that what they count does not vanish."""

    settings: SidecarSettings
    folders: list[Path]
    open: dict[str, Shipping] = field(default_factory=dict)
    again_seconds: float = AGAIN_SECONDS

    async def run(self) -> None:
        """Deliver until cancelled. A folder that another process still has is taken when that lets go of it."""
        async with anyio.create_task_group() as group:
            for folder in self.folders:
                group.start_soon(self._deliver, folder)

    async def _deliver(self, folder: Path) -> None:
        told = ""
        number = worker_number(folder)
        name = self.settings.shown_name if number is None else f"{self.settings.shown_name}#{number}"
        own = self.settings.model_copy(update={"spool_dir": folder, "name": name})
        while True:
            try:
                async with shipping(own) as ship:
                    log.info("spool_adopted", folder=str(folder), records=ship.records.state().waiting)
                    self.open[folder.name] = ship
                    try:
                        await ship.run(Health())
                    finally:
                        del self.open[folder.name]
            except ConfigError as error:
                if told != str(error):
                    told = str(error)
                    log.warning("spool_not_adopted", folder=str(folder), reason=told)
            await anyio.sleep(self.again_seconds)

    def families(self) -> Iterator[Metric]:
        """Their numbers, as a worker tells its own: each of them by itself, to be merged."""
        for ship in self.open.values():
            yield from families(_samples(ship))

    def letters(self) -> dict[str, Change]:
        """Their dead letters."""
        return {name: change_of(ship) for name, ship in self.open.items()}

    def told(self) -> Iterator[str]:
        """A line for each, for people who ask whether all is well."""
        for name, ship in sorted(self.open.items()):
            yield f"{name}: {ship.records.state().waiting} records wait"


def _samples(ship: Shipping) -> Iterator[Sample]:
    yield from labelled("engineroom_sidecar_requests_total", {"lost_record": ship.lost}, "outcome", ())
    yield from queue_samples("", ship.records.name, ship.delivery.state())
    for state in ship.spool.states():
        yield from stream_samples("", state, unix_ns())
