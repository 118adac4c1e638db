from typing import Any

import pytest
from pydantic import ValidationError

from agent.core.quotas.policy import MoneyLimit, Policy, QueuePolicy, Rule
from agent.sidecar.quota.settings import QuotasSettings

NS = 1_000_000_000
RULE = {"name": "acme", "requests_per_minute": 60}


def test_the_file_becomes_values():
    money = {"amount": "120.50", "currency": "CNY", "period": "month", "time_zone": "Asia/Shanghai"}
    queue = {"deadline_seconds": 2.5, "classes": ["high", "low"]}
    given = {"rules": [RULE | {"tenant": "acme", "mode": "block", "money": money, "queue": queue}], "lease_seconds": 4}
    policy = QuotasSettings.model_validate(given).to_policy()
    assert policy.rules == (
        Rule(
            name="acme",
            tenant="acme",
            mode="block",
            requests_per_minute=60,
            money=MoneyLimit(nano=120_500_000_000, currency="CNY", period="month", time_zone="Asia/Shanghai"),
            queue=QueuePolicy(deadline_ns=2_500_000_000, classes=("high", "low")),
        ),
    )
    assert (policy.lease_ns, policy.renew_ns) == (4 * NS, NS)


def test_nothing_said_is_no_rule_and_the_policy_s_own_defaults():
    assert QuotasSettings().to_policy() == Policy()


def test_amounts_written_as_numbers_are_exact():
    money = {"amount": 0.1, "currency": "USD", "period": "day"}
    policy = QuotasSettings.model_validate({"rules": [{"name": "a", "money": money}]}).to_policy()
    assert policy.rules[0].limit("money") == 100_000_000


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rules": [{"name": "a"}]}, "rule `a` limits nothing; expected at least one of"),
        ({"rules": [RULE, RULE]}, "two rules have the name `acme`"),
        ({"rules": [RULE | {"queue": {"deadline_seconds": 1}}]}, "mode `observe` keeps nobody waiting; use `block`"),
        ({"rules": [RULE | {"name": "a b"}]}, "should match pattern"),
        ({"rules": [RULE | {"mode": "deny"}]}, "'observe', 'warn' or 'block'"),
        ({"rules": [RULE | {"requests_per_minute": 0}]}, "greater than or equal to 1"),
        ({"rules": [RULE | {"requests_per_second": 1}]}, "Extra inputs"),
        ({"rules": [RULE | {"when_agent_away": "free"}]}, "'share', 'open' or 'closed'"),
        ({"renew_seconds": 3}, "renew_seconds must be at most half of lease_seconds"),
        (
            {"rules": [RULE | {"money": {"amount": 1, "currency": "CNY", "period": "day", "time_zone": "Beijing"}}]},
            "no time zone that this machine knows",
        ),
        ({"rules": [RULE | {"money": {"amount": 0, "currency": "CNY", "period": "day"}}]}, "greater than 0"),
        ({"rules": [RULE | {"money": {"amount": 1, "currency": "yuan", "period": "day"}}]}, "should match pattern"),
        ({"rules": [RULE | {"money": {"amount": 1, "currency": "CNY", "period": "30d"}}]}, "'day', 'week' or 'month'"),
        (
            {"rules": [RULE | {"mode": "block", "queue": {"deadline_seconds": 1, "classes": ["a", "a"]}}]},
            "names a class twice",
        ),
    ],
)
def test_mistakes_are_told(given: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=said):
        QuotasSettings.model_validate(given)
