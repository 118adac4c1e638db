import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.quotas.policy import MoneyLimit
from agent.core.quotas.reservations import Plan, Reservation, amount_of, cost_nano, used_tokens
from agent.core.quotas.shares import Bucket, Share
from agent.core.requests import Usage
from tests.support.quotas import NS, rule, wish

MONEY = MoneyLimit(nano=1000, currency="CNY", period="day")
ALL = rule(concurrent_requests=9, requests_per_minute=9, tokens_per_minute=500, money=MONEY)
PRICE = (1_000_000, 2_000_000)


def reserved(price: tuple[int, int] | None = PRICE, currency: str = "CNY") -> tuple[Reservation, tuple[Share, ...]]:
    """A request of 10 input and at most 20 output tokens."""
    bucket = Bucket(ALL, "acme", 15 * NS, 0)
    bucket.open = 1
    plan = Plan((bucket,), tuple((share, ALL) for share in bucket.shares))
    amounts = [amount_of(share, ALL, wish(10, 20), price, currency) for share in bucket.shares]
    for share, amount in zip(bucket.shares, amounts, strict=True):
        share.take(amount, 100 * NS)
    return Reservation(plan, 10, amounts, 100, price, currency), bucket.shares


def used(shares: tuple[Share, ...], now: int = 101 * NS) -> list[int]:
    return [share.used(now) for share in shares]


def test_before_and_after():
    reservation, shares = reserved()
    assert used(shares) == [1, 1, 30, 50]
    assert reservation.done(Usage(input_tokens=10, output_tokens=4), 101 * NS)
    assert used(shares) == [0, 1, 14, 18]
    assert reservation.buckets[0].open == 0


def test_it_ends_once():
    reservation, shares = reserved()
    assert reservation.undo(101 * NS)
    assert used(shares) == [0, 0, 0, 0]
    assert not reservation.undo(101 * NS)
    assert not reservation.done(Usage(output_tokens=50), 101 * NS)
    assert used(shares) == [0, 0, 0, 0]
    assert reservation.buckets[0].open == 0


def test_a_request_that_outlives_the_window_changes_nothing_in_it_but_for_what_is_more():
    reservation, shares = reserved()
    reservation.done(Usage(input_tokens=10, output_tokens=4), 300 * NS)
    assert used(shares, 300 * NS)[2] == 0
    reservation, shares = reserved()
    reservation.done(Usage(input_tokens=10, output_tokens=25), 300 * NS)
    assert used(shares, 300 * NS)[2] == 5


@pytest.mark.parametrize(("price", "currency"), [(None, "CNY"), (PRICE, "USD"), (PRICE, "")])
def test_without_a_price_in_its_currency_money_is_neither_reserved_nor_charged(
    price: tuple[int, int] | None, currency: str
):
    reservation, shares = reserved(price, currency)
    assert used(shares)[3] == 0
    reservation.done(Usage(input_tokens=10, output_tokens=4), 101 * NS)
    assert used(shares)[3] == 0


def test_unknown_usage():
    assert used_tokens(10, Usage()) == (10, 0)
    assert used_tokens(10, Usage(output_tokens=3)) == (10, 3)
    assert used_tokens(10, Usage(input_cached_tokens=7)) == (7, 0)
    assert used_tokens(10, Usage(input_tokens=0)) == (0, 0)


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**6), st.integers(0, 10**6))
def test_costs_are_rounded_up(price_in: int, price_out: int, tokens_in: int, tokens_out: int):
    exact = price_in * tokens_in + price_out * tokens_out
    assert exact <= cost_nano((price_in, price_out), tokens_in, tokens_out) * 10**6 < exact + 10**6
    assert cost_nano(None, tokens_in, tokens_out) == 0
