"""An engine of a known kind in, what it shows at one instant out: its page, its JSON bodies, its health."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import partial

import anyio
import anyio.to_thread

from agent.collect.engines.asking import Asker
from agent.collect.engines.diagnosis import Unread, check_status, unknown_page
from agent.collect.engines.fetch import Answer
from agent.collect.engines.unanswered import Unanswered
from agent.core.metrics.exposition import Exposition
from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading
from agent.engines.bodies import decode
from agent.engines.contract import Bodies, EngineFile, Origin, Page

THREAD_BYTES = 1024 * 1024  # a page larger than this is parsed beside the event loop,
THREAD_SAMPLES = 5_000  # and one with more samples than this is read there too
MAX_BODY_BYTES = 4 * 1024 * 1024  # of a JSON body


@dataclass(slots=True)
class Look:
    """What came back. `page.scrape` is None where no metrics page was shown; `unread` says why, if there should be one.

    `answers` are those of all other paths that were asked; an `Unanswered` is the reason why one did not come.
    """

    engine: EngineFile
    page: Page = field(default_factory=Page)
    unread: Unread | None = None
    answers: dict[str, Answer | Unanswered] = field(default_factory=dict)
    answered: bool = False  # anything did, whatever it said

    @property
    def shows_page(self) -> bool:
        return self.page.scrape is not None

    @property
    def hides_page(self) -> bool:
        """It answers at the page's address, and there is none."""
        return self.unread is not None and self.unread.state == "unknown_format"

    @property
    def live_paths(self) -> list[str]:
        health = self.engine.health
        return [path for path in (health.live, health.live_elsewhere) if path is not None]

    @property
    def says_it_lives(self) -> bool:
        """Whether a path for that question answered well."""
        return any(map(self.ok, self.live_paths))

    def ok(self, path: str | None) -> bool:
        """Whether the path answered well."""
        answer = self.answers.get(path) if path is not None else None
        return isinstance(answer, Answer) and 200 <= answer.status < 300

    @property
    def silent(self) -> bool:
        """Not one byte came, from any path."""
        others = all(isinstance(answer, Unanswered) and answer.silent for answer in self.answers.values())
        return others and (self.unread is None or self.unread.silent)

    def first_failure(self) -> str:
        """Why nothing answered."""
        failures = [answer.reason for answer in self.answers.values() if isinstance(answer, Unanswered)]
        return self.unread.reason if self.unread is not None else next(iter(failures), "nothing was asked")


class Looker:
    """Looks at one engine again and again. `parses` bounds how many large pages are read at once."""

    def __init__(self, asker: Asker, parses: anyio.CapacityLimiter) -> None:
        self._asker = asker
        self._parses = parses
        self._exposition = Exposition()
        self._exposition_of = ""
        self._shown_at = ""  # where the page was found last: asked first
        self._lives_at = ""

    async def look(self, engine: EngineFile) -> Look:
        """Ask everything that the engine's file names for a scrape, side by side. Does not raise for what comes."""
        look = Look(engine)
        ready = () if engine.health.ready is None else (engine.health.ready,)
        fallback = tuple(engine.fallback_paths)
        pageless = not engine.metrics_paths
        async with anyio.create_task_group() as group:
            if not pageless:
                group.start_soon(self._read_page, look)
            group.start_soon(self._ask_all, look, (*engine.state_paths, *ready, *(fallback if pageless else ())))
        # Not of a page that is only late: what a fallback gives may be taken from that page (TensorRT-LLM).
        if look.hides_page:
            await self._ask_all(look, fallback)
        bodies = self._bodies(look)
        if not look.shows_page and not bodies and not look.ok(engine.health.ready):
            await self._ask_life(look)
        look.page = Page(scrape=look.page.scrape, path=look.page.path, bodies=bodies)
        look.answered = self._asker.answered
        return look

    async def read(self, look: Look, origin: Origin) -> list[EngineReading]:
        """The canonical readings of what was seen."""
        scrape = look.page.scrape
        if scrape is not None and len(scrape.samples) > THREAD_SAMPLES:
            return await anyio.to_thread.run_sync(look.engine.read, look.page, origin, limiter=self._parses)
        return look.engine.read(look.page, origin)

    async def parse(self, body: bytes, job: str) -> Scrape:
        """A page, read. Series get `instance` and, where the kind is known, `job`, as Prometheus would add them."""
        if self._exposition_of != job:
            labels = (("job", job),) if job else ()
            self._exposition = Exposition(add_labels=(("instance", self._asker.target.instance), *labels))
            self._exposition_of = job
        if len(body) > THREAD_BYTES:
            return await anyio.to_thread.run_sync(self._exposition.parse, body, limiter=self._parses)
        return self._exposition.parse(body)

    async def _read_page(self, look: Look) -> None:
        first: Unread | None = None
        pages = self._asker.pages(look.engine)
        pages.sort(key=lambda page: page[0] != self._shown_at)
        for path, url in pages:
            try:
                scrape = await self._page(look.engine, path, url)
            except Unread as failure:
                first = first or failure
                if failure.state != "unknown_format":
                    break
            else:
                look.page = Page(scrape=scrape, path=path)
                self._shown_at = path
                return
        look.unread = first

    async def _page(self, engine: EngineFile, path: str, url: str) -> Scrape:
        try:
            answer = await self._asker.get(url)
        except Unanswered as failure:
            raise Unread("down", failure.reason, silent=failure.silent) from None
        check_status(answer, url, (engine,))
        scrape = await self.parse(answer.body, engine.kind)
        if engine.matches(scrape, path):
            return scrape
        raise unknown_page(scrape, url, path, engine)

    async def _ask_all(self, look: Look, paths: Iterable[str]) -> None:
        wanted = [path for path in dict.fromkeys(paths) if path not in look.answers]
        async with anyio.create_task_group() as group:
            for path in wanted:
                group.start_soon(partial(self._ask, look, path))

    async def _ask_life(self, look: Look) -> None:
        """The first path that says so is asked alone from then on."""
        for path in (self._lives_at,) if self._lives_at else look.live_paths:
            await self._ask_all(look, (path,))
            self._lives_at = path if look.ok(path) else ""
            if self._lives_at:
                return

    async def _ask(self, look: Look, path: str) -> None:
        try:
            look.answers[path] = await self._asker.get(self._asker.address(path), max_bytes=MAX_BODY_BYTES)
        except Unanswered as failure:
            look.answers[path] = failure

    def _bodies(self, look: Look) -> Bodies:
        types = {**look.engine.state_paths, **({} if look.shows_page else look.engine.fallback_paths)}
        return decode(types, good_bodies(look, types))


def good_bodies(look: Look, paths: Collection[str]) -> dict[str, bytes]:
    """The bodies of those paths that answered well."""
    return {path: a.body for path in paths if isinstance(a := look.answers.get(path), Answer) and a.status == 200}
