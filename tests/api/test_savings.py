"""``/api/v1/cost/savings``: findings over HTTP."""

import threading
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import anyio
import pytest
from fastapi import FastAPI

from agent.api.problems import add_problem_handlers
from agent.api.savings import find_savings, savings_router
from agent.api.savings_sources import SavingsSources
from agent.api.services import NodeServices
from agent.core.cost.reports import Report, ReportQuery
from agent.core.ports import TryLater
from tests.support.api import NOW_NS, node, open_doors, served_app
from tests.support.money_page import RichLedger, rich_node, sources
from tests.support.savings import DAY_NS, HOUR_NS

PATH = "/api/v1/cost/savings"
SECRET = "<script>alert(1)</script>"


def app_of(services: NodeServices, given: SavingsSources) -> FastAPI:
    app = FastAPI()
    add_problem_handlers(app)
    app.include_router(savings_router(services, given))
    return app


@pytest.fixture
async def api() -> AsyncIterator[aiohttp.ClientSession]:
    async with served_app(app_of(rich_node(), sources()), open_doors()) as url, aiohttp.ClientSession(url) as session:
        yield session


async def test_findings_with_their_evidence_and_money(api: aiohttp.ClientSession) -> None:
    async with api.get(PATH) as answer:
        assert answer.status == 200
        body = await answer.json()
    assert (body["currency"], body["covered_seconds"]) == ("CNY", 720 * 3600)
    assert (body["bill_nano"], body["bill"]) == (57_600_000_000_000, "57600.00")
    kinds = [each["kind"] for each in body["findings"]]
    assert set(kinds) >= {
        "allocated_idle", "unallocated", "broken", "gap", "other_workload", "loaded_idle", "cold_prefix", "retries",
        "client_abort", "error", "smaller_hardware",
    }  # fmt: skip
    costs = [each["cost_nano"] or 0 for each in body["findings"]]
    assert costs == sorted(costs, reverse=True)
    held = body["findings"][kinds.index("allocated_idle")]
    assert held["where"] == {"namespace": "lab", "pod": "notebook-anna-0", "gpu": "GPU-4"}
    assert (held["cost"], held["per_month"], held["extrapolated_from_seconds"]) == ("7200.00", "7300.00", 2_592_000)
    assert held["evidence"][0] == {"name": "held", "value": 2_592_000.0, "unit": "gpu_seconds"}
    assert (held["is_waste"], held["is_part_of_bill"], held["limits"]) == (True, True, None)
    assert SECRET in body["findings"][kinds.index("error")]["summary"]  # text: who shows it has to escape it
    assert body["notes"] == ["The first day is kept as a whole only."]
    parts = [each["cost_nano"] for each in body["findings"] if each["is_part_of_bill"] and each["is_waste"]]
    assert body["wasted_parts_nano"] == sum(parts) <= body["bill_nano"]


async def test_the_window_is_the_ledgers(api: aiohttp.ClientSession) -> None:
    async with api.get(PATH, params={"window": "1d"}) as answer:
        window = (await answer.json())["window"]
    assert window == {"start": "2025-11-22T10:40:00.25Z", "end": "2025-11-23T10:40:00.25Z"}


@pytest.mark.parametrize(
    ("params", "says"),
    [({"window": "soon"}, "window: 'soon'"), ({"windows": "30d"}, "windows"), ({"window": "x" * 101}, "window")],
)
async def test_wrong_parameters_are_named(api: aiohttp.ClientSession, params: dict[str, str], says: str) -> None:
    async with api.get(PATH, params=params) as answer:
        assert answer.status in (400, 422)
        assert says in await answer.text()


async def test_a_ledger_that_does_not_answer_is_503() -> None:
    class Failing(RichLedger):
        async def report(self, query: ReportQuery, /) -> Report:
            raise TryLater("the disk is full", 3.0)

    app = app_of(node(ledger=Failing()), SavingsSources())
    async with served_app(app, open_doors()) as url, aiohttp.ClientSession(url) as api, api.get(PATH) as answer:
        assert answer.status == 503
        assert "the disk is full" in await answer.text()
        assert int(answer.headers["Retry-After"]) >= 3


async def test_without_sources_there_are_the_ledgers_findings() -> None:
    with anyio.fail_after(5):
        told = await find_savings(rich_node(), SavingsSources(), NOW_NS - 30 * DAY_NS, NOW_NS)
    kinds = {one.kind for one in told.findings}
    assert {"unallocated", "loaded_idle", "error"} <= kinds
    assert not kinds & {"retries", "preemptions", "smaller_hardware"}
    assert told.covered_ns == 720 * HOUR_NS


async def test_what_the_ledger_covers_is_the_window() -> None:
    class Wider(RichLedger):
        async def report(self, query: ReportQuery, /) -> Report:
            found = await super().report(query)
            return Report(
                query=query,
                currency=found.currency,
                rows=found.rows,
                total_gpu_ns=found.total_gpu_ns,
                total_cost_nano=found.total_cost_nano,
                start_ns=7,
                end_ns=NOW_NS,
            )

    told = await find_savings(rich_node(ledger=Wider()), SavingsSources(), NOW_NS - DAY_NS, NOW_NS)
    assert (told.start_ns, told.end_ns) == (7, NOW_NS)


async def test_the_sources_are_asked_by_the_loops_own_thread() -> None:
    """Some of them learn by being asked; the findings themselves are made in another thread."""
    asked: set[tuple[str, int]] = set()

    def told(name: str) -> Any:
        return lambda *_: asked.add((name, threading.get_ident()))

    given = SavingsSources(constants_of=told("constants"), shape_of=told("shape"), price_of=told("price"))
    await find_savings(rich_node(), given, NOW_NS - DAY_NS, NOW_NS)
    assert asked == {(name, threading.get_ident()) for name in ("constants", "shape", "price")}
