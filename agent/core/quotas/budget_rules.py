"""Budgets in, the rules by which sidecars keep to them out: money, in scopes that a sidecar can tell at admission."""

from collections.abc import Iterable

import msgspec

from agent.core.cost.budgets import Budget
from agent.core.cost.reports import Term
from agent.core.quotas.policy import DEFAULT, EVERYBODY, MoneyLimit, Policy, Rule

PREFIX = "budget:"  # of rules' names: no rule of a file can have it
KNOWABLE = ("tenant", "model")


def unknowable(budget: Budget) -> str | None:
    """Why a sidecar cannot tell whether a request counts towards this budget, and what to do; None when it can."""
    seen = set()
    for term in budget.scope:
        if term.dimension not in KNOWABLE:
            return (
                f"a sidecar does not know the {term.dimension} of a request before it is served; limit the scope to "
                "tenant and model, or use mode `observe` and its alerts"
            )
        if term.op != "is" or len(term.values) != 1 or term.dimension in seen:
            return (
                f"a sidecar can tell one {term.dimension} by its exact name; write a budget for each, or use mode "
                "`observe` and its alerts"
            )
        if term.values[0] in _RESERVED[term.dimension]:
            return f"`{term.values[0]}` is no {term.dimension}'s name in the rules of sidecars"
        seen.add(term.dimension)
    return None


_RESERVED = {"tenant": (EVERYBODY, DEFAULT), "model": (EVERYBODY,)}


def rule_of(budget: Budget) -> Rule | None:
    """The rule that warns or blocks; None where the mode only watches or `unknowable` has an objection.

    A budget over all tenants is one limit for all of them together; one tenant's is that tenant's own.
    """
    if budget.mode == "observe" or unknowable(budget) is not None:
        return None
    period = f"rolling {budget.period}" if budget.is_rolling else budget.period
    tenant = _value(budget.scope, "tenant")
    return Rule(
        name=PREFIX + budget.name,
        tenant=EVERYBODY if tenant is None else tenant,
        model=_value(budget.scope, "model") or "*",
        together=tenant is None,
        mode=budget.mode,
        money=MoneyLimit(nano=budget.nano, currency=budget.currency, period=period, time_zone=budget.time_zone),
        budget=budget.name,
    )


def with_budgets(policy: Policy, budgets: Iterable[Budget]) -> Policy:
    """The policy with the rules of all budgets after its own: all of them hold."""
    rules = tuple(rule for budget in budgets if (rule := rule_of(budget)) is not None)
    return msgspec.structs.replace(policy, rules=policy.rules + rules)


def _value(scope: Iterable[Term], dimension: str) -> str | None:
    return next((term.values[0] for term in scope if term.dimension == dimension), None)
