from agent.core.quotas.shares import Bucket, Share
from tests.support.quotas import NS, rule


def test_what_is_held_counts_until_it_ends():
    share = Share("concurrent", 5, 0)
    share.take(1, 0)
    assert (share.used(10 * NS), share.peak) == (1, 1)
    share.settle(0, 1, 1, 10 * NS)
    assert share.used(10 * NS) == 0
    assert share.wait_ns(1, 0) is None


def test_money_counts_until_the_ledger_has_had_time_to_know():
    share = Share("money", 1000, 15 * NS)
    share.take(300, 100 * NS)
    share.settle(100, 300, 350, 110 * NS)
    assert (share.used(500 * NS), share.overrun) == (350, 50)  # time alone does not take it away
    share.window.total(500 * NS)  # but an answer of the agent does
    assert share.used(500 * NS) == 0


def test_peak_and_wish_begin_anew_with_each_claim():
    share = Share("concurrent", 5, 0)
    for _ in range(3):
        share.take(1, 0)
    share.settle(0, 1, 1, 0)
    share.wanted = 4
    assert share.claim_numbers(0) == (2, 3, 4)
    assert share.claim_numbers(0) == (2, 2, 0)


def test_a_changed_rule_keeps_what_counts():
    bucket = Bucket(rule(concurrent_requests=5, requests_per_minute=9), "acme", 0, 0)
    bucket.shares[0].take(1, 0)
    bucket.renewed(rule(concurrent_requests=3, tokens_per_minute=50), 0)
    assert [(share.kind, share.limit, share.used(0)) for share in bucket.shares] == [
        ("concurrent", 3, 1),
        ("tokens", 50, 0),
    ]


def test_idle_is_who_holds_nothing_for_a_while():
    bucket = Bucket(rule(requests_per_minute=9), "acme", 0, 0)
    assert not bucket.is_idle(59 * NS, 60 * NS)
    bucket.shares[0].take(1, 30 * NS)
    assert not bucket.is_idle(80 * NS, 60 * NS)
    assert bucket.is_idle(92 * NS, 60 * NS)
