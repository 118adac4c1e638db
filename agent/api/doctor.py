"""``/api/v1/doctor``: what this agent cannot see or do, and what would change that."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from agent.api.services import NodeServices, QueryRefused
from agent.core.doctor import examine
from agent.core.doctor_engines import EngineFacts
from agent.core.findings import Severity
from agent.engines.registry import ENGINES

MEASURED = 'group by (engine) (engineroom_llm_request_duration_seconds_count{source="sidecar"})'

BOUNDS_FLAGS = {engine.kind: engine.bounds_flag for engine in ENGINES if engine.bounds_flag}


class FindingView(BaseModel):
    """One finding."""

    severity: Severity = Field(description="broken, missing (a flag, a right, a mount, a version), or note.")
    subject: str = Field(description="What it is about.")
    text: str = Field(description="What is wrong or not known, and what to do about it.")


def doctor_router(node: NodeServices) -> APIRouter:
    """The path ``/api/v1/doctor``."""
    router = APIRouter(tags=["Health"])

    @router.get("/api/v1/doctor", summary="What this agent cannot see, and which flag, right or setting would open it.")
    async def doctor() -> list[FindingView]:
        board = node.board
        facts = EngineFacts(
            slots=node.slots(), refused=node.refused(), measured_by_sidecar=_measured(node), bounds_flags=BOUNDS_FLAGS
        )
        found = examine(board.gpus, board.workloads, board.engines, node.features(), facts)
        return [FindingView(severity=f.severity, subject=f.subject, text=f.text) for f in found]

    return router


def _measured(node: NodeServices) -> set[str]:
    """Engines whose request durations come from the sidecar now."""
    try:
        lines = node.queries.instant(MEASURED, node.unix_ns() // 1_000_000).lines
    except QueryRefused:
        return set()
    return {line.labels["engine"] for line in lines if "engine" in line.labels}
