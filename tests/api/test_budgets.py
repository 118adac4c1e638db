from typing import Any

import aiohttp
import pytest
from fastapi import FastAPI

from agent.api.access import NEEDS, Need
from agent.api.budgets import budgets_router, view, visible
from agent.api.gate import Gate
from agent.core.cost.budget_periods import Span
from agent.core.cost.budgets import Burn, Spender, Standing
from agent.core.cost.forecast import Forecast
from agent.doors.identity import Identity
from tests.support.api import open_doors, served_app
from tests.support.budgets import HOUR_NS, NS, budget, ns, term

START, END = ns("2026-11-23T00:00:00+00:00"), ns("2026-11-24T00:00:00+00:00")
ACME = Standing(
    budget=budget(name="acme", nano=2 * NS, scope=(term("tenant", "acme"), term("model", "m", op="starts"))),
    as_of_ns=START + 6 * HOUR_NS,
    span=Span(START, END, END - START),
    spent_nano=2_500_000_000,
    forecast=Forecast(nano=4 * NS, low_nano=3 * NS, high_nano=5 * NS, method="usual", hours=48),
    burns=(Burn(hours=1, ratio=3.5, usual=1.5), Burn(hours=6, ratio=2.0)),
    top=(Spender(tenant="acme", model="m1", state="request", nano=2_000_000_000),),
    notes=("a note",),
)
EMPTY = Standing(budget=budget(name="all"), as_of_ns=START, span=Span(START, END, END - START), spent_nano=None)


def test_one_budget_as_json():
    found = view(ACME).model_dump()
    assert (found["amount"], found["spent"], found["ratio"], found["over_nano"]) == ("2.00", "2.50", 1.25, 500_000_000)
    assert (found["left_nano"], found["levels_reached"], found["elapsed_ratio"]) == (0, [80, 100, 120], 0.25)
    assert found["over_by_20_percent"] == {"actual": True, "forecast": True, "burn": True}
    assert found["forecast"]["low_ratio"] == 1.5
    assert found["burn"][0] == {"hours": 1, "ratio": 3.5, "usual": 1.5}
    assert found["top"][0]["share"] == 0.8
    assert (found["start"], found["end"]) == ("2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z")
    assert found["scope"][1] == {"label": "model", "op": "starts", "values": ["m"]}


def test_what_is_not_known_is_null():
    found = view(EMPTY).model_dump()
    assert found["spent_nano"] is found["spent"] is found["ratio"] is found["left_nano"] is found["forecast"] is None
    assert found["over_by_20_percent"] == {"actual": None, "forecast": None, "burn": None}


def test_who_is_limited_to_a_tenant_sees_budgets_of_that_tenant_alone():
    both = Standing(
        budget=budget(name="both", scope=(term("tenant", "acme", "zeta"),)), as_of_ns=0, span=ACME.span, spent_nano=1
    )
    everything = [ACME, EMPTY, both]
    assert visible(everything, None) == everything
    assert visible(everything, "acme") == [ACME]
    assert visible(everything, "zeta") == []


@pytest.mark.parametrize(("tenant", "names"), [(None, ["acme", "all"]), ("acme", ["acme"]), ("zeta", [])])
async def test_over_http(monkeypatch: pytest.MonkeyPatch, tenant: str | None, names: list[str]):
    monkeypatch.setitem(NEEDS, "/api/v1/cost/budgets", Need(frozenset(("cost",))))  # type: ignore[misc]
    app = FastAPI()
    app.include_router(budgets_router(lambda: [ACME, EMPTY]))
    somebody = Identity(name="t", kind="token", scopes=frozenset(("cost",)), tenant=tenant)
    doors = open_doors(identify=lambda _authorization, _names: somebody)
    app.add_middleware(Gate, doors=doors)
    async with served_app(app, doors) as url, aiohttp.ClientSession(url) as api:
        async with api.get("/api/v1/cost/budgets") as answer:
            body: Any = await answer.json()
        assert [one["name"] for one in body["budgets"]] == names
        async with api.get("/api/v1/cost/budgets?x=1") as answer:
            assert answer.status == 422
