"""Accounts as the ledger holds them."""

from agent.core.cost.prices import Part, PriceRow
from agent.ledger.bills import currency_of, read_bills
from tests.support.booked import MINUTE_NS, T0, account, booked
from tests.support.money import book


def test_accounts_come_with_their_prices_and_how_far_they_are_booked() -> None:
    rising = book(PriceRow("*", (Part("rent", 3),)), PriceRow("*", (Part("rent", 2),), T0 + 9))  # type: ignore[arg-type]
    found = (account("GPU-1"), account("GPU-0", rising), account("GPU-0", book(currency="USD"), T0 + 5))
    with booked((), found, through_ns=T0 + MINUTE_NS, energy={"GPU-1": 7}) as connection:
        bills = read_bills(connection)
        assert [bill.key for bill in bills] == [("GPU-0", T0), ("GPU-0", T0 + 5), ("GPU-1", T0)]
        assert [bill.energy_uj for bill in bills] == [0, 0, 7]
        assert {(bill.through_ns, bill.is_open) for bill in bills} == {(T0 + MINUTE_NS, True)}
        line = bills[0].account.line
        assert line is not None
        assert [at for at, _ in line.segments] == [T0, T0 + 9]
        assert bills[2].account.line is None
        assert read_bills(connection, "GPU-1") == bills[2:]
        assert read_bills(connection, "'") == []
        assert currency_of(connection) == "USD"


def test_without_a_price_there_is_no_currency() -> None:
    with booked((), [account()]) as connection:
        assert currency_of(connection) is None
