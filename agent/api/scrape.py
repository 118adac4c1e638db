"""``/metrics``: Prometheus text or OpenMetrics, by what the scraper says it reads."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from agent.api.services import NodeServices

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def wants_open_metrics(accept: str) -> bool:
    """Whether OpenMetrics is accepted at least as gladly as plain text (RFC 9110 quality values)."""
    quality = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for item in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in item.split(";"))
        if kind not in quality:
            continue
        weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            quality[kind] = max(quality[kind], float(weight))
        except ValueError:
            continue
    return 0 < quality["application/openmetrics-text"] >= quality["text/plain"]


def scrape_router(node: NodeServices) -> APIRouter:
    """The path ``/metrics``."""
    router = APIRouter(tags=["Metrics"])

    @router.get("/metrics", summary="Every metric of this node, for Prometheus.", response_class=Response)
    async def metrics(request: Request) -> Response:
        open_metrics = wants_open_metrics(request.headers.get("accept", ""))
        body = node.render_metrics(open_metrics)
        return Response(body, headers={"Vary": "Accept"}, media_type=OPEN_METRICS if open_metrics else TEXT)

    return router
