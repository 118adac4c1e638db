"""What one sidecar knows of quotas: asks in, tickets or shortfalls out; claims to the agent, its answers back.

Pure. `now_ns` is an instant of one clock that does not go back; the wall clock is asked for nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from agent.core.quotas.leases import MAX_CLAIMS, Claim, LeaseAnswer
from agent.core.quotas.policy import EVERYBODY, Matcher, Policy, Rule
from agent.core.quotas.reservations import Asked, Plan, Price, Reservation, amount_of
from agent.core.quotas.shares import Bucket, Share
from agent.core.quotas.windows import NS

MAX_BUCKETS = 1000
MAX_MODEL = 256  # characters; longer names are in no rule
MAX_FOUND = 4096  # pairs of tenant and model whose rules are remembered
IDLE_NS = 60 * NS
OTHER = "(other)"
"""The tenant that all share who come when there are too many to keep apart."""


class Short(NamedTuple):
    """One limit that a wish does not fit into. `ceiling` is what this sidecar may use of it now."""

    bucket: Bucket
    share: Share
    amount: int
    used: int
    ceiling: int

    @property
    def reclaimable(self) -> bool:
        """Whether it would fit if the other sidecars gave back what they do not use, as far as is known."""
        share = self.share
        if not share.leased:
            return False
        return share.allowance is None or self.used + self.amount <= share.limit - share.elsewhere


class Verdict(NamedTuple):
    """`reservation` None: it does not fit into `short`, which refuse. `ignored` do not fit, in rules that let pass."""

    reservation: Reservation | None
    short: Sequence[Short] = ()
    ignored: Sequence[Short] = ()


class Book:
    """All buckets of one sidecar."""

    def __init__(self, own: Policy) -> None:
        self._own = own
        self.from_agent = False
        self.lease_until_ns: int | None = None
        self.answered_ns: int | None = None
        self.unanswered = False  # the last renewal failed
        self.sidecars, self.place = own.sidecars, own.sidecars - 1
        self.prices: dict[str, tuple[int, int]] = {}
        self.currency = ""  # of the prices
        self.period_ends_ns: dict[str, int] = {}
        self.unpriced = 0  # admitted under a limit of money without a price
        self.overrun: dict[tuple[str, str], int] = {}  # (rule, kind) of buckets that are gone
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._found: dict[tuple[str | None, str | None], Plan] = {}
        self._claimed: list[Share] = []
        self.policy = own
        self._matcher = Matcher(own)

    def install(self, policy: Policy, *, from_agent: bool) -> None:
        """Go on under another policy. What counts in buckets that it still has goes on counting."""
        self.policy, self.from_agent = policy, from_agent
        self._matcher = Matcher(policy)
        self._found.clear()
        rules = {rule.name: rule for rule in policy.rules}
        for key, bucket in list(self._buckets.items()):
            rule = rules.get(key[0])
            if rule is None or rule.together != (bucket.tenant == EVERYBODY):
                self._forget(key)
            else:
                bucket.renewed(rule, policy.settle_ns)

    def in_touch(self, now_ns: int) -> bool:
        """Whether the last lease is still valid."""
        return self.from_agent and self.lease_until_ns is not None and now_ns < self.lease_until_ns

    # On the request path

    def take(self, wish: Asked, now_ns: int) -> Reservation | None:
        """What `judge` does with nearly every request, quickly. None: it does not fit everywhere, ask `judge`."""
        plan = self._found.get((wish.tenant, wish.model)) or self.plan_for(wish, now_ns)
        in_touch = self.in_touch(now_ns)
        cell = now_ns // NS
        price, currency = self.prices.get(wish.model or ""), self.currency
        amounts = []
        for share, rule in plan.limits:
            window = share.window
            if share.rolls and window.at != cell:
                window.total(now_ns)
            amount = 1 if share.counts_requests else amount_of(share, rule, wish, price, currency)
            ceiling = share.allowance
            if ceiling is None or not in_touch:
                ceiling = self.ceiling(rule, share, in_touch=in_touch)
            if not amount or share.held + window.sum + amount > ceiling:
                return None
            amounts.append(amount)
        return self._reserve(plan, wish, amounts, price, now_ns)

    def judge(self, wish: Asked, now_ns: int) -> Verdict:
        """Take what is wished for, or say what is short."""
        plan = self.plan_for(wish, now_ns)
        in_touch = self.in_touch(now_ns)
        price = self.prices.get(wish.model or "")
        short: list[Short] = []
        ignored: list[Short] = []
        amounts = []
        unpriced = False
        for bucket in plan.buckets:
            for share in bucket.shares:
                amount = amount_of(share, bucket.rule, wish, price, self.currency)
                amounts.append(amount)
                unpriced = unpriced or (share.kind == "money" and not amount)
                ceiling = self.ceiling(bucket.rule, share, in_touch=in_touch)
                used = share.used(now_ns)
                if used + amount > ceiling or (amount == 0 and used >= ceiling):
                    found = Short(bucket, share, amount, used, ceiling)
                    (short if bucket.rule.mode == "block" else ignored).append(found)
        if short:
            return Verdict(None, short, ignored)
        self.unpriced += unpriced
        return Verdict(self._reserve(plan, wish, amounts, price, now_ns), (), ignored)

    def _reserve(
        self, plan: Plan, wish: Asked, amounts: Sequence[int], price: Price | None, now_ns: int
    ) -> Reservation:
        for (share, _), amount in zip(plan.limits, amounts, strict=True):
            share.take(amount, now_ns)
        for bucket in plan.buckets:
            bucket.open += 1
            bucket.touched_ns = now_ns
        return Reservation(plan, wish.input_tokens, amounts, now_ns // NS, price, self.currency)

    def want(self, wish: Asked, now_ns: int) -> None:
        """It did not fit: the next claim says how much more is wanted. What can never fit is not."""
        price = self.prices.get(wish.model or "")
        plan = self.plan_for(wish, now_ns)
        for bucket in plan.buckets:
            bucket.touched_ns = now_ns
        for share, rule in plan.limits:
            amount = amount_of(share, rule, wish, price, self.currency)
            if rule.mode == "block" and amount <= share.limit:
                share.wanted += amount

    def ceiling(self, rule: Rule, share: Share, *, in_touch: bool) -> int:
        """What this sidecar may use of a limit now."""
        if in_touch and share.leased:
            if share.allowance is not None:
                return share.allowance
            if rule.mode != "block":
                return share.limit
            if not self.unanswered:
                return 0  # the agent's first word on it is on its way
        if rule.when_agent_away == "open":
            return 1 << 62
        if rule.when_agent_away == "closed":
            return 0
        part, over = divmod(share.limit, self.sidecars)
        return part + (1 if self.place < over else 0)

    def plan_for(self, wish: Asked, now_ns: int) -> Plan:
        """The limits of every rule that holds, made where they are missing."""
        model = wish.model
        if model is not None and len(model) > MAX_MODEL:
            model = None  # no rule names it, and clients must not fill our memory
        found = self._found.get((wish.tenant, model))
        if found is None:
            if len(self._found) >= MAX_FOUND:
                self._found.clear()
            tenant = wish.tenant or ""
            rules = self._matcher.rules_for(tenant, model or "")
            buckets = tuple(self._bucket(rule, rule.holder(tenant), now_ns) for rule in rules)
            limits = tuple((share, bucket.rule) for bucket in buckets for share in bucket.shares)
            found = self._found[wish.tenant, model] = Plan(buckets, limits)
        return found

    def _bucket(self, rule: Rule, tenant: str, now_ns: int) -> Bucket:
        bucket = self._buckets.get((rule.name, tenant))
        if bucket is None and len(self._buckets) >= MAX_BUCKETS and tenant != EVERYBODY:
            self.drop_idle(now_ns, 1)  # not those that were made for this very request
            if len(self._buckets) >= MAX_BUCKETS:
                tenant = OTHER
                bucket = self._buckets.get((rule.name, tenant))
        if bucket is None:
            bucket = self._buckets[rule.name, tenant] = Bucket(rule, tenant, self.policy.settle_ns, now_ns)
        return bucket

    def drop_idle(self, now_ns: int, patience_ns: int = IDLE_NS) -> None:
        """Forget buckets in which nothing counts: the next renewal gives their leases back."""
        idle = [key for key, bucket in self._buckets.items() if bucket.is_idle(now_ns, patience_ns)]
        for key in idle:
            self._forget(key)
        if idle:
            self._found.clear()

    def _forget(self, key: tuple[str, str]) -> None:
        for share in self._buckets.pop(key).shares:
            if share.overrun:
                self.overrun[key[0], share.kind] = self.overrun.get((key[0], share.kind), 0) + share.overrun

    def buckets(self) -> Iterable[Bucket]:
        """All there are."""
        return self._buckets.values()

    # With the agent

    def claims(self, now_ns: int) -> tuple[Claim, ...]:
        """What is in force at this instant, for a renewal; the answer to it goes to `apply`."""
        self._end_periods(now_ns)
        self.drop_idle(now_ns)
        self._claimed = []
        return tuple(self._claims(now_ns)) if self.from_agent else ()

    def _claims(self, now_ns: int) -> Iterator[Claim]:
        in_touch = self.in_touch(now_ns)
        for bucket in self._buckets.values():
            for share in bucket.shares:
                if len(self._claimed) >= MAX_CLAIMS:
                    return
                allowance = min(self.ceiling(bucket.rule, share, in_touch=in_touch), share.limit)
                leased = in_touch and share.leased and share.allowance is not None
                used, peak, wanted = share.claim_numbers(now_ns)
                self._claimed.append(share)
                yield Claim(bucket.rule.name, bucket.tenant, share.kind, used, peak, wanted, allowance, leased)

    def apply(self, answer: LeaseAnswer, sent_ns: int, now_ns: int) -> None:
        """The agent's answer to the claims of `sent_ns`."""
        claimed, self._claimed = self._claimed, []
        self.answered_ns, self.unanswered = now_ns, False
        self.sidecars, self.place = max(1, answer.sidecars), answer.place
        if answer.policy is not None:
            self._take_over(answer.policy)
        if not self.from_agent:
            self.sidecars, self.place = self._own.sidecars, self._own.sidecars - 1
            return
        self.lease_until_ns = sent_ns + answer.lease_ns
        self.prices, self.currency = answer.prices, answer.currency
        self.period_ends_ns = {rule: sent_ns + left for rule, left in answer.periods.items()}
        for share, grant in zip(claimed, answer.grants, strict=False):
            share.allowance = grant.allowance
            share.leased = grant.allowance is not None
            share.elsewhere = grant.elsewhere
            if share.leased:
                share.limit = grant.limit
            if share.kind == "money":
                share.window.total(sent_ns)

    def _take_over(self, policy: Policy) -> None:
        """The agent's rules hold instead of our own, if it has any."""
        if policy.rules:
            self.install(policy, from_agent=True)
        elif self.from_agent:
            self.lease_until_ns = None
            self.install(self._own, from_agent=False)

    def _end_periods(self, now_ns: int) -> None:
        """While the agent is away, a period of money that ends gives the whole limit again, once."""
        for name, end_ns in list(self.period_ends_ns.items()):
            if now_ns < end_ns:
                continue
            del self.period_ends_ns[name]
            for bucket in self._buckets.values():
                if bucket.rule.name == name and bucket.rule.money is not None:
                    for share in bucket.shares:
                        if share.kind == "money":
                            share.limit = bucket.rule.money.nano
                            share.window = type(share.window)(self.policy.settle_ns, NS)
