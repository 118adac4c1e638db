import csv
import io
import json
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace
from yarl import URL

from agent.core.cost.filter_language import DIMENSIONS
from agent.core.cost.focus import COLUMNS
from agent.core.cost.reports import SHARED_STATES, Report, ReportQuery, ReportRow, RequestCost, Term
from agent.core.ports import TryLater
from agent.doors.identity import ALL_SCOPES, Identity
from agent.ledger.ledger import Ledger
from tests.support.api import NOW_NS, CannedLedger, node, open_doors, served
from tests.support.ledger import T0, lived, opened
from tests.support.money import NS, HandClock, Sidecar

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
    assert (query.aggregate, query.basis, query.idle) == (("model", "gpu"), "allocation", "model")
    assert len(query.edges) == 24
    assert {edge % (3600 * 10**9) for edge in query.edges} == {0}
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
        ({"step": "x"}, "not a step"),
        ({"step": "0.5"}, "whole number"),
        ({"window": "30d", "step": "1m"}, "larger step"),
        ({"basis": "fair"}, "usage or allocation"),
        ({"format": "parquet"}, "json, csv or focus"),
        (
            {"windw": "1h"},
            "Allowed are: window, aggregate, step, accumulate, accumulateBy, basis",
        ),
        ({"accumulate": "quarter"}, "hour, day, week or month"),
        ({"accumulate": "day", "accumulateBy": "week"}, "contradict"),
        ({"idle": "true", "includeIdle": "false"}, "contradict"),
        ({"idle": "some"}, "true or false"),
        ({"idleByNode": "some"}, "idleByNode"),
        ({"shareIdle": "fairly"}, "false, true, weighted or even"),
        ({"idlePolicy": "lottery"}, "none, model, node, even or owner"),
        ({"filter": 'tenant:"a"|tenant:"b"'}, "is not supported"),
        ({"filter": "tenant:a"}, "double quotes"),
        ({"currency": "USD"}, "this ledger is in CNY"),
        ({"limit": "0"}, "limit"),
        ({"format": "focus", "aggregate": "tenant"}, "Leave out `aggregate`"),
        ({"format": "focus", "step": "1d"}, "Leave out `step`"),
        ({"format": "focus", "basis": "allocation"}, "basis=usage"),
        ({"format": "focus", "limit": "5"}, "Leave out `limit`"),
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


async def fetch_text(api: Api, path: str, **parameters: str) -> tuple[int, str, Any]:
    async with api.get(path, params=parameters) as answer:
        return answer.status, await answer.text(), answer.headers


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


class OneRow(CannedLedger):
    """A ledger whose reports have one row for each step, and twice the cost with idle states."""

    async def report(self, query: ReportQuery, /) -> Report:
        self.asked.append(query)
        bounds = (query.start_ns, *query.edges, query.end_ns)
        idle = 2 if not any(term.dimension == "state" for term in query.filter) else 1
        group = {dimension: "request" if dimension == "state" else "x" for dimension in query.aggregate}
        rows = tuple(
            ReportRow(start_ns=start, end_ns=end, group=group, gpu_ns=10 * idle, cost_nano=7 * idle)
            for start, end in pairwise(bounds)
        )
        return Report(
            query=query,
            currency="CNY",
            rows=rows,
            total_gpu_ns=sum(row.gpu_ns for row in rows),
            total_cost_nano=sum(row.cost_nano or 0 for row in rows),
        )


async def test_the_parameters_of_opencosts_clients_are_understood():
    ledger = OneRow()
    asked = {
        "window": "7d",
        "aggregate": "label:tenant,namespace",
        "accumulate": "false",
        "includeIdle": "true",
        "shareIdle": "weighted",
        "idleByNode": "false",
        "resolution": "1m",
        "filter": 'namespace:"prod","test"+label[model]!:"x"',
        "currency": "cny",
    }
    async with served(node(ledger=ledger)) as url, Api(url) as api:
        status, text, _ = await fetch_text(api, "/api/v1/cost/report", **asked)
    body = json.loads(text)
    assert status == 200
    (query,) = ledger.asked
    assert (query.aggregate, query.basis, query.idle) == (("tenant", "namespace"), "allocation", "node")
    assert query.filter == (Term("namespace", "is", ("prod", "test")), Term("model", "is_not", ("x",)))
    assert len(body["rows"]) == len(query.edges) + 1 == 8
    assert (body["step"], body["idle_policy"]) == ("1d", "node")


async def test_a_plus_that_was_not_percent_encoded_joins_terms_all_the_same():
    ledger = OneRow()
    async with served(node(ledger=ledger)) as url, Api(url) as api:
        path = "/api/v1/cost/report?filter=tenant:%22a%22+pod:%22b%22"
        async with api.get(URL(path, encoded=True)) as answer:
            assert answer.status == 200
    assert [term.dimension for term in ledger.asked[0].filter] == ["tenant", "pod"]


async def test_without_idle_rows_the_answer_says_what_is_left_out():
    ledger = OneRow()
    async with served(node(ledger=ledger)) as url, Api(url) as api:
        status, body = await fetch(api, "/api/v1/cost/report?idle=false")
    assert (status, body["total"]["cost_nano"]) == (200, 7)
    assert body["left_out"] == {
        "states": list(SHARED_STATES),
        "gpu_ns": 10,
        "gpu_seconds": 1e-08,
        "cost_nano": 7,
        "cost": "0.000000007",
    }
    assert "left out" in body["notes"][0]


async def test_a_report_in_the_time_zone_of_the_node():
    ledger = OneRow()
    async with served(node(ledger=ledger, time_zone="Asia/Shanghai")) as url, Api(url) as api:
        _, body = await fetch(api, "/api/v1/cost/report?window=lastmonth&step=1w")
    assert body["window"] == {"start": "2025-09-30T16:00:00Z", "end": "2025-10-31T16:00:00Z"}
    assert body["rows"][1]["start"] == "2025-10-05T16:00:00Z"


async def test_a_long_answer_is_cut_and_says_so():
    async with served(node(ledger=OneRow())) as url, Api(url) as api:
        _, body = await fetch(api, "/api/v1/cost/report?window=7d&step=1h&offset=10&limit=5")
        assert (len(body["rows"]), body["rows_found"], body["cut"]) == (5, 169, True)
        assert body["total"]["cost_nano"] == 169 * 14
        assert "5 of 169 rows" in body["notes"][0]
        async with api.get("/api/v1/cost/report?window=7d&step=1h&offset=10&limit=5&format=csv") as answer:
            assert answer.headers["X-Engineroom-Rows-Found"] == "169"
            assert len((await answer.text()).splitlines()) == 6


async def test_focus():
    ledger = OneRow()
    async with served(node(ledger=ledger)) as url, Api(url) as api:
        asked = {"format": "focus", "window": "yesterday", "filter": 'tenant:"x"'}
        status, text, headers = await fetch_text(api, "/api/v1/cost/report", **asked)
    assert (status, headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
    assert (headers["X-Engineroom-Focus-Version"], headers["X-Engineroom-Total"]) == ("1.2", "0.000000014")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == list(COLUMNS)
    assert len(rows) == 24
    assert {row["BillingPeriodStart"] for row in rows} == {"2025-11-01T00:00:00Z"}
    assert {query.filter for query in ledger.asked} == {(Term("tenant", "is", ("x",)),)}


async def test_focus_reads_some_hours_at_a_time():
    ledger = OneRow()
    async with served(node(ledger=ledger)) as url, Api(url) as api:
        _, text, _ = await fetch_text(api, "/api/v1/cost/report", format="focus", window="lastmonth")
    assert len(text.splitlines()) == 1 + 31 * 24
    assert max(query.end_ns - query.start_ns for query in ledger.asked[1:]) == 6 * 3600 * 10**9


async def test_focus_without_prices_is_refused():
    async with served(node(ledger=CannedLedger(priced=False))) as url, Api(url) as api:
        status, body = await fetch(api, "/api/v1/cost/report?format=focus")
    assert (status, body["detail"]) == (400, "format: focus needs prices, and nothing in this window has one.")


async def test_a_dataset_that_cannot_be_read_to_its_end_does_not_look_whole():
    class Failing(OneRow):
        async def report(self, query: ReportQuery, /) -> Report:
            if len(self.asked) == 3:
                raise TryLater("the disk is gone", 30)
            return await super().report(query)

    async with served(node(ledger=Failing())) as url, Api(url) as api:
        with pytest.raises(aiohttp.ClientPayloadError):
            await fetch_text(api, "/api/v1/cost/report", format="focus", window="lastmonth")


def limited_doors() -> Any:
    caller = Identity(name="acme's token", kind="token", scopes=ALL_SCOPES, tenant="acme")
    return open_doors(identify=lambda _authorization, _names: caller)


@pytest.mark.parametrize("form", ["json", "csv", "focus"])
async def test_a_token_of_one_tenant_gets_reports_of_that_tenant_only(form: str):
    ledger = OneRow()
    async with served(node(ledger=ledger), limited_doors()) as url, Api(url) as api:
        path = f"/api/v1/cost/report?format={form}&window=yesterday"
        for query in ("", "&idle=false", "&filter=tenant:%22rival%22", "&tenant=acme", "&shareIdle=false"):
            async with api.get(path + query) as answer:
                assert answer.status == 200
                await answer.read()
        async with api.get(path + "&tenant=rival") as answer:
            assert answer.status == 403
    assert {query.tenant for query in ledger.asked} == {"acme"}


async def test_a_token_of_one_tenant_sees_its_requests_and_nobodys_proof_or_prices():
    class Two(CannedLedger):
        async def request_cost(self, request_id: str, /) -> RequestCost | None:
            found = await super().request_cost("019ab-known")
            return found and replace(found, tenant=request_id)

    async with served(node(ledger=Two()), limited_doors()) as url, Api(url) as api:
        assert (await fetch(api, "/api/v1/cost/requests/acme"))[0] == 200
        assert (await fetch(api, "/api/v1/cost/requests/rival"))[0] == 404
        for path in ("reconcile", "prices"):
            status, body = await fetch(api, f"/api/v1/cost/{path}")
            assert (status, body["title"]) == (403, "Not allowed")


async def test_one_request_part_by_part(api: Api):
    _, body = await fetch(api, "/api/v1/cost/requests/019ab-known")
    (part,) = body["parts"]
    assert (part["name"], part["cost_nano"], part["cost"], part["gpu_seconds"]) == ("share", 4_500_000, "0.0045", 1.5)
    assert "in flight" in part["why"]


async def test_reconciliation_of_energy():
    class Metered(CannedLedger):
        async def reconcile(self) -> Any:
            found = await super().reconcile()
            good = replace(found.slots[0], energy_uj=30, parts_uj={"request": 10, "loaded_idle": 20}, metered_ns=10**10)
            return replace(found, slots=(found.slots[0], good, replace(good, energy_uj=31)))

    async with served(node(ledger=Metered())) as url, Api(url) as api:
        _, body = await fetch(api, "/api/v1/cost/reconcile")
    assert [slot["energy_reconciles"] for slot in body["slots"]] == [None, True, False]
    assert (body["energy_uj"], body["slots"][1]["metered_seconds"]) == (61, 10.0)


async def test_a_real_ledger_through_the_doors_of_one_tenant(tmp_path: Path):
    ledger = await opened(tmp_path / "ledger.sqlite")
    await lived(ledger, HandClock(T0), 30, Sidecar())
    window = f"{T0 // NS - 60},{T0 // NS + 3600}"
    everything = ReportQuery(start_ns=T0 - 60 * NS, end_ns=T0 + 3600 * NS, aggregate=("tenant",))
    costs = {row.group["tenant"]: row.cost_nano or 0 for row in (await ledger.report(everything)).rows}
    assert costs.keys() == {"", "acme", "zeta"}
    services = node(ledger=ledger, unix_ns=lambda: T0 + 3600 * NS)
    async with served(services, limited_doors()) as url, Api(url) as api:
        for form in ("json", "csv", "focus"):
            parameters = {"window": window, "format": form} | ({"aggregate": "tenant"} if form != "focus" else {})
            status, text, _ = await fetch_text(api, "/api/v1/cost/report", **parameters)
            assert status == 200
            assert "zeta" not in text
            if form == "json":
                assert json.loads(text)["total"]["cost_nano"] == costs["acme"]
            else:
                column = "cost" if form == "csv" else "BilledCost"
                rows = csv.DictReader(io.StringIO(text))
                assert sum(Decimal(row[column]) for row in rows) * NS == costs["acme"]
        own = f"/api/v1/cost/report?window={window}&aggregate=tenant&shareIdle=true&idle=false"
        _, body = await fetch(api, own)
        assert {row["group"]["tenant"] for row in body["rows"]} == {"acme"}
        assert body["total"]["cost_nano"] > costs["acme"]
        _, of_others, _ = await fetch_text(api, "/api/v1/cost/report", window=window, filter='tenant:"zeta"')
        assert json.loads(of_others)["rows"] == []
    ledger.close()
