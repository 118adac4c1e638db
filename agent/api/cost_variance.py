"""``GET /api/v1/cost/variance``: imported invoices beside our own bill, by local day and SKU."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from agent.api.cost_parameters import LONGEST, bad
from agent.core.cost.calendar import Calendar
from agent.core.cost.report_forms import MAX_ROWS, exact_text
from agent.core.cost.report_windows import WINDOW_FORMS, rfc3339, window_of
from agent.core.cost.variance import Variance, VarianceRow

Variances = Callable[[int, int], Awaitable[Variance]]
"""The variance of the local days that a window [start_ns, end_ns) touches."""


async def nothing_billed(_start_ns: int, _end_ns: int) -> Variance:
    """Where there is no ledger to compare with invoices."""
    return Variance(rows=(), totals=())


DAY_NS = 86_400 * 10**9
LONGEST_DAYS = 3700


class VarianceParameters(BaseModel):
    """Query parameters of the variance."""

    model_config = ConfigDict(extra="forbid")

    window: str = Field("lastmonth", description=f"Whose local days are compared: {WINDOW_FORMS}.", max_length=LONGEST)
    offset: int = Field(0, ge=0, le=MAX_ROWS, description="Rows to leave out at the beginning.")
    limit: int = Field(5_000, ge=1, le=MAX_ROWS, description="Most rows to answer with; totals are of all.")


def variance_router(variance: Variances, unix_ns: Callable[[], int], time_zone: str) -> APIRouter:
    """The path ``/api/v1/cost/variance``. It holds figures of every tenant."""
    router = APIRouter(prefix="/api/v1/cost", tags=["Cost"])
    calendar = Calendar(time_zone)

    @router.get("/variance", summary="Imported invoices beside our own bill, by day and SKU.", response_class=Response)
    async def compare(parameters: Annotated[VarianceParameters, Query()]) -> Response:
        try:
            start_ns, end_ns = window_of(parameters.window, unix_ns(), calendar)
        except ValueError as error:
            raise bad("window", f"{error}", "Days are those of the node's time zone.") from error
        if end_ns - start_ns > LONGEST_DAYS * DAY_NS:
            raise bad("window", f"it is longer than {LONGEST_DAYS} days", "Ask for less at once.")
        # Invoices know whole days only.
        start_ns, end_ns = calendar.day_bounds(start_ns)[0], calendar.day_bounds(max(start_ns, end_ns - 1))[1]
        found = await variance(start_ns, end_ns)
        told = found.rows[parameters.offset : parameters.offset + parameters.limit]
        body = {
            "window": {"start": rfc3339(start_ns), "end": rfc3339(end_ns), "time_zone": time_zone},
            "rows": [_row(row) for row in told],
            "rows_found": len(found.rows),
            "cut": len(told) < len(found.rows),
            "totals": [_row(row) for row in found.totals],
        }
        return Response(msgspec.json.encode(body), media_type="application/json")

    return router


def _row(row: VarianceRow) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.to_builtins(row)
    return body | {
        "billed": exact_text(row.billed_nano),
        "ours": exact_text(row.ours_nano),
        "difference": exact_text(row.difference_nano),
    }
