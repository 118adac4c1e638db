"""``/api/v1/doctor``: what this agent cannot see or do, and what would change that."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from agent.api.services import NodeServices
from agent.core.doctor import Severity, examine


class FindingView(BaseModel):
    """One finding."""

    severity: Severity = Field(description="broken, missing (a right, a mount, a version), or note.")
    subject: str = Field(description="What it is about.")
    text: str = Field(description="What is wrong or not known, and what to do about it.")


def doctor_router(node: NodeServices) -> APIRouter:
    """The path ``/api/v1/doctor``."""
    router = APIRouter(tags=["Health"])

    @router.get("/api/v1/doctor", summary="What this agent cannot see, and which right or setting would open it.")
    async def doctor() -> list[FindingView]:
        board = node.board
        found = examine(board.gpus, board.workloads, board.engines, node.features())
        return [FindingView(severity=f.severity, subject=f.subject, text=f.text) for f in found]

    return router
