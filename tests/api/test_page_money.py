"""The money part of the page: what it says, and how a browser shows it."""

import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.responses import Response

from agent.api.page import Page
from tests.support.api import node, open_doors, served_app
from tests.support.chromium import browser
from tests.support.money_page import rich_page

PICTURES = Path(__file__).parents[2] / "dist" / "page"


def app_of(page: Page) -> FastAPI:
    """The page, without the rest of the API."""
    app = FastAPI()

    @app.get("/", response_class=Response)
    async def whole() -> Response:
        return Response(await page.whole(), media_type="text/html; charset=utf-8")

    @app.get("/fragment", response_class=Response)
    async def fragment() -> Response:
        return Response(await page.live(), media_type="text/html; charset=utf-8")

    @app.get("/static/{name}", response_class=Response)
    async def static(name: str) -> Response:
        file = page.static.files[name]
        return Response(file.body, media_type=file.kind)

    return app


async def test_everything_of_money_is_on_the_page() -> None:
    html = await rich_page().whole()
    for text in (
        "Parts = bill, to the last nano-unit",
        "the history is too short for a forecast",
        "Tenants today",
        "Models today",
        "Where the money goes",
        "lab/notebook-anna-0 held GPUs",
        "Nothing came from 22:00 to 06:00 (UTC) on any day.",
        "team-search",
    ):
        assert text in html, text
    assert "<script>alert" not in html
    assert html.count("&lt;script&gt;alert(1)") >= 1


async def test_a_node_without_budgets_and_findings_shows_no_empty_tables() -> None:
    html = await Page(node()).whole()
    assert "Budgets" not in html
    assert "Where the money goes" not in html


async def test_money_that_does_not_add_up_is_said_aloud() -> None:
    page = rich_page()
    panel = await page.cost.read()
    assert panel.proof is not None
    panel.proof.holds, panel.proof.text = False, "The parts do not add up to the bill on GPU-0."
    assert 'class="proof bad">The parts do not add up' in await page.whole()


@pytest.mark.component("chromium")
@pytest.mark.parametrize(
    ("name", "width", "dark"), [("desktop", 1280, False), ("dark", 1280, True), ("phone", 390, False)]
)
async def test_a_browser_shows_it_without_complaint(tmp_path: Path, name: str, width: int, dark: bool) -> None:
    async with browser(tmp_path / "b") as tab, served_app(app_of(rich_page()), open_doors()) as url:
        await tab.open(url + "/", width=width, height=844 if width < 600 else 1600, dark=dark)
        await tab.evaluate("document.querySelector('.findings details').open = true")
        await tab.screenshot(PICTURES / f"money-{name}.png")
        assert await tab.evaluate("document.querySelectorAll('.findings li').length") == 8
        assert await tab.evaluate("document.querySelectorAll('.budgets tbody tr').length") == 4
        assert await tab.evaluate("document.documentElement.scrollWidth") == width
        # What the reader has unfolded stays so when the page renews itself.
        await tab.until("performance.getEntriesByType('resource').some(r => r.name.endsWith('/fragment'))")
        assert await tab.evaluate("document.querySelector('.findings details').open")
        assert tab.complaints == []
        assert {re.sub(r"/.*", "", address.removeprefix("http://")) for address in tab.requests} == {
            url.removeprefix("http://")
        }
