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

log = structlog.get_logger()

REQUEST = "request"
# An output token costs 2.5 input tokens: the ratio OpenCost falls back to where it knows nothing better.
INPUT_WEIGHT, OUTPUT_WEIGHT = 2, 5
PRICE_EVERY_NS = 30 * NS
PRICE_WINDOW_NS = 3600 * NS
FIRST_PRICE_WINDOW_NS = 24 * PRICE_WINDOW_NS
REREAD_NS = 3600 * NS  # the spent amount is summed anew from the ledger, so that no error grows old
MILLION = 1_000_000


class Reports(Protocol):
    """The part of the ledger that is asked."""

    async def report(self, query: ReportQuery, /) -> Report: ...


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
    counters: dict[CostKey, int]


class LeaseDesk:
    """One per agent. `cost_nano` is the settlement's counter, which grows as costs are booked.

    `now_unix_ns` is the bill's clock; leases run on the boot-time clock.
    """

    def __init__(
        self,
        policy: Policy,
        ledger: Reports,
        cost_nano: Mapping[CostKey, int],
        now_unix_ns: Callable[[], int],
        now_boot_ns: Callable[[], int] = boot_ns,
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
        self._money = [rule for rule in policy.rules if rule.money is not None]
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
        policy = self.policy if tenant is None else visible_to(self.policy, tenant)
        now_unix = self._unix_ns()
        return LeaseAnswer(
            number=request.number,
            lease_ns=policy.lease_ns,
            sidecars=max(1, len(sidecars)),
            place=sidecars.index(me) if me in sidecars else 0,
            revision=policy.revision,
            policy=None if request.revision == policy.revision else policy,
            grants=grants,
            prices=self.prices if self._money else {},
            currency=self.currency,
            periods={rule.name: _bounds(rule, now_unix)[1] - now_unix for rule in self._money},
            hurry=self.allocator.hurry,
        )

    def _limit(self, rule: Rule, tenant: str, kind: str) -> int:
        limit = rule.limit(kind) or 0
        return max(0, limit - self._spent.get((rule.name, tenant), 0)) if kind == "money" else limit

    def spent_nano(self, rule: str, tenant: str) -> int:
        """What the ledger booked in the period that runs, as of the last step; `*` for rules over all tenants."""
        return self._spent.get((rule, tenant), 0)

    async def step(self) -> None:
        """Bring spent amounts and prices up to date; called every second. Raises `TryLater` as the ledger does."""
        self.allocator.expire(self._boot_ns())
        if not self._money:
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
        if base is None or not base.start_ns <= now < base.end_ns or now - base.read_ns >= REREAD_NS:
            base = self._bases[key] = await self._read(_bounds(rule, now), now)
        found = dict(base.spent) if base.currency == money.currency else {}
        for (state, tenant, model, currency), nano in self._cost_nano.items():
            if state == REQUEST and currency == money.currency:
                grown = nano - base.counters.get((state, tenant, model, currency), 0)
                found[tenant, model] = found.get((tenant, model), 0) + grown
        return found

    async def _read(self, bounds: tuple[int, int], now: int) -> _Base:
        # The counters are of an instant before the ledger's answer: what is booked between counts twice, for an hour
        # at most, rather than never.
        counters = dict(self._cost_nano)
        report = await self._report(bounds[0], now, ("state", "tenant", "model"))
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
            for rule in self._money:
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
