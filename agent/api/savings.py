"""Where the money goes: ledger reports, engines and statistics of a window → ``/api/v1/cost/savings``."""

from typing import Annotated, Any

import anyio.to_thread
import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from agent.api.numbers import money
from agent.api.problems import Problem, unavailable
from agent.api.savings_sources import SavingsSources
from agent.api.services import NodeServices
from agent.api.times import WINDOW_FORMS, parse_window, rfc3339
from agent.core.cost.evidence import Facts, Finding
from agent.core.cost.fitting_hardware import MEMORY_MIB
from agent.core.cost.reports import Report
from agent.core.cost.savings import Savings, questions, savings
from agent.core.ports import TryLater

NS = 1_000_000_000
DEFAULT_WINDOW = "30d"


class SavingsParameters(BaseModel):
    """Query parameters of the findings."""

    model_config = ConfigDict(extra="forbid")

    window: str = Field(DEFAULT_WINDOW, description=f"Time looked at: {WINDOW_FORMS}.", max_length=100)


def savings_router(node: NodeServices, sources: SavingsSources) -> APIRouter:
    """The path under ``/api/v1/cost``."""
    router = APIRouter(prefix="/api/v1/cost", tags=["Cost"])

    @router.get(
        "/savings",
        summary="Where money goes without need: what, how much, the evidence, and what can be done.",
        response_class=Response,
    )
    async def found(parameters: Annotated[SavingsParameters, Query()]) -> Response:
        try:
            start, end = parse_window(parameters.window, node.unix_ns(), node.time_zone)
        except ValueError as error:
            detail, remedy = f"window: {error}.", "The parameters of this path are listed at /docs."
            raise Problem(400, "Invalid query parameter", detail, remedy) from error
        try:
            told = await find_savings(node, sources, start, end)
        except TryLater as error:
            raise unavailable("Cannot ask the ledger now", error) from error
        return Response(msgspec.json.encode(savings_json(told)), media_type="application/json")

    return router


async def find_savings(node: NodeServices, sources: SavingsSources, start_ns: int, end_ns: int) -> Savings:
    """The findings of a window. Raises `TryLater` when the ledger does not answer."""
    asked = questions(start_ns, end_ns, node.time_zone)
    places = await node.ledger.report(asked["places"])
    requests = await node.ledger.report(asked["requests"])
    hours = await node.ledger.report(asked["hours"])
    facts = Facts(
        start_ns=places.start_ns or asked["places"].start_ns,
        end_ns=places.end_ns or end_ns,
        places=places.rows,
        requests=requests.rows,
        hours=hours.rows,
        currency=places.currency,
        zone=node.time_zone,
        engines=dict(node.board.engines),
        slots=node.slots(),
        statistics=await sources.statistics.counted(start_ns, end_ns),
        observed=sources.observed(start_ns, end_ns),
        **_looked_up(sources, places, requests),
    )
    # Many engines over many hours take a while: not in the loop that closes the books.
    return await anyio.to_thread.run_sync(savings, facts, _notes(places, requests))


def _looked_up(sources: SavingsSources, places: Report, requests: Report) -> dict[str, Any]:
    """What the thread may ask for: the sources belong to the loop's thread, and some of them learn by being asked."""
    pairs = {(row.group["engine"], row.group["model"]) for row in requests.rows if row.group["engine"]}
    models = MEMORY_MIB.keys() | {row.group["gpu_model"] for row in places.rows}
    constants = {pair: sources.constants_of(*pair) for pair in pairs}
    shapes = {pair: sources.shape_of(*pair) for pair in pairs}
    prices = {model: sources.price_of(model) for model in models}
    return {
        "constants_of": lambda engine, model: constants.get((engine, model)),
        "shape_of": lambda engine, model: shapes.get((engine, model)),
        "price_of": prices.get,
    }


def _notes(*reports: Report) -> list[str]:
    return list(dict.fromkeys(note for report in reports for note in report.notes))


def savings_json(told: Savings) -> dict[str, Any]:
    """The answer, with decimal texts beside the exact integers."""
    return {
        "window": {"start": rfc3339(told.start_ns), "end": rfc3339(told.end_ns)},
        "covered_seconds": told.covered_ns / NS,
        "currency": told.currency,
        "bill_nano": told.bill_nano,
        "bill": money(told.bill_nano),
        "gpu_seconds": told.gpu_ns / NS,
        "wasted_parts_nano": told.parts_nano,
        "wasted_parts": money(told.parts_nano),
        "findings": [_finding(one) for one in told.findings],
        "notes": told.notes,
    }


def _finding(one: Finding) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "where": one.where,
        "summary": one.summary,
        "advice": one.advice,
        "evidence": msgspec.to_builtins(one.figures),
        "limits": one.limits or None,
        "is_waste": one.is_waste,
        "is_part_of_bill": one.is_part,
        "gpu_seconds": one.gpu_ns / NS,
        "cost_nano": one.cost_nano,
        "cost": money(one.cost_nano),
        "per_month_nano": one.per_month_nano,
        "per_month": money(one.per_month_nano),
        "extrapolated_from_seconds": one.covered_ns / NS,
        "since": None if one.since_ns is None else rfc3339(one.since_ns),
    }
