"""Cost questions: query parameters → ledger → JSON, CSV or FOCUS. Money is integer nano-units and an exact text."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio.to_thread
import msgspec
from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response, StreamingResponse

from agent.api.access import caller
from agent.api.cost_parameters import ReportParameters, bad, check_currency, own_tenant, read_question
from agent.api.problems import Problem
from agent.api.services import NodeServices
from agent.core.cost.calendar import Calendar
from agent.core.cost.explanation import parts_of, remarks
from agent.core.cost.filter_language import DIMENSIONS
from agent.core.cost.focus import COLUMNS, Focus, FocusNames, questions, unpriced_ns
from agent.core.cost.report_forms import CSV_ROWS, JSON_ROWS, MICRO, csv_text, exact_text, report_csv, report_json
from agent.core.cost.reports import Reconciliation, Report, ReportQuery, RequestCost

__all__ = ["DIMENSIONS", "cost_router"]

NS = 1_000_000_000
CSV = "text/csv; charset=utf-8"
ROWS_AT_ONCE = 500  # of a dataset; made in a thread, so that nobody else waits


class Nothing(BaseModel):
    """For paths that take no query parameter."""

    model_config = ConfigDict(extra="forbid")


def cost_router(node: NodeServices, names: FocusNames | None = None) -> APIRouter:
    """The paths under ``/api/v1/cost``. `names` are those of FOCUS datasets."""
    router = APIRouter(prefix="/api/v1/cost", tags=["Cost"])
    calendar = Calendar(node.time_zone)

    @router.get("/report", summary="GPU time and cost of a window, grouped.", response_class=Response)
    async def report(request: Request, parameters: Annotated[ReportParameters, Query()]) -> Response:
        tenant = own_tenant(caller(request), parameters.tenant)
        now_ns = node.unix_ns()
        asked = read_question(parameters, now_ns, calendar, tenant)
        if parameters.format == "focus":
            focus = Focus(names=names or FocusNames(), node=node.node, calendar=calendar, now_ns=now_ns)
            return await _focus(node, focus, asked.query, parameters.currency)
        found = await node.ledger.report(asked.query)
        check_currency(parameters.currency, found.currency)
        if parameters.format == "csv":
            return await _csv(parameters, found)
        whole = None if asked.shows_idle else await node.ledger.report(asked.whole)
        page = parameters.page(JSON_ROWS)
        return await anyio.to_thread.run_sync(lambda: _json(report_json(asked, found, page, whole)))

    @router.get("/reconcile", summary="Proof that the parts booked equal price x time, per slot, also in joules.")
    async def reconcile(_none: Annotated[Nothing, Query()]) -> Response:
        return _json(reconcile_json(await node.ledger.reconcile()))

    @router.get("/requests/{id}", summary="What one request cost, and of what: part by part.")
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
        return _json(request_json(found))

    @router.get("/prices", summary="Prices in force, and what they are made of.")
    async def prices(_none: Annotated[Nothing, Query()]) -> Response:
        listed = []
        for price in node.prices():
            body = msgspec.to_builtins(price)
            body["per_hour"] = exact_text(price.nano_per_hour)
            for part, values in zip(price.parts, body["parts"], strict=True):
                values["per_hour"] = exact_text(part.nano_per_hour)
            listed.append(body)
        return _json({"source": node.price_source or None, "prices": listed})

    return router


async def _csv(parameters: ReportParameters, found: Report) -> Response:
    page = parameters.page(CSV_ROWS)
    if parameters.limit is None and len(found.rows) > page.offset + page.limit:
        # A CSV file cannot say that it is not whole.
        detail = f"{len(found.rows)} rows are more than the {page.limit} that one CSV answer holds."
        raise Problem(400, "Answer too large", detail, "Aggregate by less, or ask in parts with offset and limit.")
    headers = {"Content-Disposition": 'attachment; filename="engineroom-cost.csv"'}
    headers["X-Engineroom-Rows-Found"] = str(len(found.rows))
    text = await anyio.to_thread.run_sync(report_csv, found, page)  # long ones take seconds
    return Response(text, headers=headers, media_type=CSV)


async def _focus(node: NodeServices, focus: Focus, query: ReportQuery, currency: str | None) -> Response:
    """The dataset, some hours of it in memory at a time. What fails before the first is answered as a problem.

    Later the connection breaks off, which clients see: a dataset that ends early must not look whole.
    """
    whole = await node.ledger.report(msgspec.structs.replace(query, aggregate=("gpu",), edges=()))
    check_currency(currency, whole.currency)
    if whole.currency is None:
        detail = "focus needs prices, and nothing in this window has one"
        raise bad("format", detail, "Add prices under `prices` in the configuration, or ask for csv.")
    asked = questions(query, focus.calendar)
    first = next(asked, None)
    begun = None if first is None else await node.ledger.report(first)

    async def lines() -> AsyncIterator[bytes]:
        yield csv_text([COLUMNS]).encode()
        found = begun
        while found is not None:
            for at in range(0, len(found.rows), ROWS_AT_ONCE):
                rows = focus.rows(found, at, at + ROWS_AT_ONCE)
                yield (await anyio.to_thread.run_sync(csv_text, rows)).encode()
            following = next(asked, None)
            found = None if following is None else await node.ledger.report(following)

    headers = {
        "Content-Disposition": 'attachment; filename="engineroom-focus.csv"',
        "X-Engineroom-Focus-Version": focus.names.version,
        "X-Engineroom-Total": exact_text(whole.total_cost_nano or 0) or "",
    }
    if unpriced_ns(whole):
        headers["X-Engineroom-Unpriced-Gpu-Seconds"] = exact_text(unpriced_ns(whole)) or ""
    return StreamingResponse(lines(), headers=headers, media_type=CSV)


def reconcile_json(found: Reconciliation) -> dict[str, Any]:
    """The proof, with decimal texts, seconds and joules beside the exact integers."""
    body: dict[str, Any] = msgspec.to_builtins(found)
    body["bill"] = exact_text(found.bill_nano)
    for slot, values in zip(found.slots, body["slots"], strict=True):
        values["bill"] = exact_text(slot.bill_nano)
        values["wall_seconds"] = slot.wall_ns / NS
        values["energy_joules"] = None if slot.energy_uj is None else slot.energy_uj / MICRO
        values["metered_seconds"] = slot.metered_ns / NS
        # Of a slot without a meter there is nothing to agree.
        booked = sum(slot.parts_uj.values())
        values["energy_reconciles"] = None if slot.energy_uj is None else booked == slot.energy_uj
    metered = [slot.energy_uj for slot in found.slots if slot.energy_uj is not None]
    body["energy_uj"] = sum(metered) if metered else None
    body["energy_joules"] = sum(metered) / MICRO if metered else None
    return body


def request_json(found: RequestCost) -> dict[str, Any]:
    """The price of one request, its parts, and what to know of them."""
    body: dict[str, Any] = msgspec.to_builtins(found)
    body |= {
        "cost": exact_text(found.cost_nano),
        "gpu_seconds": found.gpu_ns / NS,
        "work_seconds": found.work_ns / NS,
        "energy_joules": None if found.energy_uj is None else found.energy_uj / MICRO,
        "parts": [
            {
                "name": part.name,
                "gpu_ns": part.gpu_ns,
                "gpu_seconds": part.gpu_ns / NS,
                "cost_nano": part.cost_nano,
                "cost": exact_text(part.cost_nano),
                "why": part.why,
            }
            for part in parts_of(found)
        ],
        "remarks": remarks(found),
    }
    if found.price is not None:
        body["price"]["per_hour"] = exact_text(found.price.nano_per_hour)
    return body


def _json(body: Any) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
