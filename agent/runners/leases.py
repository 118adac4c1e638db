"""The agent's desk for quotas: renewals of sidecars in, leases out, with what the ledger knows of money spent.

Sidecars cannot price: they reserve with the provisional price of a token, which is what the ledger settled lately for
the model, divided by its tokens. The ledger's own figures take the place of the estimates after `settle_seconds`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from agent.clock import NS, boot_ns
from agent.core.cost.reports import Dimension, Report, ReportQuery, ReportRow
from agent.core.ports import TryLater
from agent.core.quotas.allocator import Allocator, TooManyHolders
from agent.core.quotas.leases import LeaseAnswer, LeaseRequest
from agent.core.quotas.periods import period_bounds
from agent.core.quotas.policy import Matcher, Policy, Rule, visible_to
from agent.ledger.ledger import CostKey
from agent.runners.spending import Reports, grown, read

log = structlog.get_logger()

REQUEST = "request"
# An output token costs 2.5 input tokens: the ratio OpenCost falls back to where it knows nothing better.
INPUT_WEIGHT, OUTPUT_WEIGHT = 2, 5
PRICE_EVERY_NS = 30 * NS
PRICE_WINDOW_NS = 3600 * NS
FIRST_PRICE_WINDOW_NS = 24 * PRICE_WINDOW_NS
REREAD_NS = 3600 * NS  # the spent amount is summed anew from the ledger, so that no error grows old
FIRST_REREAD_NS = 60 * NS
MILLION = 1_000_000
MAX_VISIBLE = 1000  # tenants whose part of the policy is remembered


class Budgets(Protocol):
    """What the rules that stand for budgets are limited to."""

    def left_nano(self, budget: str, /) -> int | None:
        """What may still be spent; None while nobody knows."""
        ...

    def ends_ns(self, budget: str, /) -> int | None:
        """When its period ends, on the bill's clock; None for rolling windows, and while nobody knows."""
        ...


class LateRenewal(Exception):
    """A newer renewal of the same sidecar was answered already; nobody waits for an answer to this one."""


@dataclass(slots=True)
class _Base:
    """What the ledger had booked for requests in one calendar period when it was read, and the counters of then."""

    start_ns: int
    end_ns: int
    read_ns: int
    currency: str | None
    spent: dict[tuple[str, str], int]  # (tenant, model) -> nano
    counters: Mapping[CostKey, int]


class LeaseDesk:
    """One per agent. `cost_nano` is the settlement's counter, which grows as costs are booked.

    `now_unix_ns` is the bill's clock; leases run on the boot-time clock. `budgets` knows the money of rules that stand
    for budgets; they are in `policy` beside the others.
    """

    def __init__(
        self,
        policy: Policy,
        ledger: Reports,
        cost_nano: Mapping[CostKey, int],
        now_unix_ns: Callable[[], int],
        now_boot_ns: Callable[[], int] = boot_ns,
        budgets: Budgets | None = None,
    ) -> None:
        self.policy = policy
        self.allocator = Allocator(policy, now_boot_ns())
        self.prices: dict[str, tuple[int, int]] = {}
        self.currency = ""
        self._ledger = ledger
        self._cost_nano = cost_nano
        self._unix_ns = now_unix_ns
        self._boot_ns = now_boot_ns
        self._matcher = Matcher(policy)
        self._budgets = budgets
        self._with_money = any(rule.money is not None for rule in policy.rules)
        self._money = [rule for rule in policy.rules if rule.money is not None and not rule.budget]
        self._visible: dict[str | None, tuple[Policy, str]] = {None: (policy, policy.revision)}
        self._bases: dict[tuple[str, str], _Base] = {}
        self._spent: dict[tuple[str, str], int] = {}  # (rule, tenant) -> nano in the period that runs
        self._priced_ns: int | None = None

    def answer(self, sender: str, tenant: str | None, request: LeaseRequest) -> LeaseAnswer:
        """Renew the leases of one sidecar, whose credentials may be limited to a tenant.

        Raises `LateRenewal`, or `TryLater` when too many sidecars ask.
        """
        now_ns = self._boot_ns()
        if self.allocator.is_late(sender, request):
            raise LateRenewal(f"renewal {request.number} came after a newer one")
        try:
            grants = self.allocator.renew(sender, request, now_ns, self._limit)
        except TooManyHolders as error:
            raise TryLater(str(error), self.policy.lease_ns / NS) from error
        sidecars = self.allocator.sidecars(now_ns)
        me = (sender, request.sidecar)
        policy, revision = self._policy_for(tenant)
        return LeaseAnswer(
            number=request.number,
            lease_ns=policy.lease_ns,
            sidecars=max(1, len(sidecars)),
            place=sidecars.index(me) if me in sidecars else 0,
            revision=revision,
            policy=None if request.revision == revision else policy,
            grants=grants,
            prices=self.prices if self._with_money else {},
            currency=self.currency,
            periods=self._periods(policy),
            hurry=self.allocator.hurry,
        )

    def _policy_for(self, tenant: str | None) -> tuple[Policy, str]:
        """What a sidecar may see, and its revision. Making either takes longer than all the rest of an answer."""
        found = self._visible.get(tenant)
        if found is None:
            if len(self._visible) > MAX_VISIBLE:
                self._visible = {None: self._visible[None]}
            policy = visible_to(self.policy, tenant) if tenant is not None else self.policy
            found = self._visible[tenant] = (policy, policy.revision)
        return found

    def _periods(self, policy: Policy) -> dict[str, int]:
        now = self._unix_ns()
        found = {}
        for rule in policy.rules:
            if rule.money is not None:
                end = _bounds(rule, now)[1] if not rule.budget else self._budget_ends_ns(rule)
                if end is not None:
                    found[rule.name] = max(0, end - now)
        return found

    def _budget_ends_ns(self, rule: Rule) -> int | None:
        return None if self._budgets is None else self._budgets.ends_ns(rule.budget)

    def _limit(self, rule: Rule, tenant: str, kind: str) -> int:
        limit = rule.limit(kind) or 0
        if kind != "money":
            return limit
        if rule.budget:
            left = None if self._budgets is None else self._budgets.left_nano(rule.budget)
            return limit if left is None else left
        return max(0, limit - self._spent.get((rule.name, tenant), 0))

    def spent_nano(self, rule: str, tenant: str) -> int:
        """What the ledger booked in the period that runs, as of the last step; `*` for rules over all tenants."""
        return self._spent.get((rule, tenant), 0)

    async def step(self) -> None:
        """Bring spent amounts and prices up to date; called every second. Raises `TryLater` as the ledger does."""
        self.allocator.expire(self._boot_ns())
        if not self._with_money:
            return
        now = self._unix_ns()
        if self._priced_ns is None or now - self._priced_ns >= PRICE_EVERY_NS:
            await self._reprice(now)
        spent: dict[tuple[str, str], int] = {}
        for rule in self._money:
            for (tenant, model), nano in (await self._spent_since(rule, now)).items():
                if nano and rule in self._matcher.rules_for(tenant, model):
                    key = (rule.name, rule.holder(tenant))
                    spent[key] = spent.get(key, 0) + nano
        self._spent = spent

    async def _spent_since(self, rule: Rule, now: int) -> dict[tuple[str, str], int]:
        """(tenant, model) -> nano of the rule's currency since its period began."""
        money = rule.money
        assert money is not None
        key = (money.period, money.time_zone)
        base = self._bases.get(key)
        if base is None or not base.start_ns <= now < base.end_ns or now - base.read_ns >= self._reread_ns(base):
            base = self._bases[key] = await self._read(_bounds(rule, now), now)
        found = dict(base.spent) if base.currency == money.currency else {}
        for (state, tenant, model, currency), nano in grown(base.counters, self._cost_nano):
            if state == REQUEST and currency == money.currency:
                found[tenant, model] = found.get((tenant, model), 0) + nano
        return found

    def _reread_ns(self, base: _Base) -> int:
        # The last seconds of the period before are booked, and counted by the counters, when this one has begun.
        return FIRST_REREAD_NS if base.read_ns - base.start_ns < FIRST_REREAD_NS else REREAD_NS

    async def _read(self, bounds: tuple[int, int], now: int) -> _Base:
        query = ReportQuery(start_ns=bounds[0], end_ns=now + NS, aggregate=("state", "tenant", "model"))
        report, counters = await read(self._ledger, self._cost_nano, query)
        spent = {
            (row.group["tenant"], row.group["model"]): row.cost_nano
            for row in report.rows
            if row.group["state"] == REQUEST and row.cost_nano is not None
        }
        return _Base(*bounds, now, report.currency, spent, counters)

    async def _reprice(self, now: int) -> None:
        """Prices of models that ended requests lately; those of the others stay as they were."""
        window = FIRST_PRICE_WINDOW_NS if self._priced_ns is None else PRICE_WINDOW_NS
        report = await self._report(now - window, now, ("state", "model"))
        for row in report.rows:
            price = token_price(row) if row.group["state"] == REQUEST else None
            if price is not None:
                self.prices[row.group["model"]] = price
        if report.currency != self.currency:
            self.currency = report.currency or ""
            for rule in self.policy.rules:
                if self.currency and rule.money is not None and rule.money.currency != self.currency:
                    log.warning("quota_in_another_currency", rule=rule.name, quota=rule.money.currency,
                                prices=self.currency, consequence="its requests are counted as unpriced")  # fmt: skip
        self._priced_ns = now

    async def _report(self, start_ns: int, end_ns: int, aggregate: tuple[Dimension, ...]) -> Report:
        return await self._ledger.report(ReportQuery(start_ns=start_ns, end_ns=end_ns + NS, aggregate=aggregate))


def token_price(row: ReportRow) -> tuple[int, int] | None:
    """Nano-units for a million input and a million output tokens, so that the row's tokens make the row's cost.

    None while nothing priced has ended. Cached input counts as input: who reserves cannot know what is cached.
    """
    weight = INPUT_WEIGHT * row.input_tokens + OUTPUT_WEIGHT * row.output_tokens
    if row.cost_nano is None or row.cost_nano <= 0 or weight <= 0:
        return None
    per_weight = row.cost_nano * MILLION
    return -(-per_weight * INPUT_WEIGHT // weight), -(-per_weight * OUTPUT_WEIGHT // weight)


def _bounds(rule: Rule, now_ns: int) -> tuple[int, int]:
    assert rule.money is not None
    return period_bounds(rule.money.period, rule.money.time_zone, now_ns)
