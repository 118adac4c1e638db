import pytest

from agent.core.cost.budgets import Budget
from agent.core.quotas.budget_rules import rule_of, unknowable, with_budgets
from agent.core.quotas.policy import Matcher, MoneyLimit, visible_to
from tests.support.budgets import budget, term
from tests.support.quotas import policy, rule

ACME = budget(name="acme", mode="block", period="quarter", scope=(term("tenant", "acme"),))
BIG = budget(name="big", mode="warn", period="7d", scope=(term("model", "big"),))


def test_budgets_become_rules_about_money():
    first, second = rule_of(ACME), rule_of(BIG)
    assert first
    assert second
    assert (first.name, first.tenant, first.model, first.together) == ("budget:acme", "acme", "*", False)
    assert (second.tenant, second.model, second.together, second.mode) == ("*", "big", True, "warn")
    assert list(first.limits()) == [("money", 1000)]
    assert second.money == MoneyLimit(nano=1000, currency="CNY", period="rolling 7d")
    nameless = rule_of(budget(mode="block", scope=(term("tenant", ""),)))
    assert nameless
    assert (nameless.tenant, nameless.together) == ("", False)
    assert rule_of(budget(mode="observe")) is None


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (budget(scope=(term("namespace", "x"),)), "does not know the namespace"),
        (budget(scope=(term("gpu_model", "x"),)), "does not know the gpu_model"),
        (budget(scope=(term("tenant", "a", "b"),)), "a budget for each"),
        (budget(scope=(term("tenant", "a", op="starts"),)), "exact name"),
        (budget(scope=(term("model", "a"), term("model", "b"))), "exact name"),
        (budget(scope=(term("tenant", "default"),)), "no tenant's name"),
        (budget(scope=(term("model", "*"),)), "no model's name"),
    ],
)
def test_scopes_that_a_sidecar_cannot_tell(made: Budget, said: str):
    assert said in (unknowable(made) or "")
    assert all(rule_of(budget(mode=mode, scope=made.scope)) is None for mode in ("warn", "block"))


def test_all_budgets_and_quotas_hold_and_budgets_name_no_tenants():
    """`default` is still everybody whom no quota names."""
    both = with_budgets(policy(rule(name="rest", tenant="default"), rule(name="zeta", tenant="zeta")), (ACME, BIG))
    found = {
        who: [one.name for one in Matcher(both).rules_for(*who)] for who in [("acme", "big"), ("zeta", "m"), ("", "m")]
    }
    assert found == {
        ("acme", "big"): ["rest", "budget:acme", "budget:big"],
        ("zeta", "m"): ["zeta"],
        ("", "m"): ["rest"],
    }
    assert [one.name for one in visible_to(both, "acme").rules] == ["rest", "budget:acme"]
    assert [one.name for one in visible_to(both, "zeta").rules] == ["zeta"]
    assert both.can_refuse
    assert with_budgets(policy(), ()) == policy()
