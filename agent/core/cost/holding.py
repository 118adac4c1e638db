"""Holders, and engines with the containers they run in, in; the engine to which a slot belongs as its container's, out.

Only for slots of which nobody can say whose processes they are: kubelet's word is all that is left then.
"""

from collections.abc import Mapping

from agent.core.cost.seen import EngineSeen, Held, Place, SlotSeen, belongs
from agent.core.workloads import Workload


def is_hidden(slot: SlotSeen, place: Place, held: Held) -> bool:
    """Whether somebody may be on the slot, and it cannot be told who."""
    if slot.pids is None:
        return slot.evidence not in ("none", "no_memory")
    if not slot.pids:
        return False
    if not held.users_known:
        return True
    workloads = dict(place.users)
    return all(pid in workloads and workloads[pid] is None for pid in slot.pids)


def engines_by_holder(engines: Mapping[str, EngineSeen], held: Held) -> dict[Workload, str]:
    """Holder -> the engine that runs in it, where that is exactly one, and one that no configuration gives GPUs.

    Of an engine whose container is not known nothing is said while several containers of its pod hold slots. One that
    answers without a process of its own is another's, which started it.
    """
    holders = {workload for place in held.places.values() for _, workload in place.holders}
    found: dict[Workload, list[tuple[str, bool]]] = {}
    for name, engine in engines.items():
        mine = [holder for holder in holders if belongs(engine.workload, holder)]
        sure = not engine.gpus and len({holder.container for holder in mine}) == 1
        for holder in mine:
            found.setdefault(holder, []).append((name, sure))
    result = {}
    for holder, candidates in found.items():
        own = [one for one in candidates if engines[one[0]].pids or engines[one[0]].state == "down"] or candidates
        if len(own) == 1 and own[0][1]:
            result[holder] = own[0][0]
    return result
