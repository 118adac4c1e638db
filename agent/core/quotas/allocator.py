"""The agent's side of leases: claims of sidecars in, slices of each limit out. The slices never sum to more than it.

Proof. `committed` of a holder is at any instant at least what the holder may admit up to and what it has counted:
after a renewal it is the largest of what the holder reports to be in force, what it has used, and what it is granted;
a grant is at most limit - sum(committed of the others). So the sum of what counts is at most the limit, as long as
every holder is in touch. A holder that is not heard for `lease_ns` has stopped using its slice before (it counts from
the instant it sent). What a rate's holder had admitted until then stays committed for the length of the window.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from agent.core.quotas.leases import Claim, Grant, LeaseRequest
from agent.core.quotas.policy import Policy, Rule
from agent.core.quotas.windows import MINUTE_NS, NS

Holder = tuple[str, str, int]  # sender, sidecar, epoch
PoolKey = tuple[str, str, str]  # rule, tenant, kind
ROTATE_NS = 2 * NS  # how long whose turn it is has the first choice
MAX_HOLDERS = 256

LimitOf = Callable[[Rule, str, str], int]
"""(rule, tenant, kind) -> the limit in force now."""


class TooManyHolders(Exception):
    """More sidecars ask than are kept apart."""


@dataclass(slots=True)
class _Part:
    """One holder's part of a pool."""

    used: int = 0
    committed: int = 0
    desire: int = 0
    unmet: bool = False
    gone_ns: int | None = None  # when its lease ended without a word of it


@dataclass(slots=True)
class _Pool:
    residue_ns: int  # how long it counts what a holder had, after its lease has ended
    parts: dict[Holder, _Part] = field(default_factory=dict)

    def renew(self, holder: Holder, claim: Claim, limit: int, now_ns: int, *, growing: bool) -> Grant:
        """Split anew, with what `holder` says. Without `growing` nobody gets more than is in force."""
        part = self.parts.setdefault(holder, _Part())
        part.used, part.gone_ns = claim.used, None
        part.desire = max(claim.used, claim.peak) + claim.wanted
        in_force = max(claim.allowance, claim.used)
        room = limit - sum(other.committed for key, other in self.parts.items() if key != holder)
        target = self._target(holder, limit, now_ns)
        allowance = max(0, min(target, room if growing else min(room, claim.allowance)))
        part.committed = max(in_force, allowance)
        part.unmet = allowance < part.desire
        return Grant(allowance, self._elsewhere(holder), limit)

    def _target(self, holder: Holder, limit: int, now_ns: int) -> int:
        """What the holder should have, once the others have given back what is too much.

        When it is not enough for all, whoever's turn it is gets first what nobody uses, and the rest is split evenly:
        even parts of it alone could each be too small for a single request, for ever.
        """
        live = {key: part for key, part in self.parts.items() if part.gone_ns is None}
        limit = max(0, limit - sum(part.committed for part in self.parts.values() if part.gone_ns is not None))
        hungry = sorted(key for key, part in live.items() if part.desire > part.used)
        turn = _scattered(now_ns // ROTATE_NS)
        if hungry and sum(part.desire for part in live.values()) > limit:
            first = hungry[turn % len(hungry)]
            first_part = live.pop(first)
            head = min(first_part.desire, max(0, limit - sum(part.used for part in live.values())))
            if holder == first:
                return head
            limit -= head
        own = live.pop(holder).desire
        return fair_part(limit, own, [part.desire for part in live.values()], turn % (len(live) + 1))

    def _elsewhere(self, holder: Holder) -> int:
        return sum(part.used for key, part in self.parts.items() if key != holder)

    def watch(self, holder: Holder, claim: Claim, limit: int) -> Grant:
        """For rules that refuse nothing: no slices, only what counts elsewhere."""
        elsewhere = self._elsewhere(holder)
        self.parts[holder] = _Part(used=claim.used, committed=claim.used)
        return Grant(max(0, limit - elsewhere), elsewhere, limit)

    def leave(self, holder: Holder, ended_ns: int, now_ns: int) -> None:
        """The holder's lease ended at `ended_ns`."""
        part = self.parts.get(holder)
        if part is None:
            return
        part.desire, part.unmet = 0, False
        if part.gone_ns is None:
            part.gone_ns = ended_ns
        if not part.committed or now_ns >= part.gone_ns + self.residue_ns:
            del self.parts[holder]

    def waits(self, without: Holder) -> bool:
        """Whether anybody else wants more than it got."""
        return any(part.unmet for key, part in self.parts.items() if key != without)


def fair_part(limit: int, own: int, others: Iterable[int], turn: int = 0) -> int:
    """What one of several gets of `limit`: its desire and a part of the spare, or its max-min fair part.

    Of the spare one part stays unassigned, for whoever needs more first; who is alone gets all. `turn` is its place
    in the row for single units that cannot be divided.
    """
    desires = sorted([own, *others])
    count = len(desires)
    spare = limit - sum(desires)
    if spare >= 0:
        return own + (spare if count == 1 else spare // (count + 1))
    left = limit
    for desire in desires:
        level, over = divmod(left, count)
        if desire > level:
            return own if own <= level else level + (1 if turn < over else 0)
        left -= desire
        count -= 1
    return own


def _scattered(turn: int) -> int:
    """Numbers in an order that has no rhythm: turns in a row would always fall on the same part of a minute's window.

    Multiplication by 2^64 / golden ratio (Knuth, The Art of Computer Programming, 6.4).
    """
    return (turn * 0x9E3779B97F4A7C15 & 0xFFFF_FFFF_FFFF_FFFF) >> 33


class Allocator:
    """All pools. Pure: `now_ns` is an argument, of any clock that does not go back."""

    def __init__(self, policy: Policy, started_ns: int) -> None:
        self.policy = policy
        self._rules = {rule.name: rule for rule in policy.rules}
        self._started_ns = started_ns
        self._pools: dict[PoolKey, _Pool] = {}
        self._heard: dict[Holder, tuple[int, int]] = {}  # number of the last renewal, when its lease ends
        self._holds: dict[Holder, set[PoolKey]] = {}
        self.hurry = False

    @property
    def holders(self) -> int:
        """Starts of sidecars that hold a lease, or held one a moment ago."""
        return len(self._heard)

    def starting(self, now_ns: int) -> bool:
        """Whether leases of an agent before this one may still be in force."""
        return now_ns < self._started_ns + self.policy.lease_ns

    def sidecars(self, now_ns: int) -> list[tuple[str, str]]:
        """(sender, name) of those that hold leases now, in order."""
        return sorted({holder[:2] for holder, (_, until) in self._heard.items() if now_ns < until})

    def is_late(self, sender: str, request: LeaseRequest) -> bool:
        """Whether a newer renewal of the same start was answered already."""
        heard = self._heard.get((sender, request.sidecar, request.epoch))
        return heard is not None and request.number <= heard[0]

    def renew(self, sender: str, request: LeaseRequest, now_ns: int, limit_of: LimitOf) -> tuple[Grant, ...]:
        """Grants in the order of the claims. Raises `TooManyHolders`. Late renewals must not get here."""
        self.expire(now_ns)
        holder = (sender, request.sidecar, request.epoch)
        if holder not in self._heard and len(self._heard) >= MAX_HOLDERS:
            raise TooManyHolders(f"{MAX_HOLDERS} sidecars share the limits of this agent already")
        self.hurry = False
        if request.leaving:
            self._leave(holder, request)
            self._end(holder, now_ns, now_ns)
            return ()
        self._heard[holder] = (request.number, now_ns + self.policy.lease_ns)
        names = {(claim.rule, claim.tenant, claim.kind) for claim in request.claims}
        for key in self._holds.get(holder, set()) - names:
            self._release(key, holder, now_ns)
        self._holds[holder] = names
        return tuple(self._grant(holder, claim, now_ns, limit_of) for claim in request.claims)

    def _grant(self, holder: Holder, claim: Claim, now_ns: int, limit_of: LimitOf) -> Grant:
        rule = self._rules.get(claim.rule)
        if rule is None or rule.limit(claim.kind) is None:
            self._holds[holder].discard((claim.rule, claim.tenant, claim.kind))
            return Grant(None, 0, 0)  # a rule that is no more
        key = (claim.rule, claim.tenant, claim.kind)
        limit = limit_of(rule, claim.tenant, claim.kind)
        pool = self._pools.get(key)
        if pool is None:
            residues = {"concurrent": 0, "money": self.policy.settle_ns}
            pool = self._pools[key] = _Pool(residues.get(claim.kind, MINUTE_NS + NS))
        if rule.mode != "block":
            return pool.watch(holder, claim, limit)
        starting = self.starting(now_ns)
        grant = pool.renew(holder, claim, limit, now_ns, growing=not starting)
        if starting and not claim.leased:
            # What leases an agent before this one gave to others is not known yet.
            return Grant(None, grant.elsewhere, limit)
        if grant.allowance is not None and grant.allowance < claim.allowance and pool.waits(holder):
            self.hurry = True
        return grant

    def _leave(self, holder: Holder, request: LeaseRequest) -> None:
        """It admits nothing more: what it had and did not use is free at once."""
        used = {(claim.rule, claim.tenant, claim.kind): claim.used for claim in request.claims}
        for key in self._holds.get(holder, ()):
            pool = self._pools.get(key)
            if pool is not None and holder in pool.parts:
                pool.parts[holder].committed = used.get(key, 0)

    def expire(self, now_ns: int) -> None:
        """End the leases that were not renewed, and forget what does not count any more."""
        residue = max(MINUTE_NS + NS, self.policy.settle_ns)
        for holder, (_, until) in list(self._heard.items()):
            if now_ns >= until:
                self._end(holder, until, now_ns, forget=now_ns >= until + residue)

    def _end(self, holder: Holder, ended_ns: int, now_ns: int, *, forget: bool = False) -> None:
        for key in list(self._holds.get(holder, ())):
            self._release(key, holder, now_ns, ended_ns)
        if forget or not self._holds.get(holder):
            self._holds.pop(holder, None)
            self._heard.pop(holder, None)

    def _release(self, key: PoolKey, holder: Holder, now_ns: int, ended_ns: int | None = None) -> None:
        pool = self._pools.get(key)
        if pool is not None:
            if ended_ns is None:
                pool.parts.pop(holder, None)  # it says itself that nothing of it counts any more
            else:
                pool.leave(holder, ended_ns, now_ns)
            if holder in pool.parts:
                return
            if not pool.parts:
                del self._pools[key]
        self._holds.get(holder, set()).discard(key)
