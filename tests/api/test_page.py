import re
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from agent.api.page import FRESH_NS, Page, Static
from agent.api.services import Line, QueryRefused
from agent.core.board import Board
from agent.lifecycle import Health
from tests.conftest import ROOT
from tests.support.api import NOW_NS, WaveQueries, gpu, gpus, node, rule_group, served
from tests.support.chromium import browser

PICTURES = ROOT / "artifacts" / "page"


async def test_the_page_shows_gpus_engines_alerts_money_and_health():
    html = await Page(node()).whole()
    for text in (
        "NVIDIA H100 80GB HBM3",
        "GpuTemperatureHigh",
        "GPU 1 is at 91",
        "Qwen/Qwen3-32B",
        "Connection refused at http://127.0.0.1:8001/metrics",
        "¥86.40",
        "Loaded, idle",
        "alertmanager",
        "settlement",
        "gpu-node-17",
    ):
        assert text in html
    assert html.count("<tr") > 8
    assert "simulated" not in html
    assert "style=" not in html


async def test_what_is_simulated_and_scaled_is_said():
    board = Board("a", gpus(1))
    board.gpus = board.gpus.__class__(read_at_ns=NOW_NS, driver="ok", gpus=(gpu(0, simulated=True),))
    html = await Page(node(board=board, simulated="The GPUs are recorded ones.", hold_scale="Holds x 0.02.")).whole()
    assert "The GPUs are recorded ones." in html
    assert "Holds x 0.02." in html
    assert html.count("p-simulated") == 2
    # Readings that say so themselves are enough.
    assert "1 of 1 GPUs play back a recording" in await Page(node(board=board)).whole()


async def test_a_bare_node_is_told_apart_from_a_quiet_one():
    nothing = {"gpu": [], "engine": [], "kind": []}
    bare = node(
        board=Board("a"),
        rule_groups=list,
        deliveries=list,
        health=Health(),
        prices=list,
        queries=WaveQueries(nothing),
    )
    html = await Page(bare).whole()
    assert "No reading of the GPUs has arrived yet." in html
    assert "No engine is watched yet." in html
    assert "no alert rules" in html
    assert "all quiet" not in html
    assert "all quiet" in await Page(node(rule_groups=lambda: [rule_group(firing=False)])).whole()


async def test_names_from_outside_are_escaped():
    html = await Page(node(node="<script>alert(1)</script>", price_source="<b>")).whole()
    assert "<script>alert" not in html
    assert "prices: <b>" not in html


async def test_a_refused_chart_query_leaves_the_rest_of_the_page():
    class Refusing(WaveQueries):
        def range(self, query: str, start_ms: int, end_ms: int, step_ms: int) -> list[Line]:
            raise QueryRefused("not today")

    html = await Page(node(queries=Refusing())).whole()
    assert "NVIDIA H100 80GB HBM3" in html
    assert html.count("no data yet") == 2  # once for each engine


async def test_a_rendering_is_kept_for_a_second():
    clock = [10**13]
    page = Page(node(boot_ns=lambda: clock[0]))
    first = await page.live()
    clock[0] += FRESH_NS - 1
    assert await page.live() is first
    clock[0] += 1
    assert await page.live() is not first


def test_static_addresses_change_with_the_content(tmp_path: Path):
    (tmp_path / "a.css").write_text("one")
    before = Static(tmp_path).address("a.css")
    (tmp_path / "a.css").write_text("two")
    assert Static(tmp_path).address("a.css") != before


async def test_static_files_are_cached_by_browsers(api: aiohttp.ClientSession):
    html = await (await api.get("/")).text()
    (address,) = re.findall(r'href="(/static/page\.css\?v=\w+)"', html)
    async with api.get(address) as answer:
        assert answer.content_type == "text/css"
        assert "immutable" in answer.headers["Cache-Control"]
        tag = answer.headers["ETag"]
    async with api.get("/static/page.css") as answer:
        assert answer.headers["Cache-Control"] == "no-cache"
    async with api.get("/static/page.css", headers={"If-None-Match": tag}) as answer:
        assert answer.status == 304
    for path in ("/static/nothing.css", "/static/../page.py", "/static/..%2fpage.py"):
        async with api.get(path) as answer:
            assert answer.status == 404
    async with api.get("/favicon.ico") as answer:
        assert answer.content_type == "image/svg+xml"


@pytest.mark.component("chromium")
@pytest.mark.parametrize(
    ("name", "width", "dark"), [("desktop", 1280, False), ("dark", 1280, True), ("phone", 390, False)]
)
async def test_a_browser_shows_it_without_complaint(tmp_path: Path, name: str, width: int, dark: bool):
    async with browser(tmp_path / "b") as tab, served(node()) as url:
        await tab.open(url + "/", width=width, height=844 if width < 600 else 1600, dark=dark)
        await tab.screenshot(PICTURES / f"{name}.png")
        assert await tab.evaluate("document.querySelectorAll('table.gpus tbody tr').length") == 8
        assert await tab.evaluate("document.querySelectorAll('.engine figure svg path.line').length") >= 8
        # Nothing is wider than the screen.
        assert await tab.evaluate("document.documentElement.scrollWidth") == width
        background = await tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background))) < 200) is dark
        assert tab.complaints == []
        assert {address.split("/")[2] for address in tab.requests} == {url.removeprefix("http://")}


CONTRAST = """
(() => {
  const channel = c => (c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const light = rgb => .2126 * channel(rgb[0]) + .7152 * channel(rgb[1]) + .0722 * channel(rgb[2]);
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const poor = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !e.getClientRects().length) continue;
    if (e.closest('svg, .hushed, .skip')) continue;
    let back = e, colour;
    do {
      colour = parse(getComputedStyle(back).backgroundColor);
      back = back.parentElement;
    } while (colour[3] === 0 && back);
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(colour)].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) poor.push(`${e.className}: ${e.textContent.trim().slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return poor;
})()
"""


@pytest.mark.component("chromium")
@pytest.mark.parametrize("dark", [False, True])
async def test_all_text_has_enough_contrast(tmp_path: Path, dark: bool):
    async with browser(tmp_path / "b") as tab, served(node(simulated="Recorded GPUs.")) as url:
        for path in ("/", "/docs"):
            await tab.open(url + path, dark=dark)
            assert await tab.evaluate(CONTRAST) == []  # WCAG 2.2 AA: 4.5 to 1


@pytest.mark.component("chromium")
async def test_the_page_updates_itself_and_says_when_the_agent_is_gone(tmp_path: Path):
    clock = [3_600 * 10**9]
    services = node(boot_ns=lambda: clock[0])
    async with browser(tmp_path / "b") as tab:
        async with served(services) as url:
            await tab.open(url + "/")
            assert await tab.evaluate("document.querySelector('.gpus .value').innerText") == "90\u202f%"
            changed: Any = services.board.gpus
            services.board.gpus = changed.__class__(
                read_at_ns=NOW_NS, driver="ok", gpus=(gpu(0, utilization_ratio=0.11),)
            )
            clock[0] += 2 * FRESH_NS
            await tab.until("document.querySelector('.gpus .value').innerText === '11\u202f%'")
            assert await tab.evaluate("document.getElementById('lost').hidden")
            assert tab.complaints == []
        await tab.until("!document.getElementById('lost').hidden")
        assert await tab.evaluate("document.body.classList.contains('stale')")


@pytest.mark.component("chromium")
async def test_it_can_be_read_without_scripts(tmp_path: Path):
    async with browser(tmp_path / "b") as tab, served(node()) as url:
        await tab.call("Emulation.setScriptExecutionDisabled", value=True)
        await tab.open(url + "/")
        with anyio.fail_after(20):
            loads = tab.loaded
            while tab.loaded == loads:  # the page asks the browser to load it again
                await tab.call("Runtime.evaluate", expression="0")
