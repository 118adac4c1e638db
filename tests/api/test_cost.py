import csv
import io
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.api.cost import DIMENSIONS
from agent.core.cost.reports import Report, ReportQuery
from agent.core.ports import TryLater
from agent.ledger.ledger import Ledger
from tests.support.api import NOW_NS, CannedLedger, node, served

Api = aiohttp.ClientSession


async def test_a_report_holds_exact_money_and_its_text(api: Api):
    async with api.get("/api/v1/cost/report", params={"window": "1h", "aggregate": "state,tenant"}) as answer:
        body = await answer.json()
    assert body["window"] == {"start": "2025-11-23T09:40:00.25Z", "end": "2025-11-23T10:40:00.25Z"}
    assert (body["currency"], body["basis"], body["aggregate"]) == ("CNY", "usage", ["state", "tenant"])
    first = body["rows"][0]
    assert first["group"] == {"state": "request", "tenant": "=1+1"}
    assert (first["gpu_ns"], first["gpu_seconds"]) == (11_808_000_000_000, 11_808.0)
    assert (first["cost_nano"], first["cost"]) == (35_424_000_000_000, "35424.00")
    assert sum(row["cost_nano"] for row in body["rows"]) == body["total"]["cost_nano"]


async def test_without_a_price_money_is_null_and_never_zero():
    async with served(node(ledger=CannedLedger(priced=False))) as url, Api(url) as api:
        async with api.get("/api/v1/cost/report") as answer:
            body = await answer.json()
        assert body["currency"] is body["rows"][0]["cost_nano"] is body["total"]["cost"] is None
        async with api.get("/api/v1/cost/report", params={"format": "csv"}) as answer:
            rows = list(csv.DictReader(io.StringIO(await answer.text())))
        assert {row["cost"] for row in rows} == {""}


async def test_parameters_reach_the_ledger():
    ledger = CannedLedger()
    async with served(node(ledger=ledger)) as url, Api(url) as api:
        asked = {"window": "24h", "aggregate": "model, gpu", "step": "1h", "basis": "allocation"}
        async with api.get("/api/v1/cost/report", params=asked) as answer:
            assert answer.status == 200
    (query,) = ledger.asked
    assert (query.aggregate, query.step_seconds, query.basis) == (("model", "gpu"), 3600, "allocation")
    assert query.end_ns == NOW_NS
    assert query.end_ns - query.start_ns == 86_400 * 10**9


async def test_csv(api: Api):
    async with api.get("/api/v1/cost/report", params={"format": "csv", "aggregate": "tenant"}) as answer:
        assert answer.content_type == "text/csv"
        rows = list(csv.DictReader(io.StringIO(await answer.text())))
    # A tenant name that a spreadsheet would run is quoted.
    assert rows[0]["tenant"] == "'=1+1"
    assert rows[0]["currency"] == "CNY"
    assert int(rows[0]["requests"]) == 48_211


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"window": "soon"}, "yesterday"),
        ({"window": "5,4"}, "earlier"),
        ({"aggregate": "colour"}, ", ".join(DIMENSIONS)),
        ({"aggregate": "state,state"}, "twice"),
        ({"step": "x"}, "not a duration"),
        ({"step": "0.5"}, "whole number"),
        ({"window": "7d", "step": "1s"}, "larger step"),
        ({"basis": "fair"}, "usage or allocation"),
        ({"format": "focus"}, "'focus' is not served here"),
        ({"windw": "1h"}, "Allowed are: window, aggregate, step, basis, format"),
    ],
)
async def test_wrong_parameters_are_told(api: Api, parameters: dict[str, str], says: str):
    async with api.get("/api/v1/cost/report", params=parameters) as answer:
        assert answer.status == 400
        assert answer.content_type == "application/problem+json"
        body = await answer.json(content_type=None)
    assert says in f"{body['detail']} {body['remedy']}"
    assert {"title", "detail", "status", "remedy"} <= set(body)


@pytest.mark.parametrize("path", ["reconcile", "prices", "requests/019ab-known"])
async def test_paths_without_parameters_refuse_any(api: Api, path: str):
    async with api.get(f"/api/v1/cost/{path}?x=1") as answer:
        assert answer.status == 400
        assert (await answer.json(content_type=None))["remedy"] == "Allowed are: none."


async def fetch(api: Api, path: str) -> tuple[int, Any]:
    async with api.get(path) as answer:
        return answer.status, await answer.json(content_type=None)


async def test_reconciliation(api: Api):
    status, body = await fetch(api, "/api/v1/cost/reconcile")
    assert (status, body["reconciles"], body["bill_nano"], body["bill"]) == (200, True, 30, "0.00000003")
    assert body["slots"][0]["wall_seconds"] == 10.0
    assert sum(body["slots"][0]["parts_nano"].values()) == body["slots"][0]["bill_nano"]


async def test_one_request(api: Api):
    status, body = await fetch(api, "/api/v1/cost/requests/019ab-known")
    assert (status, body["cost_nano"], body["cost"], body["gpu_seconds"]) == (200, 4_500_000, "0.0045", 1.5)
    status, body = await fetch(api, "/api/v1/cost/requests/unknown")
    assert (status, body["title"]) == (404, "Unknown request")


async def test_a_ledger_that_cannot_answer_now_says_when_to_ask_again():
    class Busy(CannedLedger):
        async def report(self, query: ReportQuery, /) -> Report:
            raise TryLater("the disk is full", 30)

    async with served(node(ledger=Busy())) as url, Api(url) as api, api.get("/api/v1/cost/report") as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "30")
        assert "the disk is full" in (await answer.json(content_type=None))["detail"]


async def test_the_real_ledger_answers_every_path(tmp_path: Path):
    ledger = await Ledger.open(tmp_path / "ledger.sqlite", "node-a")
    try:
        async with served(node(ledger=ledger)) as url, Api(url) as api:
            for query in ("", "?window=7d&step=1d", f"?aggregate={','.join(DIMENSIONS)}&basis=allocation"):
                status, body = await fetch(api, f"/api/v1/cost/report{query}")
                assert (status, body["rows"], body["total"]["gpu_ns"]) == (200, [], 0)
            status, body = await fetch(api, "/api/v1/cost/reconcile")
            assert (status, body["reconciles"], body["slots"]) == (200, True, [])
            status, _ = await fetch(api, "/api/v1/cost/requests/unknown")
            assert status == 404
            async with api.get("/") as answer:
                assert "Nothing is booked in this window yet." in await answer.text()
    finally:
        ledger.close()


async def test_prices(api: Api):
    _, body = await fetch(api, "/api/v1/cost/prices")
    assert body["source"] == "prices in engineroom.yaml"
    assert body["prices"][0]["per_hour"] == "10.80"
    assert body["prices"][0]["parts"][0]["per_hour"] == "10.80"
