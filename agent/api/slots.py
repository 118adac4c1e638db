"""``/api/v1/slots``: what is handed out of the GPUs, in which state each is right now, and whose it is."""

from collections.abc import Mapping

from fastapi import APIRouter
from pydantic import BaseModel, Field

from agent.api.services import NodeServices
from agent.core.cost.present import PresentSlot
from agent.core.readings import EngineStatus


class WorkloadView(BaseModel):
    """A container of a pod, a container without a pod, or a job; empty where it is not known."""

    namespace: str
    pod: str
    container: str
    job: str


class SlotView(BaseModel):
    """One slot: a whole GPU, a MIG device, one of N shares, or what no MIG device has."""

    gpu: str = Field(description="UUID of the physical GPU.")
    index: int | None = Field(description="NVML's index; null while the GPU is not listed.")
    slot: str = Field(description="UUID of the GPU or of the MIG device; of a share with its number.")
    kind: str = Field(description="gpu, mig, share, or rest.")
    profile: str = Field(description="Profile of a MIG device, such as 1g.10gb.")
    share_ratio: float = Field(description="The slot's part of the GPU's time and price.")
    state: str = Field(description="The state that its time is booked to now.")
    reason: str = Field(description="Why.")
    engines: list[str] = Field(description="Engines that it works for.")
    groups: list[str] = Field(description="Their groups, of those that run over several nodes.")
    roles: list[str] = Field(description="prefill or decode, of engines that do only that part of a service's work.")
    services: list[str] = Field(description="The services that the engines do the work of, where they have a name.")
    holders: list[WorkloadView] = Field(description="Who was given it.")
    memory_total_bytes: int | None
    memory_free_bytes: int | None
    stranded_bytes: int | None = Field(description="Free memory that nobody can have; null where there is none.")
    stranded_cause: str = Field(description="held_free or mig_unpartitioned.")
    simulated: bool


def slots_router(node: NodeServices) -> APIRouter:
    """The path ``/api/v1/slots``."""
    router = APIRouter(tags=["Cost"])

    @router.get("/api/v1/slots", summary="Slots of this node's GPUs: their state right now, why, and whose they are.")
    async def slots() -> list[SlotView]:
        statuses = {name: found.status for name, found in node.board.engines.items()}
        return [_view(slot, statuses) for slot in node.slots()]

    return router


def _view(slot: PresentSlot, statuses: Mapping[str, EngineStatus]) -> SlotView:
    owners = [statuses[name] for name in slot.engines if name in statuses]
    holders = [
        WorkloadView(namespace=one.namespace, pod=one.pod, container=one.container, job=one.job) for one in slot.holders
    ]
    return SlotView(
        gpu=slot.gpu,
        index=slot.index,
        slot=slot.slot,
        kind=slot.kind,
        profile=slot.profile,
        share_ratio=slot.weight / slot.weights,
        state=slot.state,
        reason=slot.reason,
        engines=list(slot.engines),
        groups=list(slot.groups),
        roles=sorted({owner.role for owner in owners if owner.role}),
        services=sorted({owner.service for owner in owners if owner.service}),
        holders=holders,
        memory_total_bytes=slot.memory_total_bytes,
        memory_free_bytes=slot.memory_free_bytes,
        stranded_bytes=slot.stranded_bytes,
        stranded_cause=slot.stranded_cause,
        simulated=slot.simulated,
    )
