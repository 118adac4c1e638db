import msgspec
import pytest

from agent.core.quotas.policy import Matcher, MoneyLimit, Policy, QueuePolicy, visible_to
from tests.support.quotas import policy, rule

POLICY = policy(
    rule(name="all", tenant="*", together=True),
    rule(name="each", tenant="*"),
    rule(name="acme", tenant="acme"),
    rule(name="acme-big", tenant="acme", model="big"),
    rule(name="rest", tenant="default"),
)


@pytest.mark.parametrize(
    ("tenant", "model", "names"),
    [
        ("acme", "m", "all each acme"),
        ("acme", "big", "all each acme acme-big"),
        ("else", "big", "all each rest"),
        ("", "m", "all each rest"),
        ("*", "m", "all each rest"),
        ("default", "m", "all each rest"),
    ],
)
def test_all_rules_that_match_hold(tenant: str, model: str, names: str):
    assert " ".join(rule.name for rule in Matcher(POLICY).rules_for(tenant, model)) == names


def test_the_revision_names_the_content():
    assert POLICY.revision == msgspec.msgpack.decode(msgspec.msgpack.encode(POLICY), type=Policy).revision
    assert POLICY.revision != policy(*POLICY.rules[1:]).revision
    assert Policy().revision == ""


def test_only_block_can_refuse():
    assert not policy(rule(mode="observe"), rule(mode="warn")).can_refuse
    assert policy(rule(mode="observe"), rule(mode="block")).can_refuse


def test_who_is_limited_to_one_tenant_learns_nothing_of_others():
    assert [rule.name for rule in visible_to(POLICY, "acme").rules] == ["each", "acme", "acme-big"]
    assert [rule.name for rule in visible_to(POLICY, "else").rules] == ["each", "rest"]


def test_classes_rank_in_their_order_and_the_last_is_for_everybody_else():
    queue = QueuePolicy(deadline_ns=1, classes=("high", "normal", "low"))
    assert [queue.rank(name) for name in ("high", "low", None, "vip")] == [0, 2, 2, 2]


def test_limits_and_whose_they_are():
    money = MoneyLimit(nano=1_500_000_000, currency="CNY", period="day")
    one = rule(concurrent_requests=2, money=money)
    assert list(one.limits()) == [("concurrent", 2), ("money", 1_500_000_000)]
    assert one.limit("tokens") is None
    assert (one.holder("acme"), rule(together=True).holder("acme")) == ("acme", "*")
    assert money.shown(1_234_567_891) == "1.2345 CNY"
