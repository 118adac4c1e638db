"""Over the real port: who gets in where, with which credentials, how often, with how much and for how long."""

import io
import re
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import msgspec
import pytest

from agent.api.access import NEEDS, SMALL_BODY_BYTES
from agent.api.doors import Doors, doors_of
from agent.api.page import FRESH_NS
from agent.core.requests import RecordBatch, RecordReceipt, RequestStarted
from agent.doors.limits import RateLimiter
from agent.doors.settings import LimitSettings
from tests.support.api import NOW_NS, CannedLedger, gpus, node, open_doors, served
from tests.support.callers import GRANTS, KEY, forged, header, settings, token_of
from tests.support.chromium import browser
from tests.support.credentials import basic, bearer, claims

Api = aiohttp.ClientSession

METRICS = {"metrics", "reader", "all"}
COST = {"cost", "reader", "acme", "zeta", "all"}
EVERYBODY = set(GRANTS)
# Written out, and not taken from the table it checks.
MAY: dict[str, set[str]] = {
    "/": {"reader", "all"},
    "/fragment": {"reader", "all"},
    "/docs": EVERYBODY,
    "/openapi.json": EVERYBODY,
    "/metrics": METRICS,
    "/api/v1/query": METRICS,
    "/api/v1/query_range": METRICS,
    "/api/v1/series": METRICS,
    "/api/v1/labels": METRICS,
    "/api/v1/label/{name}/values": METRICS,
    "/api/v1/metadata": METRICS,
    "/api/v1/rules": METRICS,
    "/api/v1/alerts": METRICS,
    "/api/v1/status/buildinfo": METRICS,
    "/api/v1/doctor": METRICS,
    "/api/v1/slots": METRICS,
    "/api/v1/engines": METRICS,
    "/api/v1/cost/report": COST,
    "/api/v1/cost/requests/{id}": COST,
    "/api/v1/cost/reconcile": {"cost", "reader", "all"},
    "/api/v1/cost/prices": {"cost", "reader", "all"},
    "/api/v1/cost/budgets": COST,
    "/api/v1/cost/tariff": {"cost", "reader", "all"},
    "/api/v1/cost/variance": {"cost", "reader", "all"},
    "/api/v1/cost/savings": {"cost", "reader", "all"},
    "/ingest/v1/records": {"ingest", "zeta", "all"},
    "/ingest/v1/leases": {"ingest", "zeta", "all"},
}
OPEN = ("/static/page.css", "/favicon.ico", "/livez", "/readyz", "/startupz")


def asks() -> list[tuple[str, str, str]]:
    """(template, method, address) of every path that is not open."""
    return [
        (path, method, re.sub(r"{\w+}", "019ab-known", path))
        for path, need in NEEDS.items()
        for method in need.methods
        if not need.is_open
    ]


async def refused(api: Api, method: str, path: str, status: int, headers: dict[str, str]) -> dict[str, Any]:
    """The body of a refusal, once it was seen to give nothing away."""
    async with api.request(method, path, headers=headers) as answer:
        assert answer.status == status, (method, path, headers)
        assert answer.headers["Cache-Control"] == "no-store"
        challenges = answer.headers.getall("WWW-Authenticate", [])
        assert [text.partition(" ")[0] for text in challenges] == (["Bearer", "Basic"] if status == 401 else [])
        text = await answer.text()
        if method == "HEAD":
            return {}
        for secret in ("Traceback", "gpu-node-17", str(Path.cwd()), ".py"):
            assert secret not in text
        body = await answer.json(content_type=None)
        prometheus = re.match(r"/api/v1/(?!cost|ingest|doctor|slots|engines)", path)
        wanted = {"status", "errorType", "error"} if prometheus else {"type", "title", "status", "detail", "remedy"}
        assert body.keys() == wanted
        assert answer.content_type == ("application/json" if prometheus else "application/problem+json")
        return body


@pytest.fixture
def doors(tmp_path: Path) -> Doors:
    return doors_of(settings(tmp_path))


def test_the_table_here_is_whole():
    assert {path for path, _, _ in asks()} == MAY.keys()


async def test_nobody_gets_in_without_credentials(doors: Doors):
    async with served(node(), doors) as url, Api(url) as api:
        for _, method, path in asks():
            await refused(api, method, path, 401, {})
        for path in OPEN:
            async with api.get(path) as answer:
                assert answer.status == 200


async def test_no_forged_expired_or_foreign_credentials_get_in_anywhere(doors: Doors):
    async with served(node(), doors) as url, Api(url, max_line_size=1 << 16) as api:
        for what, authorization in forged().items():
            for _, method, path in asks():
                # A token of an account that nobody named is good as such: 403, and in nowhere all the same.
                status = 403 if what == "another account" else 401
                body = await refused(api, method, path, status, {"Authorization": authorization})
                secret = authorization.rpartition(" ")[2]
                assert not secret or secret not in str(body), what


async def test_scopes_open_their_own_paths_and_no_others(doors: Doors):
    async with served(node(), doors) as url, Api(url) as api:
        for name in GRANTS:
            for template, method, path in asks():
                if name in MAY[template]:
                    async with api.request(method, path, headers=header(name)) as answer:
                        # What was asked may be wrong or unknown; it was looked at.
                        assert answer.status in (200, 400, 404, 415), (name, path, answer.status)
                        assert answer.headers["Cache-Control"] == "no-store"
                else:
                    await refused(api, method, path, 403, header(name))


async def test_all_kinds_of_credentials_do(doors: Doors):
    account = {"Authorization": bearer(KEY.sign(claims()))}
    async with served(node(), doors) as url, Api(url) as api:
        async with api.get("/metrics", headers={"Authorization": basic("metrics-0123456789abcdef-metrics")}) as answer:
            assert answer.status == 200
        async with api.post("/ingest/v1/records", headers=account) as answer:
            assert answer.status == 415
        await refused(api, "GET", "/metrics", 403, account)


async def test_two_authorization_headers_are_one_too_many(doors: Doors):
    both = [("Authorization", bearer("x" * 20)), ("Authorization", header("metrics")["Authorization"])]
    async with served(node(), doors) as url, Api(url) as api, api.get("/metrics", headers=both) as answer:
        assert answer.status == 401


@pytest.mark.parametrize("path", ["/nothing", "/api/v1/admin/users", "/metrics/", "//metrics", "/static/", "/docs/x"])
async def test_paths_that_do_not_exist_look_like_others_to_strangers(doors: Doors, path: str):
    async with served(node(), doors) as url, Api() as api:
        address = url + path
        for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE", "TRACE", "QUERY"):
            async with api.request(method, address) as answer:
                assert answer.status == 401
        async with api.get(address, headers=header("ingest")) as answer:
            assert answer.status == 404


async def test_other_methods_need_credentials_too_and_say_which_there_are(doors: Doors):
    async with served(node(), doors) as url, Api(url) as api:
        for method in ("OPTIONS", "PUT", "DELETE", "PATCH", "HEAD", "TRACE", "PROPFIND"):
            async with api.request(method, "/api/v1/query") as answer:
                assert (answer.status, "Allow" in answer.headers) == (401, False)
            async with api.request(method, "/api/v1/query", headers=header("ingest")) as answer:
                assert (answer.status, "Allow" in answer.headers) == (403, False)
            async with api.request(method, "/api/v1/query", headers=header("metrics")) as answer:
                assert (answer.status, answer.headers["Allow"]) == (405, "GET, POST")


# One tenant only


async def test_a_tenants_report_is_asked_for_that_tenant(doors: Doors):
    ledger = CannedLedger()
    path = "/api/v1/cost/report"
    async with served(node(ledger=ledger), doors) as url, Api(url) as api:
        for query in ("", "?tenant=acme", "?format=csv", "?aggregate=tenant", "?basis=allocation&aggregate=gpu"):
            async with api.get(path + query, headers=header("acme")) as answer:
                assert answer.status == 200
        assert [query.tenant for query in ledger.asked] == ["acme"] * 5
        for query in ("?tenant=zeta", "?tenant=", "?tenant=ACME", "?tenant=zeta&format=csv", "?tenant=acme%20"):
            await refused(api, "GET", path + query, 403, header("acme"))
        # Of two, the last counts for the framework: it must be the one that was looked at.
        await refused(api, "GET", path + "?tenant=acme&tenant=zeta", 403, header("acme"))
        assert len(ledger.asked) == 5
        for query, tenant in (("?tenant=zeta", "zeta"), ("", None)):
            async with api.get(path + query, headers=header("cost")) as answer:
                assert (await answer.json())["tenant"] == tenant
            assert ledger.asked[-1].tenant == tenant


async def test_another_tenants_request_is_unknown(doors: Doors):
    async with served(node(), doors) as url, Api(url) as api:
        async with api.get("/api/v1/cost/requests/019ab-known", headers=header("acme")) as answer:
            assert (answer.status, (await answer.json())["tenant"]) == (200, "acme")
        known = await refused(api, "GET", "/api/v1/cost/requests/019ab-known", 404, header("zeta"))
        unknown = await refused(api, "GET", "/api/v1/cost/requests/019ab-other", 404, header("zeta"))
        assert known["detail"].replace("known", "other") == unknown["detail"]
        assert known["remedy"] == unknown["remedy"]


# How often


async def test_too_many_requests_are_told_when_to_come_back():
    doors = open_doors(requests=RateLimiter(0.1, 3))
    async with served(node(), doors) as url, Api(url) as api:
        for _ in range(3):
            async with api.get("/metrics") as answer:
                assert answer.status == 200
        body = await refused(api, "GET", "/api/v1/alerts", 429, {})
        assert body["errorType"] == "too_many_requests"
        async with api.get("/metrics") as answer:
            assert answer.status == 429
            assert 1 <= int(answer.headers["Retry-After"]) <= 10
        other = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
        async with Api(url, connector=other) as elsewhere, elsewhere.get("/metrics") as answer:
            assert answer.status == 200


async def test_guessing_is_slow(tmp_path: Path):
    now = [10**12]
    ours = settings(tmp_path, limits={"failures_per_minute": 6, "failures_burst": 3})
    doors = doors_of(ours)
    doors = Doors(
        identify=doors.identify,
        limits=doors.limits,
        requests=doors.requests,
        failures=doors.failures,
        boot_ns=lambda: now[0],
    )
    wrong = {"Authorization": bearer("wrong-0123456789-wrong")}
    async with served(node(), doors) as url, Api(url) as api:
        for _ in range(3):
            await refused(api, "GET", "/metrics", 401, wrong)
        # Not looked at any more, right or wrong: the answer tells nothing.
        await refused(api, "GET", "/metrics", 429, wrong)
        await refused(api, "GET", "/metrics", 429, header("metrics"))
        await refused(api, "GET", "/metrics", 401, {})  # no guess
        now[0] += 10 * 10**9
        async with api.get("/metrics", headers=header("metrics")) as answer:
            assert answer.status == 200
        await refused(api, "GET", "/metrics", 401, wrong)
        await refused(api, "GET", "/metrics", 429, wrong)


# How much, how long


async def test_bodies_nobody_asked_for_are_bounded_on_every_path():
    async def endless():
        for _ in range(64):
            yield bytes(65_536)

    async with served(node()) as url, Api(url) as api:
        for template, method, path in asks():
            data = io.BytesIO(bytes(NEEDS[template].body_bytes + 1))
            async with api.request(method, path, data=data) as answer:
                assert answer.status == 413, path
        async with api.post("/api/v1/query", data=endless()) as answer:
            assert answer.status in (400, 413)  # by the handler or before it, as the pieces fall
            assert (await answer.json())["errorType"] == "bad_data"
        async with api.get("/metrics", data=bytes(SMALL_BODY_BYTES)) as answer:
            assert answer.status == 200


async def test_max_body_bytes_holds_below_a_paths_own_bound():
    async def endless():
        for _ in range(8):
            yield bytes(1000)

    doors = open_doors(limits=LimitSettings(max_body_bytes=2048))
    async with served(node(), doors) as url, Api(url) as api:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        for data in (bytes(2049), endless()):
            async with api.post("/api/v1/query", data=data, headers=form) as answer:
                assert (answer.status, answer.content_type) == (413, "application/json")
        async with api.post("/api/v1/query", data={"query": "1+1"}) as answer:
            assert answer.status == 200


async def test_an_answer_that_takes_too_long_is_given_up():
    class Slow(CannedLedger):
        async def report(self, query: Any, /) -> Any:
            await anyio.sleep_forever()

    doors = open_doors(limits=LimitSettings(request_timeout_seconds=0.1))
    async with served(node(ledger=Slow()), doors) as url, Api(url) as api:
        body = await refused(api, "GET", "/api/v1/cost/report", 503, {})
        assert "0.1 s" in body["detail"]
        async with api.get("/metrics") as answer:
            assert answer.status == 200


async def test_handlers_know_who_called(doors: Doors):
    senders: list[str] = []

    async def accept(_batch: Any, sender: str, _refused: Any) -> RecordReceipt:
        senders.append(sender)
        return RecordReceipt(accepted_through=1)

    started = RequestStarted(sequence=1, id="r1", upstream="127.0.0.1:8000", path="/v1", started_at_ns=NOW_NS)
    body = msgspec.msgpack.encode(RecordBatch(sidecar="s", epoch=1, sent_at_ns=NOW_NS, events=(started,)))
    kind = {"Content-Type": "application/msgpack"}
    async with served(node(accept=accept), doors) as url, Api(url) as api:
        account = {"Authorization": bearer(KEY.sign(claims(pod="llm-7")))}
        for credentials in (header("ingest"), account):
            async with api.post("/ingest/v1/records", data=body, headers=kind | credentials) as answer:
                assert answer.status == 200
    assert senders == ["token::ingest", "service_account:llm-7:inference/engineroom-sidecar"]


@pytest.mark.component("chromium")
async def test_a_browser_comes_in_with_a_token_as_its_password(tmp_path: Path, doors: Doors):
    clock = [3_600 * 10**9]
    services = node(boot_ns=lambda: clock[0])
    async with browser(tmp_path / "b") as tab, served(services, doors) as url:
        await tab.open(url.replace("//", f"//me:{token_of('reader')}@") + "/")
        assert await tab.evaluate("document.querySelectorAll('table.gpus tbody tr').length") == 8
        # What the page asks for by itself, a second later, comes in too.
        services.board.gpus = gpus(2)
        clock[0] += 2 * FRESH_NS
        await tab.until("document.querySelectorAll('table.gpus tbody tr').length === 2")
        assert tab.complaints == []
