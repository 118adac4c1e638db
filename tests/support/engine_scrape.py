"""A scraper on a told server, what it handed over, and an engine file of no real engine: for tests of the scraper."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import msgspec

from agent.collect.engines.asking import Asker
from agent.collect.engines.look import Look, Looker
from agent.collect.engines.ports_of import PortOwners
from agent.collect.engines.scraper import EngineScraper
from agent.collect.engines.targets import EngineTarget
from agent.core.metrics.samples import Sample
from agent.core.readings import EngineReading, EngineSnapshot
from agent.engines.contract import About, Bodies, EngineFile, HealthPaths, Origin, Page

VLLM_PAGE = (Path(__file__).parents[1] / "engines/vllm/0.33.0/metrics.prom").read_bytes()
LLAMA_PAGE = b"# TYPE llamacpp:requests_processing gauge\nllamacpp:requests_processing 1\n"
NOWHERE = PortOwners(Path("/nowhere"))


@dataclass
class Seen:
    """What a scraper handed over."""

    snapshots: list[EngineSnapshot] = field(default_factory=list)
    samples: list[tuple[Sample, ...]] = field(default_factory=list)

    def __call__(self, snapshot: EngineSnapshot, samples: tuple[Sample, ...]) -> None:
        self.snapshots.append(snapshot)
        self.samples.append(samples)

    @property
    def last(self) -> EngineSnapshot:
        return self.snapshots[-1]


def scraper(url: str, seen: Seen, session: aiohttp.ClientSession, timeout: float = 4.0, **how: Any) -> EngineScraper:
    """Of an engine whose processes nobody sees. `how`: further fields of its target."""
    return EngineScraper(EngineTarget(url=url, timeout_seconds=timeout, **how), seen, session, NOWHERE)


class Load(msgspec.Struct):
    """A JSON body of the made-up engine."""

    running: float


class Told(msgspec.Struct):
    """What it says of itself."""

    version: str


def _read(page: Page, origin: Origin) -> list[EngineReading]:
    running = None
    if page.scrape is not None and page.scrape.named("made_up_running"):
        running = page.scrape.named("made_up_running")[0].value
    for path in ("/load", "/stats"):
        if path in page.bodies:
            running = page.bodies[path].running
    if running is None:
        return []
    return [
        EngineReading(
            engine=origin.engine, kind="made_up", url=origin.url, model="m", read_at_ns=1, requests_running=running
        )
    ]


def _about(bodies: Bodies) -> About:
    told = bodies.get("/about")
    return About(version=told.version if told else None)


MADE_UP = EngineFile(
    kind="made_up",
    title="Made Up",
    read=_read,
    recognise=lambda _process: None,
    owners=("made-up-co",),
    metrics_paths=("/new/metrics", "/metrics"),
    matches=lambda scrape, _path: any(name.startswith("made_up_") for name in scrape.names()),
    state_paths={"/load": Load},
    fallback_paths={"/stats": Load},
    about_paths={"/about": Told},
    about=_about,
    health=HealthPaths(live="/live", ready="/ready", generating="/generate-one"),
    metrics_hint="start it with --made-up-metrics",
    absent={"queue_seconds": "start it with --queue", "requests_running": "always told"},
)
PAGELESS = EngineFile(
    kind="pageless",
    title="Pageless",
    read=_read,
    recognise=lambda _process: None,
    metrics_paths=(),
    state_paths={"/load": Load},
    health=HealthPaths(live="/"),
    metrics_hint="it has no metrics",
)


async def looked(url: str, engine: EngineFile = MADE_UP, timeout: float = 2.0, **how: Any) -> Look:
    """One look at an engine of this kind."""
    async with aiohttp.ClientSession() as session:
        asker = Asker(session, EngineTarget(url=url, timeout_seconds=timeout, **how))
        await asker.begin()
        return await Looker(asker, anyio.CapacityLimiter(1)).look(engine)
