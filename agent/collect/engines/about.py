"""What an engine says of itself beside its metrics (model, version, role): asked rarely, kept between scrapes."""

from functools import partial

import anyio

from agent.clock import NS, boot_ns
from agent.collect.engines.asking import Asker
from agent.collect.engines.look import Look, good_bodies
from agent.collect.engines.unanswered import Unanswered
from agent.engines.bodies import decode
from agent.engines.contract import About, EngineFile

ABOUT_SECONDS = 300.0  # asked again after this, and after a restart of the engine
ABOUT_RETRY_SECONDS = 30.0
ABOUT_TIMEOUT_SECONDS = 1.0
ABOUT_MAX_BYTES = 1024 * 1024


class AboutEngine:
    """`told` is what was said last. A failure is no failure of the scrape: it is asked again soon."""

    def __init__(self, asker: Asker) -> None:
        self.told = About()
        self._asker = asker
        self._due_ns = 0

    def forget(self) -> None:
        """Ask again at the next chance; what was said holds until then."""
        self._due_ns = 0

    async def refresh(self, look: Look) -> None:
        """Ask when that is due. Paths that were asked for this scrape anyway are not asked twice."""
        engine = look.engine
        if boot_ns() >= self._due_ns:
            bodies = good_bodies(look, engine.about_paths)
            wanted = [path for path in engine.about_paths if path not in look.answers]
            with anyio.move_on_after(ABOUT_TIMEOUT_SECONDS):
                async with anyio.create_task_group() as group:
                    for path in wanted:
                        group.start_soon(partial(self._ask, path, bodies))
            if bodies or not engine.about_paths:
                self.told = self._decoded(engine, look, bodies)
            complete = len(bodies) == len(engine.about_paths)
            self._due_ns = boot_ns() + int((ABOUT_SECONDS if complete else ABOUT_RETRY_SECONDS) * NS)

    def _decoded(self, engine: EngineFile, look: Look, bodies: dict[str, bytes]) -> About:
        return engine.about({**look.page.bodies, **decode(engine.about_paths, bodies)})

    async def _ask(self, path: str, bodies: dict[str, bytes]) -> None:
        try:
            answer = await self._asker.get(
                self._asker.address(path), max_bytes=ABOUT_MAX_BYTES, at_most_seconds=ABOUT_TIMEOUT_SECONDS
            )
        except Unanswered:
            return
        if answer.status == 200:
            bodies[path] = answer.body
