"""What was seen of a GPU, of engines and of holders in; its slots, each in one state for a reason, out."""

from collections.abc import Mapping
from math import lcm

from agent.core.cost.holding import engines_by_holder, is_hidden
from agent.core.cost.replicas import judge_shares
from agent.core.cost.reports import SlotReason, SlotState
from agent.core.cost.seen import IN_USE, NO_PLACE, EngineSeen, GpuSeen, Held, Place, SlotSeen, belongs
from agent.core.cost.views import Claim, Owner, SlotView, why_owned
from agent.core.readings import EngineState
from agent.core.workloads import Workload

UP: tuple[EngineState, ...] = ("starting", "ready", "not_ready", "unknown_format")
SERVING: tuple[EngineState, ...] = ("ready", "unknown_format")

MOST_SHARES = 256  # a slot that claims more is taken for one: no plugin divides so far


def unwatched(gpu: str, reason: SlotReason = "not_watched") -> tuple[SlotView, ...]:
    """A GPU of which nobody knows anything."""
    return (SlotView(gpu, 1, "gap", reason),)


def missing(gpu: str) -> tuple[SlotView, ...]:
    """A GPU that was looked for and not there."""
    return (SlotView(gpu, 1, "broken", "missing"),)


def judge(
    gpu: GpuSeen, engines: Mapping[str, EngineSeen], held: Held, working: frozenset[str] = frozenset()
) -> tuple[SlotView, ...]:
    """The slots of one GPU; `engines` in the order of their names. Every part of the GPU is in exactly one of them.

    `working`: groups of engines that show work on this node, see `agent.core.cost.groups`.
    """
    if gpu.state is not None:
        return (SlotView(gpu.uuid, 1, gpu.state, gpu.reason),)
    parts = []
    for slot in gpu.slots:
        claims = _claims(gpu, slot, engines, working)
        if not held.known:
            parts.append([_judge_whole(slot, claims, NO_PLACE, held)])
            continue
        place = held.places.get(slot.id, NO_PLACE)
        slot = _without_servers(slot, place)
        given = {} if claims else _given(slot, place, engines, held, working)
        if not 1 < place.replicas <= MOST_SHARES:
            parts.append([_judge_whole(slot, claims or list(given.values()), place, held)])
        else:
            parts.append(judge_shares(slot, claims, place, given))
    scale = lcm(*map(len, parts))
    views = [view._replace(weight=view.weight * scale // len(part)) for part in parts for view in part]
    if gpu.rest:
        views.append(SlotView(gpu.uuid, gpu.rest * scale, "unallocated", "mig_unpartitioned"))
    return tuple(views)


def _owner(name: str, engine: EngineSeen, working: frozenset[str]) -> Owner:
    if not engine.is_worker:
        return Owner(name, engine.state in SERVING, engine.group)
    # Nobody can ask a worker whether it is ready: all that is known is that it still starts.
    return Owner(name, engine.state != "starting", engine.group, (engine.group or name) in working)


def _claims(gpu: GpuSeen, slot: SlotSeen, engines: Mapping[str, EngineSeen], working: frozenset[str]) -> list[Claim]:
    found = []
    for name, engine in engines.items():
        here = engine.pids & slot.pids if slot.pids else frozenset[int]()
        configured = False
        if engine.gpus:
            configured = slot.id in engine.gpus
            if not configured and (gpu.uuid in engine.gpus or str(gpu.number) in engine.gpus):
                # A whole GPU is named that is cut into devices: which one it is, only its process can tell.
                configured = len(gpu.slots) == 1 or bool(here)
            if not configured:
                continue
        elif not here:
            continue
        # Down, but its process is there (it hangs), or its configured slot is in use (it loads its model, and its port
        # is not open yet).
        if engine.state in UP or here or (configured and slot.evidence in IN_USE):
            found.append(Claim(_owner(name, engine, working), configured, here))
    return found


def _given(
    slot: SlotSeen, place: Place, engines: Mapping[str, EngineSeen], held: Held, working: frozenset[str]
) -> dict[Workload, Claim]:
    """Holder of the slot -> the engine that runs in it, where nobody can say whose the processes on the slot are."""
    if not place.holders or not is_hidden(slot, place, held):
        return {}
    found = {}
    names = engines_by_holder(engines, held)
    for _, holder in place.holders:
        name = names.get(holder)
        if name is not None and (engines[name].state in UP or slot.evidence in IN_USE):
            found[holder] = Claim(_owner(name, engines[name], working), False, frozenset())
    return found


def _without_servers(slot: SlotSeen, place: Place) -> SlotSeen:
    if not slot.pids or not place.servers & slot.pids:
        return slot
    left = slot.pids - place.servers
    return slot._replace(pids=left, evidence=slot.evidence if left else "none")


def _judge_whole(slot: SlotSeen, claims: list[Claim], place: Place, held: Held) -> SlotView:
    holders = tuple(workload for _, workload in place.holders)
    if claims:
        owners = tuple(dict.fromkeys(claim.owner for claim in claims))
        return SlotView(slot.id, slot.weight, None, why_owned(owners, _why_claimed(claims)), owners, holders)
    state, reason = _without_engine(slot, place, held)
    return SlotView(slot.id, slot.weight, state, reason, (), holders)


def _why_claimed(claims: list[Claim]) -> SlotReason:
    if any(claim.configured for claim in claims):
        return "configured"
    return "process" if any(claim.pids for claim in claims) else "holding"


def _without_engine(slot: SlotSeen, place: Place, held: Held) -> tuple[SlotState, SlotReason]:
    if slot.evidence in IN_USE:
        return "other_workload", _why_other(slot, place, held)
    if place.holders:
        if slot.evidence == "unseen":
            return "other_workload", "not_seen"  # nothing says that it is idle
        return "allocated_idle", "held_no_process" if slot.evidence == "none" else "held_empty"
    if slot.evidence == "no_memory" and slot.pids:
        return "other_workload", _why_other(slot, place, held)
    if slot.evidence == "unseen":
        return "unallocated", "not_seen"
    return "unallocated", "free" if held.known else "no_process"


def _why_other(slot: SlotSeen, place: Place, held: Held) -> SlotReason:
    offered = held.known and (held.offered is None or slot.id in held.offered)
    if offered and not place.holders:
        return "not_allocated"
    if slot.pids and place.holders:
        workloads = dict(place.users)
        found = [belongs(workloads.get(pid), holder) for pid in slot.pids for _, holder in place.holders]
        if not any(one is None or one for one in found):
            return "not_allocated"  # every process is known, and none of them is a holder's
    match slot.evidence:
        case "memory":
            return "memory"
        case "power":
            return "power"
    return "process"
