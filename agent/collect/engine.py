"""One engine's pages in; its health, canonical readings and raw samples out, once each scrape.

Whatever the engine does (hang, lie, flood, vanish) ends in a status with a reason for people and in withdrawn
readings, never in an error of the scraper.
"""

from collections.abc import Callable, Sequence

import aiohttp
import anyio
import anyio.to_thread
import structlog

from agent.clock import NS, boot_ns, unix_ns
from agent.collect.diagnosis import Unread, check_status, verdict, why_unknown
from agent.collect.fetch import get
from agent.collect.ports_of import PortOwners
from agent.collect.targets import EngineTarget
from agent.core.metrics.exposition import Exposition
from agent.core.metrics.samples import Sample
from agent.core.metrics.scrape import Scrape
from agent.core.ports import TryLater
from agent.core.readings import EngineReading, EngineSnapshot, EngineState, EngineStatus
from agent.engines.bodies import decode
from agent.engines.contract import About, EngineFile, Origin, Page
from agent.engines.registry import BY_KIND, ENGINES, classify

log = structlog.get_logger()

ABOUT_SECONDS = 300.0  # model and version are asked again after this, and after a restart of the engine
ABOUT_RETRY_SECONDS = 30.0
ABOUT_TIMEOUT_SECONDS = 1.0
ABOUT_MAX_BYTES = 1024 * 1024
THREAD_BYTES = 1024 * 1024  # a page larger than this is parsed beside the event loop,
THREAD_SAMPLES = 5_000  # and one with more samples than this is read there too


class EngineScraper:
    """Scrapes one engine. `step` is one scrape and hands over one snapshot, with the raw samples of the page.

    Raw samples carry `instance` and `job` (the kind) as Prometheus would add them. `owners` finds the engine's
    processes; share one between scrapers.
    """

    def __init__(
        self,
        target: EngineTarget,
        on_snapshot: Callable[[EngineSnapshot, tuple[Sample, ...]], None],
        session: aiohttp.ClientSession,
        owners: PortOwners | None = None,
    ) -> None:
        self.target = target
        self._on_snapshot = on_snapshot
        self._session = session
        self._owners = owners or PortOwners()
        self._kind = None if target.kind == "auto" else BY_KIND[target.kind]
        self._exposition = self._new_exposition()
        self._about = About()
        self._about_due_ns = 0
        self._scraped_at_ns: int | None = None
        self._tokens: dict[tuple[str, str], float] = {}
        self._shown: tuple[EngineState, bool] | None = None

    async def step(self) -> None:
        """One scrape. Does not raise for anything the engine does."""
        began_ns, at_ns = boot_ns(), unix_ns()
        readings: list[EngineReading] = []
        samples: tuple[Sample, ...] = ()
        pids: tuple[int, ...] = ()
        try:
            token = await self._token()
            engine, scrape = await self._scrape(token)
            seconds = (boot_ns() - began_ns) / NS
            await self._refresh_about(engine, token)
            readings = await self._read(engine, scrape, at_ns)
            if self._restarted(readings):
                self._about_due_ns = 0
                await self._refresh_about(engine, token)
                readings = await self._read(engine, scrape, at_ns)
            state, reason = verdict(scrape)
            samples = scrape.samples
            self._scraped_at_ns = at_ns
            pids = await self._owners.pids(self.target.host, self.target.port)
        except Unread as failure:
            state, reason = failure.state, failure.reason
            seconds = (boot_ns() - began_ns) / NS
            self._about_due_ns = 0  # it may come back as another version
            self._tokens = {}
        status = EngineStatus(
            engine=self.target.engine,
            kind=self._kind.kind if self._kind else None,
            url=self.target.url,
            state=state,
            reason=reason,
            version=self._about.version,
            scraped_at_ns=self._scraped_at_ns,
            scrape_seconds=seconds,
            pids=pids,
            gpus=self.target.gpus,
        )
        self._log_change(status)
        self._on_snapshot(EngineSnapshot(status=status, readings=tuple(readings)), samples)

    async def _token(self) -> str | None:
        """Read at each scrape, so that a renewed token needs no restart."""
        file = self.target.token_file
        if file is None:
            return None
        try:
            token = (await anyio.Path(file).read_text()).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Unread("down", f"the token_file {file} of this engine cannot be read: {error}") from None
        if not token.isascii() or not token.isprintable():
            raise Unread("down", f"the token_file {file} of this engine must hold one line of printable ASCII")
        return token

    async def _scrape(self, token: str | None) -> tuple[EngineFile, Scrape]:
        """The engine and its page, read. Raises Unread, of several paths with the first one's reason."""
        fixed = self.target.kind != "auto"
        candidates = (BY_KIND[self.target.kind],) if fixed else ENGINES
        first: Unread | None = None
        for path in dict.fromkeys(path for engine in candidates for path in engine.metrics_paths):
            try:
                return await self._scrape_path(path, token, candidates)
            except Unread as failure:
                if failure.state != "unknown_format":
                    raise
                first = first or failure
        assert first is not None
        raise first

    async def _scrape_path(
        self, path: str, token: str | None, candidates: Sequence[EngineFile]
    ) -> tuple[EngineFile, Scrape]:
        address = self.target.url + path
        known = (self._kind,) if self._kind in candidates and self._kind else candidates  # for advice
        try:
            answer = await get(self._session, address, timeout_seconds=self.target.timeout_seconds, token=token)
        except TryLater as failure:
            raise Unread("down", failure.reason) from None
        check_status(answer, address, known)
        scrape = await self._parse(answer.body)
        engine = classify(scrape)
        if engine is None or engine not in candidates:
            raise Unread("unknown_format", why_unknown(scrape, address, self.target.kind, known))
        if engine is not self._kind:  # the first page of an engine whose kind nobody gave: now `job` is known
            self._kind = engine
            self._exposition = self._new_exposition()
            scrape = await self._parse(answer.body)
        return engine, scrape

    def _new_exposition(self) -> Exposition:
        job = (("job", self._kind.kind),) if self._kind else ()
        return Exposition(add_labels=(("instance", self.target.instance), *job))

    async def _parse(self, body: bytes) -> Scrape:
        if len(body) > THREAD_BYTES:
            return await anyio.to_thread.run_sync(self._exposition.parse, body)
        return self._exposition.parse(body)

    async def _refresh_about(self, engine: EngineFile, token: str | None) -> None:
        """Ask for model and version when that is due. A failure is no failure of the scrape: it is asked again soon."""
        if boot_ns() < self._about_due_ns:
            return
        bodies: dict[str, bytes] = {}
        with anyio.move_on_after(ABOUT_TIMEOUT_SECONDS):
            for path in engine.about_paths:
                try:
                    answer = await get(
                        self._session,
                        self.target.url + path,
                        timeout_seconds=ABOUT_TIMEOUT_SECONDS,
                        max_bytes=ABOUT_MAX_BYTES,
                        token=token,
                    )
                except TryLater:
                    continue
                if answer.status == 200:
                    bodies[path] = answer.body
        if bodies:
            self._about = engine.about(decode(engine.about_paths, bodies))
        complete = len(bodies) == len(engine.about_paths)
        self._about_due_ns = boot_ns() + int((ABOUT_SECONDS if complete else ABOUT_RETRY_SECONDS) * NS)

    async def _read(self, engine: EngineFile, scrape: Scrape, at_ns: int) -> list[EngineReading]:
        origin = Origin(engine=self.target.engine, url=self.target.url, read_at_ns=at_ns, about=self._about)
        page = Page(scrape=scrape, path=engine.metrics_paths[0])
        if len(scrape.samples) > THREAD_SAMPLES:
            return await anyio.to_thread.run_sync(engine.read, page, origin)
        return engine.read(page, origin)

    def _restarted(self, readings: list[EngineReading]) -> bool:
        """Whether a token counter ran backwards: the engine came back between two scrapes."""
        before = self._tokens
        self._tokens = {(r.model, kind): total for r in readings for kind, total in (r.tokens_total or {}).items()}
        return any(total < before.get(series, 0) for series, total in self._tokens.items())

    def _log_change(self, status: EngineStatus) -> None:
        shown = (status.state, bool(status.reason))
        if shown != self._shown:
            self._shown = shown
            log.info(
                "engine_state_changed",
                engine=status.engine,
                kind=status.kind,
                url=status.url,
                state=status.state,
                reason=status.reason,
            )
