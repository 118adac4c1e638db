"""Model and version: asked rarely, and never at the cost of the scrape."""

from dataclasses import replace

import anyio

from agent.collect.engines.about import AboutEngine
from agent.collect.engines.asking import Asker
from agent.collect.engines.fetch import engine_session
from agent.collect.engines.look import Look, Looker
from agent.collect.engines.targets import EngineTarget
from tests.support.engine_scrape import MADE_UP, Told
from tests.support.http import answer, held, told_server

VERSION_1, VERSION_2 = answer(b'{"version": "1"}'), answer(b'{"version": "2"}')


async def test_asked_once_and_again_when_it_is_forgotten() -> None:
    async with told_server({"/about": VERSION_1}) as server, engine_session() as session:
        asker = Asker(session, EngineTarget(url=server.url))
        about = AboutEngine(asker)
        for _ in range(2):
            await asker.begin()
            await about.refresh(Look(MADE_UP))
        assert (about.told.version, server.asked) == ("1", ["/about"])
        server.replies["/about"] = VERSION_2
        about.forget()
        assert about.told.version == "1"  # until it has been asked
        await about.refresh(Look(MADE_UP))
        assert about.told.version == "2"


async def test_what_was_asked_for_the_scrape_is_not_asked_again() -> None:
    engine = replace(MADE_UP, state_paths={"/about": Told})
    async with told_server({"/about": VERSION_1}) as server, engine_session() as session:
        asker = Asker(session, EngineTarget(url=server.url))
        await asker.begin()
        about = AboutEngine(asker)
        await about.refresh(await Looker(asker, anyio.CapacityLimiter(1)).look(engine))
        assert about.told.version == "1"
        assert server.asked.count("/about") == 1


async def test_one_that_hangs_is_given_up_and_what_was_known_stays() -> None:
    async with told_server({"/about": VERSION_1}) as server, engine_session() as session:
        asker = Asker(session, EngineTarget(url=server.url, timeout_seconds=0.2))
        about = AboutEngine(asker)
        await asker.begin()
        await about.refresh(Look(MADE_UP))
        server.replies["/about"] = held
        about.forget()
        await asker.begin()
        await about.refresh(Look(MADE_UP))
        assert about.told.version == "1"
