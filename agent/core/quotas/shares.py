"""One limit as one sidecar keeps it: what counts, how much of it is its own; and the bucket of all its limits."""

from agent.core.quotas.policy import Kind, Rule
from agent.core.quotas.windows import MINUTE_NS, NS, Window


class Share:
    """The use of one limit.

    ``concurrent`` counts what is held. ``requests`` and ``tokens`` count what was admitted in the last minute.
    ``money`` counts what is held and what ended since the agent's ledger knew of it last.
    """

    __slots__ = ("allowance", "counts_requests", "elsewhere", "held", "kind", "leased", "limit", "overrun", "peak",
                 "rolls", "wanted", "window")  # fmt: skip

    def __init__(self, kind: Kind, limit: int, settle_ns: int) -> None:
        self.kind = kind
        self.rolls = kind in ("requests", "tokens")
        self.counts_requests = kind in ("requests", "concurrent")
        self.limit = limit  # the whole limit; of money: what the agent said is left
        self.allowance: int | None = None  # what the lease gives; None: no answer named it yet
        self.leased = True  # False: the agent has no lease to give now
        self.elsewhere = 0
        self.held = 0
        self.peak = 0
        self.wanted = 0
        self.overrun = 0  # what requests used beyond their reservation, since the start
        # Of money it does not roll by time alone: only the agent's answer says that the ledger knows.
        self.window = Window(settle_ns if kind == "money" else MINUTE_NS, NS)

    def used(self, now_ns: int) -> int:
        """What counts now."""
        return self.held + (self.window.total(now_ns) if self.rolls else self.window.sum)

    def take(self, amount: int, now_ns: int) -> None:
        """Reserve, under the mark `now_ns` // `NS`."""
        if self.rolls:
            self.window.add(now_ns, amount)
        else:
            self.held += amount
        used = self.held + self.window.sum
        if used > self.peak:
            self.peak = used

    def settle(self, mark: int, reserved: int, actual: int, now_ns: int) -> None:
        """The request has ended and took `actual` in truth."""
        if self.kind == "concurrent":
            self.held -= reserved
            return
        self.overrun += max(0, actual - reserved)
        if self.kind == "money":
            self.held -= reserved
            self.window.add(now_ns, actual)
        elif actual != reserved:
            self.window.change(mark, actual - reserved, now_ns)

    def wait_ns(self, short: int, now_ns: int) -> int | None:
        """How long until so much is free by itself; None when nobody can know."""
        return self.window.wait_ns(now_ns, short) if self.rolls else None

    def claim_numbers(self, now_ns: int) -> tuple[int, int, int]:
        """(used, peak, wanted) for a renewal; the last two begin anew."""
        used = self.used(now_ns)
        numbers = (used, max(used, self.peak), self.wanted)
        self.peak, self.wanted = used, 0
        return numbers


class Bucket:
    """All limits of one rule for one tenant. `open`: requests that are admitted and not done."""

    __slots__ = ("counts", "open", "rule", "shares", "tenant", "touched_ns", "waiting")

    def __init__(self, rule: Rule, tenant: str, settle_ns: int, now_ns: int) -> None:
        self.rule = rule
        self.tenant = tenant
        self.shares = tuple(Share(kind, limit, settle_ns) for kind, limit in rule.limits())
        self.counts: list[int] | None = None  # kept by whoever counts what happens here
        self.open = 0
        self.waiting = 0
        self.touched_ns = now_ns

    def renewed(self, rule: Rule, settle_ns: int) -> None:
        """The same bucket under a changed rule: what counts goes on counting."""
        kept = {share.kind: share for share in self.shares}
        shares = []
        for kind, limit in rule.limits():
            share = kept.get(kind) or Share(kind, limit, settle_ns)
            share.limit = limit if kind != "money" or kind not in kept else min(share.limit, limit)
            shares.append(share)
        self.rule, self.shares = rule, tuple(shares)

    def is_idle(self, now_ns: int, patience_ns: int) -> bool:
        """Nothing counts here, and nobody came for a while."""
        if self.open or self.waiting or now_ns - self.touched_ns < patience_ns:
            return False
        return not any(share.used(now_ns) or share.wanted for share in self.shares)
