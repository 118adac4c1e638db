"""A slot that is shared in equal parts (time-slicing, MPS) in; the state of each part out.

A share belongs to its holder. Which processes are the holder's is told by their workloads. Processes whose workload is
not known are dealt out, engine by engine, over the held shares that have no process of their own.
"""

from collections.abc import Mapping, Sequence

from agent.core.cost.reports import SlotReason, SlotState
from agent.core.cost.seen import IN_USE, Place, SlotSeen, belongs
from agent.core.cost.views import Claim, SlotView, why_owned
from agent.core.workloads import Workload

Party = Claim | None
"""An engine, or (None) processes that are no engine's."""


def judge_shares(
    slot: SlotSeen, claims: Sequence[Claim], place: Place, given: Mapping[Workload, Claim] | None = None
) -> list[SlotView]:
    """One view for each share, in order of their numbers; each with the weight of the whole slot.

    A share's id is the slot's with its number, as the device plugin writes it: ``GPU-...::0``. `given`: holder -> the
    engine that runs in it, where nobody can say whose the processes are.
    """
    given = given or {}
    holders = _by_number(place)
    own = [_own_pids(slot, place, holder) for holder in holders]
    owned = {claim for pids in own for claim in claims if claim.pids & pids}
    left = [claim for claim in claims if claim not in owned]
    strangers = _strangers(slot, place)
    unknown = (slot.pids or frozenset()) - strangers - frozenset().union(*own)
    waiting = [i for i, holder in enumerate(holders) if holder is not None and holder not in given and not own[i]]
    free = [i for i, holder in enumerate(holders) if holder is None]

    parties = _parties(slot, [claim for claim in left if not claim.pids or claim.pids & unknown], unknown)
    outside: list[Party] = [claim for claim in left if claim not in parties]
    if strangers - frozenset().union(*(claim.pids for claim in claims)):
        outside.append(None)
    if not waiting:  # an engine must be somewhere; other processes may well be those of the holders
        outside = [*(claim for claim in parties if claim is not None), *outside]
    dealt = dict(zip(waiting, _deal(parties, len(waiting), repeat=True), strict=True))
    dealt |= dict(zip(free, _deal(outside, len(free), repeat=False), strict=True))

    views = []
    found: Sequence[Party]
    reason: SlotReason
    for i, holder in enumerate(holders):
        if holder is not None and holder in given and not own[i]:
            found, reason = [given[holder]], "holding"
        elif own[i]:
            found = [claim for claim in claims if claim.pids & own[i]] or [None]
            reason = "replica" if found[0] is not None else "process"
        else:
            found, reason = dealt[i], "not_allocated" if holder is None else "split_equal"
        views.append(_view(slot, i, holder, found, reason))
    return views


def _by_number(place: Place) -> list[Workload | None]:
    """Holder of each share. Who has no number, or one that is taken, gets the lowest that is free."""
    shares: list[Workload | None] = [None] * max(place.replicas, len(place.holders))
    unplaced = []
    for number, workload in place.holders:
        if number is not None and number < len(shares) and shares[number] is None:
            shares[number] = workload
        else:
            unplaced.append(workload)
    for workload in unplaced:
        shares[shares.index(None)] = workload
    return shares


def _own_pids(slot: SlotSeen, place: Place, holder: Workload | None) -> frozenset[int]:
    if holder is None or not slot.pids:
        return frozenset()
    return frozenset(pid for pid, user in place.users if pid in slot.pids and belongs(user, holder))


def _strangers(slot: SlotSeen, place: Place) -> frozenset[int]:
    """Processes of which it is known that they are no holder's."""
    workloads = dict(place.users)
    holders = [workload for _, workload in place.holders]
    return frozenset(
        pid
        for pid in slot.pids or ()
        if all(belongs(workloads.get(pid), holder) is False for holder in holders)  # nobody holds: all are strangers
    )


def _parties(slot: SlotSeen, engines: Sequence[Claim], unknown: frozenset[int]) -> list[Party]:
    """Who may be on the shares whose holder has no process of its own."""
    parties: list[Party] = list(engines)
    if any(not claim.pids for claim in engines):
        return parties  # an engine whose processes are not seen: the unknown ones will be its
    rest = unknown - frozenset().union(*(claim.pids for claim in engines))
    if rest or (slot.pids is None and slot.evidence in IN_USE):
        parties.append(None)
    return parties


def _deal(parties: Sequence[Party], places: int, *, repeat: bool) -> list[Sequence[Party]]:
    """Parties over places, in turn; with `repeat` no place stays empty while there is a party."""
    if parties and repeat and len(parties) < places:
        return [[parties[i % len(parties)]] for i in range(places)]
    return [parties[i::places] for i in range(places)]


def _view(slot: SlotSeen, number: int, holder: Workload | None, found: Sequence[Party], reason: SlotReason) -> SlotView:
    id_, holders = f"{slot.id}::{number}", () if holder is None else (holder,)
    owners = tuple(sorted(claim.owner for claim in found if claim is not None))
    if owners:
        return SlotView(id_, slot.weight, None, why_owned(owners, reason), owners, holders)
    state, why = _without_engine(slot, holder, bool(found), reason)
    return SlotView(id_, slot.weight, state, why, (), holders)


def _without_engine(
    slot: SlotSeen, holder: Workload | None, used: bool, reason: SlotReason
) -> tuple[SlotState, SlotReason]:
    if used and not (holder is not None and slot.evidence == "no_memory"):
        return "other_workload", reason
    if holder is None:
        return "unallocated", "free"
    if slot.evidence == "unseen":
        return "other_workload", "not_seen"
    return "allocated_idle", "held_empty" if slot.evidence == "no_memory" else "held_no_process"
