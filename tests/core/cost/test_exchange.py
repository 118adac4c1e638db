"""Dated rates: which one holds when, and what is never made up."""

from fractions import Fraction

from agent.core.cost.exchange import SINCE_EVER_NS, Exchange, Rate

RATES = Exchange(
    [
        Rate("USD", "CNY", Fraction("7.1"), 100),
        Rate("USD", "CNY", Fraction("7.3"), 200),
        Rate("USD", "CNY", Fraction(9), 200),  # the same instant: the first one counts
        Rate("EUR", "USD", Fraction("1.1")),
    ]
)


def test_the_rate_of_the_day() -> None:
    assert RATES.steps("USD", "CNY") == ((100, Fraction("7.1")), (200, Fraction("7.3")))
    found = [RATES.at("USD", "CNY", at) for at in (99, 100, 199, 200)]
    assert found == [None, Fraction("7.1"), Fraction("7.1"), Fraction("7.3")]


def test_the_other_direction_is_the_inverse_exactly() -> None:
    assert RATES.at("CNY", "USD", 150) == Fraction(10, 71)
    both = Exchange([*RATES.rates, Rate("CNY", "USD", Fraction("0.2"), 150)])
    assert both.at("CNY", "USD", 150) == Fraction("0.2")
    assert both.at("CNY", "USD", 149) is None


def test_nothing_is_chained_over_a_third_currency() -> None:
    assert RATES.steps("EUR", "CNY") == ()
    assert RATES.at("EUR", "CNY", 300) is None


def test_a_currency_is_worth_itself() -> None:
    assert RATES.steps("JPY", "JPY") == ((SINCE_EVER_NS, Fraction(1)),)
