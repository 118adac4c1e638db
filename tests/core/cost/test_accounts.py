from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.accounts import Account, open_account, reprice
from agent.core.cost.prices import HOUR_NS, SINCE_EVER_NS, Part, PriceBook, PriceRow
from tests.support.money import MODEL, NS, book, expected_bill

T0 = 1_800_000_000 * NS


def row(units_per_hour: int, from_second: int | None = None, pattern: str = "*") -> PriceRow:
    begins = SINCE_EVER_NS if from_second is None else T0 + from_second * NS
    return PriceRow(pattern, (Part("rent", Fraction(units_per_hour)),), begins)


def opened(prices: PriceBook | None, second: int = 0) -> Account:
    return open_account(prices, "GPU-0", MODEL, T0 + second * NS)


@pytest.mark.parametrize(
    ("prices", "currency"),
    [
        (None, None),
        (book(row(1, pattern="NVIDIA A100*")), None),  # the book does not know this GPU
        (book(row(1, 1)), None),  # its price begins later
        (book(row(1, 0)), "CNY"),
        (book(row(1)), "CNY"),
        (book(row(0)), "CNY"),  # free of charge is a price
    ],
)
def test_an_account_has_a_currency_where_there_is_a_price(prices: PriceBook | None, currency: str | None) -> None:
    account = opened(prices)
    assert (account.gpu, account.gpu_model, account.from_ns, account.currency) == ("GPU-0", MODEL, T0, currency)
    assert (account.line is None) == (currency is None)


def test_time_without_a_price_is_no_money() -> None:
    assert opened(None).nano(T0, T0 + HOUR_NS) == 0


@given(st.lists(st.integers(0, 10**13), min_size=1, max_size=30))
def test_pieces_cost_what_the_whole_costs(cuts: list[int]) -> None:
    account = opened(book())
    at = [T0, *sorted(T0 + cut for cut in cuts)]
    pieces = [account.nano(a, b) for a, b in pairwise(at)]
    assert sum(pieces) == account.nano(T0, at[-1]) == expected_bill(T0, at[-1])
    assert min(pieces) >= 0


def test_later_prices_of_the_book_are_known_from_the_start() -> None:
    account = opened(book(row(3600), row(7200, 10), row(0, 20)))
    assert account.nano(T0, T0 + 30 * NS) == (10 * 1 + 10 * 2) * 10**9
    assert account.nano(T0 + 5 * NS, T0 + 15 * NS) == (5 * 1 + 5 * 2) * 10**9


SEGMENTS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), max_size=4, unique_by=lambda s: s[0])


def with_changes(first: int, changes: list[tuple[int, int]]) -> PriceBook:
    return book(row(first * 3600), *(row(price * 3600, at) for at, price in changes))


@given(SEGMENTS, SEGMENTS, st.integers(0, 50), st.integers(0, 60))
def test_a_new_book_changes_what_comes_and_nothing_before(
    old: list[tuple[int, int]], new: list[tuple[int, int]], change: int, end: int
) -> None:
    before, after = with_changes(5, old), with_changes(7, new)
    account, at = opened(before), T0 + change * NS
    renewed = reprice(account, after, at)
    assert (renewed.from_ns, renewed.currency) == (T0, "CNY")
    until = T0 + end * NS
    wanted = before.bill(MODEL, T0, min(at, until)) or 0
    if until > at:
        wanted += after.bill(MODEL, at, until) or 0
    assert renewed.nano(T0, until) == wanted
    assert reprice(renewed, after, at) is renewed


@given(SEGMENTS, st.integers(0, 50), st.integers(0, 60))
def test_the_same_book_again_changes_no_money(changes: list[tuple[int, int]], at: int, end: int) -> None:
    account, until = opened(with_changes(5, changes)), T0 + end * NS
    same = reprice(account, with_changes(5, changes), T0 + at * NS)
    assert (same.from_ns, same.currency, same.nano(T0, until)) == (T0, "CNY", account.nano(T0, until))


@pytest.mark.parametrize("at", [0, 9, 10, 11, 99])
def test_the_same_book_again_is_the_same_account(at: int) -> None:
    account = opened(with_changes(5, [(10, 6), (20, 5)]))
    assert reprice(account, with_changes(5, [(10, 6), (20, 5)]), T0 + at * NS) is account


def test_a_dearer_book_prices_the_future_only() -> None:
    account = opened(book())
    dearer = book(PriceRow("*", book().rows[0].parts * 2))
    changed = reprice(account, dearer, T0 + NS)
    assert changed.line is not None
    assert changed.nano(T0, T0 + NS) == expected_bill(T0, T0 + NS)
    assert changed.line.segments[1] == (T0 + NS, 2 * changed.line.segments[0][1])


@pytest.mark.parametrize(
    ("before", "after", "currency"),
    [
        (book(), book(currency="USD"), "USD"),
        (book(), None, None),
        (book(), book(row(1, pattern="NVIDIA A100*")), None),  # its row was taken out
        (None, book(), "CNY"),
    ],
)
def test_another_currency_or_the_first_or_last_price_begins_an_account(
    before: PriceBook | None, after: PriceBook | None, currency: str | None
) -> None:
    account = opened(before)
    follower = reprice(account, after, T0 + NS)
    assert (follower.gpu, follower.gpu_model, follower.from_ns) == ("GPU-0", MODEL, T0 + NS)
    assert follower.currency == currency
    assert follower.nano(T0 + NS, T0 + HOUR_NS) == (expected_bill(T0 + NS, T0 + HOUR_NS) if currency else 0)


@pytest.mark.parametrize("prices", [None, book(row(1, 99))])
def test_still_without_a_price_is_the_same_account(prices: PriceBook | None) -> None:
    account = opened(None)
    assert reprice(account, prices, T0 + NS) is account
