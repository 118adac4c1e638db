"""The engine part of the page, in a browser: cards, many engines, what was unfolded stays so, size and speed."""

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.api.page import FRESH_NS, Page
from agent.core.board import Board
from agent.core.readings import Advice, EngineSnapshot
from tests.api.test_page import CONTRAST, PICTURES
from tests.support.api import engine, gpus, node, served
from tests.support.chromium import browser
from tests.support.engine_figures import BusyQueries, history

ADVICE = (
    Advice(signal="timeout", text="vLLM counts none: put the sidecar in front of it"),
    Advice(signal="input_cached", text="start it with --enable-prompt-tokens-details"),
)


def fleet(count: int) -> dict[str, object]:
    """So many engines: a few of them down or starting, one a worker, one out of reach."""
    found: dict[str, EngineSnapshot] = {}
    for number in range(count):
        name = f"llm-{number:02d}:8000"
        changes: dict[str, object] = {"advice": ADVICE, "live": True, "ready": True, "started": True}
        if number % 17 == 1:
            changes = {"state": "down", "reason": "nobody listens at http://llm:8000", "live": False, "restarts": 4}
            changes["crash_looping"] = number == 1
        elif number % 17 == 2:
            changes = {"state": "starting", "reason": "for 40 s", "live": True, "ready": False}
        elif number == 3:
            changes = {"url": "", "part": "worker", "group": "10.0.0.1:29500", "nodes": 2, "node_rank": 1}
        elif number == 4:
            changes = {"url": "", "state": "down", "reason": "it listens in another network namespace"}
        snapshot = engine(name)
        readings = snapshot.readings if "advice" in changes else ()
        found[name] = EngineSnapshot(status=replace(snapshot.status, **changes), readings=readings)
    served_models = [(name, "Qwen/Qwen3-32B") for name, one in found.items() if one.readings]
    queries = BusyQueries(history(served_models, minutes=5.5), [name for name, _ in served_models])
    return {"board": Board("n", gpus(), found), "queries": queries}


async def test_few_engines_have_cards_and_many_have_rows() -> None:
    few = await Page(node(**fleet(6))).whole()
    assert few.count('<article class="engine"') == 6
    assert few.count("things it does not tell") == 2
    for text in (
        "crash looping",
        "out of reach",
        "It answers nobody itself",
        "10.0.0.1:29500, node 2 of 2",
        "1.5 – 2.5",
    ):
        assert text in few
    many = await Page(node(**fleet(50))).whole()
    assert many.count('<details class="engine row') == 50
    assert many.count("<figure>") == 0
    assert many.index("llm-01:8000") < many.index("llm-18:8000") < many.index("llm-02:8000") < many.index("llm-00:8000")
    assert "style=" not in few + many


async def test_names_and_words_of_engines_are_escaped() -> None:
    bad = '"><script>alert(1)</script>'
    snapshot = engine(bad)
    status = replace(snapshot.status, reason=bad, group=bad, advice=(Advice(signal=bad, text=bad),))
    board = Board("n", None, {bad: EngineSnapshot(status=status, readings=snapshot.readings)})
    assert "<script>alert" not in await Page(node(board=board)).whole()


@pytest.mark.component("chromium")
@pytest.mark.parametrize("count", [6, 50])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
async def test_a_browser_shows_engines_without_complaint(tmp_path: Path, count: int, width: int, dark: bool) -> None:
    async with browser(tmp_path / "b") as tab, served(node(**fleet(count))) as url:
        await tab.open(url + "/", width=width, height=844 if width < 600 else 1600, dark=dark)
        await tab.evaluate("document.querySelectorAll('#engines details').forEach(part => { part.open = true })")
        await tab.screenshot(PICTURES / f"engines-{count}-{width}{'-dark' if dark else ''}.png")
        assert await tab.evaluate("document.documentElement.scrollWidth") == width
        assert await tab.evaluate(CONTRAST) == []
        assert tab.complaints == []


@pytest.mark.component("chromium")
async def test_what_is_unfolded_stays_so_while_the_page_goes_on(tmp_path: Path) -> None:
    clock = [3_600 * 10**9]
    services = node(**fleet(6), boot_ns=lambda: clock[0])
    async with browser(tmp_path / "b") as tab, served(services) as url:
        await tab.open(url + "/")
        await tab.evaluate("document.querySelector('.advice summary').focus()")
        await tab.evaluate("document.querySelector('.advice summary').click()")
        services.board.engines["llm-00:8000"] = engine("llm-00:8000", state="not_ready", advice=ADVICE)
        clock[0] += 2 * FRESH_NS
        await tab.until("document.querySelector('.engine .pill').innerText === 'not ready'")
        assert await tab.evaluate("document.querySelector('.advice').open")
        assert await tab.evaluate("document.activeElement === document.querySelector('.advice summary')")
        assert re.fullmatch("advice:.*", await tab.evaluate("document.activeElement.parentElement.id"))
        assert tab.complaints == []
