"""``GET /api/v1/cost/tariff``: what each model's requests are charged by, and how that came to be known, as JSON."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from agent.core.cost.constants import TariffView


class _Nothing(BaseModel):
    """This path takes no query parameter."""

    model_config = ConfigDict(extra="forbid")


def tariff_router(views: Callable[[], Sequence[TariffView]]) -> APIRouter:
    """`views` is asked at each request; it answers what `WorkConstants.views` does."""
    router = APIRouter(prefix="/api/v1/cost", tags=["Cost"])

    @router.get("/tariff", summary="What requests are charged by: model shapes, constants, and how they were fitted.")
    async def tariff(_none: Annotated[_Nothing, Query()]) -> Response:
        body = {"models": [tariff_json(view) for view in views()]}
        return Response(msgspec.json.encode(body), media_type="application/json")

    return router


def tariff_json(view: TariffView) -> dict[str, Any]:
    """Every key is always there; null is what is not known. Nanoseconds are those of the whole engine."""
    body: dict[str, Any] = msgspec.to_builtins(view)
    if view.shape is not None:
        body["shape"] = {name: getattr(view.shape, name) for name in view.shape.__struct_fields__}
    return body
