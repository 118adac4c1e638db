"""Cost questions: query parameters → ledger → JSON or CSV. Money is integer nano-units and an exact decimal text."""

import csv
import io
from typing import Annotated, Any, get_args

import msgspec
from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from agent.api.access import caller
from agent.api.numbers import money
from agent.api.problems import Problem
from agent.api.services import NodeServices
from agent.api.times import WINDOW_FORMS, parse_duration, parse_window, rfc3339
from agent.core.cost.reports import Dimension, Report, ReportQuery, ReportRow
from agent.doors.identity import Identity

NS = 1_000_000_000
MAX_STEPS = 11_000
DIMENSIONS: tuple[str, ...] = get_args(Dimension)


class Nothing(BaseModel):
    """For paths that take no query parameter."""

    model_config = ConfigDict(extra="forbid")


class ReportParameters(BaseModel):
    """Query parameters of the cost report."""

    model_config = ConfigDict(extra="forbid")

    window: str = Field("today", description=f"Time covered: {WINDOW_FORMS}.")
    aggregate: str = Field("state", description=f"Comma-separated dimensions of a row, of: {', '.join(DIMENSIONS)}.")
    step: str | None = Field(None, description="Length of a bucket, e.g. 1h or 1d; without it one row per group.")
    basis: str = Field("usage", description="`usage` as booked; `allocation` spreads idle time over the requests.")
    format: str = Field("json", description="json or csv.")
    tenant: str | None = Field(None, description="Only what is this tenant's.", max_length=256)


def cost_router(node: NodeServices) -> APIRouter:
    """The paths under ``/api/v1/cost``."""
    router = APIRouter(prefix="/api/v1/cost", tags=["Cost"])

    @router.get("/report", summary="GPU time and cost of a window, grouped.", response_class=Response)
    async def report(request: Request, parameters: Annotated[ReportParameters, Query()]) -> Response:
        tenant = _own_tenant(caller(request), parameters.tenant)
        if parameters.format not in ("json", "csv"):
            raise _bad("format", f"{parameters.format!r} is not served here", "Ask for json or csv.")
        found = await node.ledger.report(report_query(parameters, node.unix_ns(), node.time_zone, tenant))
        if parameters.format == "csv":
            headers = {"Content-Disposition": 'attachment; filename="engineroom-cost.csv"'}
            return Response(report_csv(found), headers=headers, media_type="text/csv; charset=utf-8")
        return _json(report_json(found))

    @router.get("/reconcile", summary="Proof that the parts booked equal price x time, per GPU.")
    async def reconcile(_none: Annotated[Nothing, Query()]) -> Response:
        found = await node.ledger.reconcile()
        body = msgspec.to_builtins(found)
        body["bill"] = money(found.bill_nano)
        for slot, values in zip(found.slots, body["slots"], strict=True):
            values["bill"] = money(slot.bill_nano)
            values["wall_seconds"] = slot.wall_ns / NS
        return _json(body)

    @router.get("/requests/{id}", summary="What one request cost, and of what.")
    async def request_cost(
        request: Request,
        request_id: Annotated[str, Path(alias="id", max_length=64)],
        _none: Annotated[Nothing, Query()],
    ) -> Response:
        found = await node.ledger.request_cost(request_id)
        if found is None or caller(request).tenant not in (None, found.tenant):
            raise Problem(
                404,
                "Unknown request",
                f"No request {request_id!r} is in this node's ledger.",
                "Take the id from the response header the sidecar adds; a request shows up here once it was settled, "
                "within seconds of its end, and until the ledger's retention ends.",
            )
        body = msgspec.to_builtins(found)
        body |= {"cost": money(found.cost_nano), "gpu_seconds": found.gpu_ns / NS}
        return _json(body)

    @router.get("/prices", summary="Prices in force, and what they are made of.")
    async def prices(_none: Annotated[Nothing, Query()]) -> Response:
        listed = []
        for price in node.prices():
            body = msgspec.to_builtins(price)
            body["per_hour"] = money(price.nano_per_hour)
            for part, values in zip(price.parts, body["parts"], strict=True):
                values["per_hour"] = money(part.nano_per_hour)
            listed.append(body)
        return _json({"source": node.price_source or None, "prices": listed})

    return router


def _own_tenant(identity: Identity, asked: str | None) -> str | None:
    """Whose figures the report may hold: None for everybody's. Raises `Problem` for somebody else's."""
    if identity.tenant is None:
        return asked
    if asked not in (None, identity.tenant):
        detail = f"{identity.name} may see one tenant's costs, and {asked!r} is another."
        raise Problem(403, "Not allowed", detail, "Leave out `tenant`, or ask whoever runs this agent.")
    return identity.tenant


def report_query(parameters: ReportParameters, now_ns: int, zone: str, tenant: str | None) -> ReportQuery:
    """The ledger's question, about `tenant` only unless it is None.

    Raises `Problem` that says which parameter is wrong and what would be right.
    """
    try:
        start, end = parse_window(parameters.window, now_ns, zone)
    except ValueError as error:
        raise _bad("window", str(error)) from error
    dimensions = tuple(part.strip() for part in parameters.aggregate.split(",") if part.strip())
    for dimension in dimensions:
        if dimension not in DIMENSIONS:
            raise _bad("aggregate", f"{dimension!r} is no dimension", f"Dimensions are: {', '.join(DIMENSIONS)}.")
    if len(set(dimensions)) < len(dimensions):
        raise _bad("aggregate", f"{parameters.aggregate!r} names a dimension twice", "Name each dimension once.")
    if parameters.basis not in ("usage", "allocation"):
        raise _bad("basis", f"{parameters.basis!r} is no basis", "Ask for usage or allocation.")
    query = {"start_ns": start, "end_ns": end, "aggregate": dimensions, "basis": parameters.basis, "tenant": tenant}
    return msgspec.convert({**query, "step_seconds": _step(parameters.step, end - start)}, ReportQuery)


def _step(text: str | None, window_ns: int) -> int | None:
    if text is None:
        return None
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise _bad("step", str(error)) from error
    if seconds < 1 or seconds != int(seconds):
        raise _bad("step", f"{text!r} is not a whole number of seconds, at least 1", "Write 60, 5m, 1h or 1d.")
    if window_ns / NS / seconds > MAX_STEPS:
        raise _bad("step", f"{text!r} cuts the window into more than {MAX_STEPS} parts", "Choose a larger step.")
    return int(seconds)


def report_json(report: Report) -> dict[str, Any]:
    """The report with seconds and decimal texts beside the exact integers."""
    query = report.query
    return {
        "window": {"start": rfc3339(query.start_ns), "end": rfc3339(query.end_ns)},
        "aggregate": query.aggregate,
        "basis": query.basis,
        "step_seconds": query.step_seconds,
        "tenant": query.tenant,
        "currency": report.currency,
        "rows": [_row(row) for row in report.rows],
        "total": {
            "gpu_ns": report.total_gpu_ns,
            "gpu_seconds": report.total_gpu_ns / NS,
            "cost_nano": report.total_cost_nano,
            "cost": money(report.total_cost_nano),
        },
    }


def _row(row: ReportRow) -> dict[str, Any]:
    return {
        "start": rfc3339(row.start_ns),
        "end": rfc3339(row.end_ns),
        "group": row.group,
        "gpu_ns": row.gpu_ns,
        "gpu_seconds": row.gpu_ns / NS,
        "cost_nano": row.cost_nano,
        "cost": money(row.cost_nano),
        "requests": row.requests,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
    }


def report_csv(report: Report) -> str:
    """One line per row; an unknown cost is an empty cell. Names come from outside: see `_cell`."""
    out = io.StringIO()
    writer = csv.writer(out)
    dimensions = list(report.query.aggregate)
    writer.writerow(
        ["start", "end", *dimensions, "gpu_seconds", "cost", "currency", "requests", "input_tokens", "output_tokens"]
    )
    for row in report.rows:
        names = [_cell(row.group.get(dimension, "")) for dimension in dimensions]
        seconds = money(row.gpu_ns)  # nanoseconds → exact decimal seconds
        cost = money(row.cost_nano) or ""
        counts = [row.requests, row.input_tokens, row.output_tokens]
        writer.writerow([rfc3339(row.start_ns), rfc3339(row.end_ns), *names, seconds, cost, report.currency, *counts])
    return out.getvalue()


def _cell(text: str) -> str:
    """A tenant or model name that a spreadsheet would run as a formula gets an apostrophe in front (CWE-1236)."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _bad(parameter: str, detail: str, remedy: str = "The parameters of this path are listed at /docs.") -> Problem:
    return Problem(400, "Invalid query parameter", f"{parameter}: {detail}.", remedy)


def _json(body: Any) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
