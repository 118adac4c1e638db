from typing import Any

import aiohttp
import pytest
from fastapi import FastAPI

from agent.api.cost_variance import variance_router
from agent.api.problems import add_problem_handlers
from agent.core.cost.invoices import BilledDay
from agent.core.cost.variance import OurDay, Variance, variance
from tests.support.api import NOW_NS, open_doors, served_app


async def answer(query: str, asked: list[tuple[int, int]]) -> tuple[int, Any]:
    async def found(start_ns: int, end_ns: int) -> Variance:
        asked.append((start_ns, end_ns))
        ours = [OurDay(day=f"2025-10-{day:02d}", sku="H100", currency="CNY", nano=1_000_000_000) for day in (1, 2, 3)]
        billed = [
            BilledDay(source="a", day=f"2025-10-{day:02d}", sku="h100", currency="CNY", nano=1_100_000_000)
            for day in (2, 3, 4)
        ]
        return variance(ours, billed)

    app = FastAPI()
    add_problem_handlers(app)
    app.include_router(variance_router(found, lambda: NOW_NS, "Asia/Shanghai"))
    async with (
        served_app(app, open_doors(), None) as url,
        aiohttp.ClientSession(url) as api,
        api.get(f"/api/v1/cost/variance{query}") as said,
    ):
        return said.status, await said.json(content_type=None)


async def test_days_and_totals():
    asked: list[tuple[int, int]] = []
    status, body = await answer("", asked)
    assert status == 200
    assert body["window"] == {
        "start": "2025-09-30T16:00:00Z",
        "end": "2025-10-31T16:00:00Z",
        "time_zone": "Asia/Shanghai",
    }
    assert [(row["day"], row["billed"], row["ours"], row["difference"]) for row in body["rows"]] == [
        ("2025-10-01", None, "1.00", None),
        ("2025-10-02", "1.10", "1.00", "0.10"),
        ("2025-10-03", "1.10", "1.00", "0.10"),
        ("2025-10-04", "1.10", None, None),
    ]
    (total,) = body["totals"]
    assert (total["difference_nano"], round(total["ratio"], 9)) == (200_000_000, 1.1)


async def test_whole_days_are_compared():
    asked: list[tuple[int, int]] = []
    await answer("?window=lasthour", asked)
    ((start_ns, end_ns),) = asked
    assert end_ns - start_ns == 86_400 * 10**9


async def test_pages():
    _, body = await answer("?offset=1&limit=2", [])
    assert ([row["day"] for row in body["rows"]], body["cut"]) == (["2025-10-02", "2025-10-03"], True)


@pytest.mark.parametrize(
    ("query", "says"),
    [("?window=soon", "lastmonth"), ("?window=0,1900000000", "longer than"), ("?wind=1", "window, offset, limit")],
)
async def test_what_is_wrong_is_told(query: str, says: str):
    status, body = await answer(query, [])
    assert status == 400
    assert says in f"{body['detail']} {body['remedy']}"
