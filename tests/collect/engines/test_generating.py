"""Requests that make an engine generate: only where they are allowed, at most once a minute, and said so."""

import pytest
from structlog.testing import capture_logs

from agent.collect.engines.asking import Asker
from agent.collect.engines.fetch import engine_session
from agent.collect.engines.generating import GeneratingProbe
from agent.collect.engines.targets import EngineTarget
from tests.support.engine_scrape import MADE_UP, PAGELESS
from tests.support.http import Reply, answer, held, told_server


async def asked(reply: Reply, allowed: bool = True, times: int = 1) -> tuple[object, int]:
    """What the last of several questions gave, and how often the engine was asked."""
    async with told_server({"/generate-one": reply, "/": answer(b"")}) as server, engine_session() as session:
        asker = Asker(session, EngineTarget(url=server.url, timeout_seconds=0.3))
        probe = GeneratingProbe(asker, allowed)
        for _ in range(times):
            await asker.begin()
            await asker.get(asker.address("/"))
            judged = await probe.ask(MADE_UP)
        return judged and judged.ready, server.asked.count("/generate-one")


@pytest.mark.parametrize(
    ("reply", "ready"),
    [
        (answer(b""), True),
        (answer(b"", status=503), False),
        (answer(b"", status=500), False),
        (held, False),
        (answer(b"", status=404), None),
        (answer(b"", status=401), None),
    ],
)
async def test_answers(reply: Reply, ready: bool | None) -> None:
    assert await asked(reply) == (ready, 1)


async def test_at_most_once_a_minute_and_never_unless_it_is_allowed() -> None:
    assert await asked(answer(b""), times=3) == (True, 1)
    assert await asked(answer(b""), allowed=False, times=3) == (None, 0)


async def test_it_is_said_once() -> None:
    with capture_logs() as logs:
        await asked(answer(b""), times=3)
    assert [entry["event"] for entry in logs] == ["engine_asked_to_generate"]


async def test_an_engine_without_such_a_path_or_without_an_answer_is_not_asked() -> None:
    async with told_server() as server, engine_session() as session:
        asker = Asker(session, EngineTarget(url=server.url))
        probe = GeneratingProbe(asker, True)
        await asker.begin()
        assert await probe.ask(MADE_UP) is None
        await asker.get(asker.address("/"))
        assert await probe.ask(PAGELESS) is None
        assert server.asked == ["/"]
