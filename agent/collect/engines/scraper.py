"""One engine's pages in; its health, canonical readings and raw samples out, once each scrape.

Whatever the engine does (hang, lie, flood, vanish) ends in a status with a reason for people and in withdrawn
readings, never in an error of the scraper.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import aiohttp
import anyio
import structlog
from msgspec import Struct

from agent.clock import NS, boot_ns, unix_ns
from agent.collect.engines.about import AboutEngine
from agent.collect.engines.advice import Adviser, of_target
from agent.collect.engines.asking import Asker
from agent.collect.engines.diagnosis import Unread
from agent.collect.engines.facts import EngineFacts, Facts
from agent.collect.engines.generating import GeneratingProbe
from agent.collect.engines.health import Judged, in_life, judge
from agent.collect.engines.identify import identify
from agent.collect.engines.look import Look, Looker
from agent.collect.engines.ports_of import PortOwners
from agent.collect.engines.targets import EngineTarget
from agent.collect.engines.totals import Totals, process_start_ns
from agent.core.engine_life import EngineLife, LifeSeen
from agent.core.metrics.samples import Sample
from agent.core.readings import EngineReading, EngineSnapshot, EngineState, EngineStatus
from agent.engines.contract import EngineFile, Origin
from agent.engines.registry import BY_KIND

log = structlog.get_logger()

OnSnapshot = Callable[[EngineSnapshot, tuple[Sample, ...]], None]
ScrapeResult = Literal["ok", "no_metrics", "failed"]
LARGE_PAGES = 2  # so many are read beside the loop at once: more would only take turns on the same cores


class _Scraped(Struct, frozen=True, kw_only=True):
    """One scrape of an engine that has an address."""

    judged: Judged
    look: Look | None = None
    readings: tuple[EngineReading, ...] = ()
    fell: bool | None = None  # totals are smaller than before; None: none were seen
    began_ns: int | None = None  # Unix ns: when its process was started, as the page says


class EngineScraper:
    """Watches one engine. `step` is one scrape and hands over one snapshot, with the raw samples of the page.

    Raw samples carry `instance` and `job` (the kind) as Prometheus would add them. `owners` finds the engine's
    processes, `parses` bounds the large pages that are read at once: share both between scrapers. `life` is what was
    seen of the engine before. `probe_generating` allows requests that make the engine generate a token.
    """

    def __init__(
        self,
        target: EngineTarget,
        on_snapshot: OnSnapshot,
        session: aiohttp.ClientSession,
        owners: PortOwners | None = None,
        *,
        probe_generating: bool = False,
        parses: anyio.CapacityLimiter | None = None,
        life: EngineLife | None = None,
        proc: Path = Path("/proc"),
    ) -> None:
        self.scrapes: dict[ScrapeResult, int] = {"ok": 0, "no_metrics": 0, "failed": 0}
        self.page_problems: int | None = None  # of the last page; None: there was none
        self.life = life or EngineLife()
        self._on_snapshot = on_snapshot
        self._session = session
        self._parses = parses or anyio.CapacityLimiter(LARGE_PAGES)
        self._facts = EngineFacts(owners or PortOwners(), proc)
        self._probe_generating = probe_generating
        self._scraped_at_ns: int | None = None
        self._shown: tuple[EngineState, bool] | None = None
        self._adviser = Adviser()
        self._totals = Totals()
        self._sees_process = False
        self._begin_with(target)

    def _begin_with(self, target: EngineTarget) -> None:
        self.target = self._next = target
        self._kind: EngineFile | None = BY_KIND.get(target.kind)
        self._sure = self._kind is not None  # the kind is still what it was found to be
        self._had_page = False
        self._began_ns: int | None = None
        self._asker = Asker(self._session, target)
        self._looker = Looker(self._asker, self._parses)
        self._about = AboutEngine(self._asker)
        self._generating = GeneratingProbe(self._asker, self._probe_generating)

    def retarget(self, target: EngineTarget) -> None:
        """Discovery knows more of the same engine, or finds it elsewhere: from the next scrape on."""
        self._next = target

    def _take_next(self) -> None:
        before, target = self.target, self._next
        if (before.url, before.metrics_url, before.kind) != (target.url, target.metrics_url, target.kind):
            self._begin_with(target)
        else:
            self.target = self._asker.target = target

    async def step(self) -> None:
        """One scrape. Does not raise for anything the engine does."""
        began_ns, at_ns = boot_ns(), unix_ns()
        self._take_next()
        target = self.target
        if not target.url:
            facts = await self._facts.of(target, answers=False)
            scraped = _Scraped(judged=_of_processes(target, facts))
            seconds = None
        else:
            scraped = await self._scrape(at_ns)
            seconds = (boot_ns() - began_ns) / NS
            facts = await self._facts.of(target, answers=scraped.judged.live)
            self._count(scraped, at_ns)
        judged = self._live_on(scraped, facts)
        status = self._status(target, judged, facts, scraped, seconds)
        self._log_change(status)
        page = scraped.look.page.scrape if scraped.look is not None and judged.state != "down" else None
        self._on_snapshot(
            EngineSnapshot(status=status, readings=scraped.readings), page.samples if page is not None else ()
        )

    async def _scrape(self, at_ns: int) -> _Scraped:
        try:
            await self._asker.begin()
            look = await self._look()
        except Unread as failure:
            self._lost()
            live = failure.state != "down"
            return _Scraped(judged=Judged(state=failure.state, reason=failure.reason, live=live, silent=failure.silent))
        judged = judge(look, await self._generating.ask(look.engine))
        if judged.state in ("down", "unknown_format"):
            self._lost()
            return _Scraped(judged=judged, look=look)
        await self._about.refresh(look)
        readings = await self._read(look, at_ns)
        fell = self._totals.fell(readings)
        began_ns = process_start_ns(look.page.scrape) if look.page.scrape is not None else None
        other = self._began_ns not in (None, began_ns) or self._totals.models_changed(readings)
        self._began_ns = began_ns
        if fell or other:  # the engine came back between two scrapes, perhaps as another version
            self._about.forget()
            await self._about.refresh(look)
            readings = await self._read(look, at_ns)
        return _Scraped(judged=judged, look=look, readings=tuple(readings), fell=fell, began_ns=began_ns)

    async def _look(self) -> Look:
        """What the engine shows; an unknown one is found out first, and one that has changed is found out anew."""
        if self._kind is None:
            known = BY_KIND.get(await self._facts.kind(self.target))
            self._kind = known or await identify(self._asker, self._looker)
            self._sure = True
        look = await self._looker.look(self._kind)
        if self.target.kind != "auto":
            return look
        other = look.unread.other if look.unread is not None else None
        if other is None and look.hides_page and (self._had_page or not self._sure):
            other = await self._someone_else()
        if other is not None and other is not self._kind:
            self._kind = other
            self._about.forget()
            look = await self._looker.look(other)
        self._sure, self._had_page = look.answered, look.shows_page
        return look

    async def _someone_else(self) -> EngineFile | None:
        try:
            return await identify(self._asker, self._looker)
        except Unread:
            return None  # then what the known kind's paths say stays the best answer

    async def _read(self, look: Look, at_ns: int) -> list[EngineReading]:
        target = self.target
        origin = Origin(engine=target.engine, url=target.url, read_at_ns=at_ns, about=self._about.told)
        return await self._looker.read(look, origin)

    def _lost(self) -> None:
        """It may come back as another version, or as something else."""
        self._about.forget()
        self._totals.forget()
        self._sure = False

    def _count(self, scraped: _Scraped, at_ns: int) -> None:
        look, state = scraped.look, scraped.judged.state
        page = look.page.scrape if look is not None else None
        self.page_problems = page.malformed + page.duplicates if page is not None else None
        if look is None or state in ("down", "unknown_format"):
            self.scrapes["failed"] += 1
        elif page is None and look.engine.metrics_paths:
            self.scrapes["no_metrics" if look.hides_page else "failed"] += 1
        else:
            self.scrapes["ok"] += 1
            self._scraped_at_ns = at_ns

    def _live_on(self, scraped: _Scraped, facts: Facts) -> Judged:
        judged = scraped.judged
        # One witness: two may disagree by the time that one process of an engine takes to start another.
        self._sees_process = self._sees_process or facts.started_at_ns is not None
        began_ns = facts.started_at_ns if self._sees_process else scraped.began_ns
        self.life.see(
            LifeSeen(
                at_ns=boot_ns(),
                live=judged.live,
                ready=judged.state == "ready",
                process_started_at_ns=began_ns,
                clock_offset_ns=unix_ns() - boot_ns(),
                counters_fell=scraped.fell,
            )
        )
        return in_life(judged, started=bool(self.life.started), process_runs=bool(facts.pids))

    def _status(
        self, target: EngineTarget, judged: Judged, facts: Facts, scraped: _Scraped, seconds: float | None
    ) -> EngineStatus:
        look, life, about = scraped.look, self.life, self._about.told
        up = judged.state in ("ready", "not_ready")
        told = self._adviser.advise(look, scraped.readings) if up and look is not None else ()
        return EngineStatus(
            engine=target.engine,
            kind=self._kind.kind if self._kind else None,
            url=target.url,
            state=judged.state,
            reason=judged.reason,
            version=about.version,
            scraped_at_ns=self._scraped_at_ns,
            scrape_seconds=seconds,
            pids=facts.pids,
            gpus=target.gpus,
            live=None if judged.state == "unknown_format" and not target.url else judged.live,
            ready=judged.ready,
            started=None if judged.state == "unknown_format" else life.started,
            process_started_at_ns=facts.started_at_ns,
            ready_after_seconds=life.ready_after_seconds,
            restarts=life.restarts,
            crash_looping=life.crash_looping,
            found_by=target.found_by,
            workload=facts.workload,
            part="worker" if facts.part == "worker" else "server",
            group=facts.group,
            nodes=facts.nodes,
            node_rank=facts.node_rank,
            role=facts.role or about.role,
            service=target.service,
            advice=(*told, *of_target(target, bool(facts.pids))),
            shapes=dict(about.shapes),
        )

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


def _of_processes(target: EngineTarget, facts: Facts) -> Judged:
    """How an engine is that nobody can ask, by its processes."""
    if target.pids and not facts.pids:
        return Judged(state="down", reason="its processes have ended", live=False, ready=False)
    if target.part == "worker":
        return Judged(state="ready", live=True)
    if not target.listens:
        return Judged(state="not_ready", reason=target.unreachable, live=False, ready=False)
    # Not `down`: its GPUs work for it, and are an engine's on the bill.
    return Judged(state="unknown_format", reason=target.unreachable, live=True)
