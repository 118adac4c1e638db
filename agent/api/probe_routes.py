"""The probes' answers on the API's own port."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from agent.api.probes import JSON, PATHS, ProbeName, probe_answer
from agent.lifecycle import Health

SUMMARIES: dict[ProbeName, str] = {
    "livez": "200 unless an essential cycle has stalled.",
    "readyz": "200 once every essential cycle has succeeded, until the agent drains.",
    "startupz": "200 once every essential cycle has succeeded.",
}


def probe_router(health: Health) -> APIRouter:
    """The probes on the API's own port."""
    router = APIRouter(tags=["Probes"])

    def add(path: str, probe: ProbeName) -> None:
        async def answer(request: Request) -> Response:
            as_json = JSON in request.headers.get("accept", "")
            status, kind, body = probe_answer(probe, health, as_json=as_json)
            return Response(body, status, {"Cache-Control": "no-store"}, kind)

        router.add_api_route(path, answer, summary=SUMMARIES[probe], operation_id=probe, response_class=Response)

    for path, probe in PATHS.items():
        add(path, probe)
    return router
