"""One look at an engine of a known kind: which paths are asked, and what comes back of them."""

import anyio
import pytest

from agent.collect.engines.asking import Asker
from agent.collect.engines.fetch import engine_session
from agent.collect.engines.look import Looker
from agent.collect.engines.targets import EngineTarget
from agent.engines.contract import Origin
from tests.support.engine_scrape import LLAMA_PAGE, MADE_UP, PAGELESS, looked
from tests.support.http import answer, drip, held, told_server

PAGE = answer(b"made_up_running 3\n")
LOAD = answer(b'{"running": 5, "secret": "x"}')


async def test_page_state_and_readiness_are_asked_and_nothing_else() -> None:
    async with told_server({"/new/metrics": PAGE, "/load": LOAD, "/ready": answer(b"")}) as server:
        look = await looked(server.url)
        assert sorted(server.asked) == ["/load", "/new/metrics", "/ready"]
    assert (look.page.path, look.shows_page, look.unread) == ("/new/metrics", True, None)
    assert look.page.bodies["/load"].running == 5
    assert look.ok("/ready")


async def test_the_second_place_of_the_page_is_asked_first_once_it_was_there() -> None:
    async with told_server({"/metrics": PAGE}) as server, engine_session() as session:
        asker = Asker(session, EngineTarget(url=server.url))
        looker = Looker(asker, anyio.CapacityLimiter(1))
        for _ in range(2):
            await asker.begin()
            assert (await looker.look(MADE_UP)).page.path == "/metrics"
        assert [path for path in server.asked if "metrics" in path] == ["/new/metrics", "/metrics", "/metrics"]


async def test_fallback_only_where_no_page_is_shown() -> None:
    async with told_server({"/stats": LOAD}) as server:
        look = await looked(server.url)
        assert "/stats" in server.asked
        assert look.hides_page
        assert look.page.bodies["/stats"].running == 5
        server.replies["/metrics"] = PAGE
        server.asked.clear()
        await looked(server.url)
        assert "/stats" not in server.asked


@pytest.mark.parametrize("reply", [drip(b"a" * 100, 0.05), held, answer(b"", status=503), answer(b"", status=500)])
async def test_a_page_that_is_late_or_broken_is_not_hidden(reply: object) -> None:
    """What a fallback gives may be taken away from the page: TensorRT-LLM tells each figure once."""
    replies = {"/new/metrics": reply, "/stats": LOAD, "/ready": answer(b"")}
    async with told_server(replies) as server:  # type: ignore[arg-type]
        look = await looked(server.url, timeout=0.3)
        assert "/stats" not in server.asked
    assert (look.shows_page, look.hides_page, look.answered) == (False, False, True)


async def test_an_engine_without_a_page_is_asked_for_its_state() -> None:
    async with told_server({"/load": LOAD}) as server:
        look = await looked(server.url, PAGELESS)
        assert server.asked == ["/load"]  # it answered well, so nobody needs to ask whether it lives
    assert look.page.bodies["/load"].running == 5
    async with told_server({"/": answer(b"runs")}) as server:
        look = await looked(server.url, PAGELESS)
        assert server.asked == ["/load", "/"]
    assert look.ok("/")


async def test_page_at_another_address() -> None:
    async with told_server({"/m": PAGE}) as other, told_server({"/ready": answer(b"")}) as server:
        look = await looked(server.url, metrics_url=f"{other.url}/m")
        assert other.asked == ["/m"]
        assert "/m" not in server.asked
    assert (look.page.path, look.shows_page) == ("/m", True)


async def test_another_engines_page_is_told() -> None:
    async with told_server({"/metrics": answer(LLAMA_PAGE)}) as server:
        look = await looked(server.url)
    assert look.unread is not None
    assert look.unread.other is None  # the reason is the first place's: nothing is there
    async with told_server({"/new/metrics": answer(LLAMA_PAGE)}) as server:
        look = await looked(server.url)
    assert look.unread is not None
    assert look.unread.other is not None
    assert look.unread.other.kind == "llamacpp"


async def test_all_requests_share_the_time_of_one_scrape() -> None:
    everything = dict.fromkeys(("/new/metrics", "/metrics", "/load", "/stats", "/ready", "/live"), held)
    async with told_server(everything) as server:
        with anyio.fail_after(2):
            look = await looked(server.url, timeout=0.3)
    assert not look.answered
    assert "within 0.3 s" in look.first_failure()


async def test_readings() -> None:
    async with told_server({"/new/metrics": PAGE}) as server, engine_session() as session:
        asker = Asker(session, EngineTarget(url=server.url))
        await asker.begin()
        looker = Looker(asker, anyio.CapacityLimiter(1))
        (reading,) = await looker.read(await looker.look(MADE_UP), Origin(engine="e", url="u", read_at_ns=1))
    assert reading.requests_running == 3
