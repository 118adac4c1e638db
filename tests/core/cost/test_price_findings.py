"""Figures of price books as people are shown them."""

from fractions import Fraction

import pytest

from agent.core.cost.exchange import SINCE_EVER_NS
from agent.core.cost.price_findings import Checked, shown, span, year


@pytest.mark.parametrize(
    ("number", "text"),
    [("0", "0"), ("2.49", "2.49"), ("250000", "250,000"), ("0.0000021", "2.1e-06"), ("1/3", "0.3333333333")],
)
def test_amounts_are_short(number: str, text: str) -> None:
    assert shown(Fraction(number)) == text


def test_ranges_are_in_the_currency_of_the_row() -> None:
    assert span(1, 12, 1) == "1 to 12"
    assert span(1, 12, 7.1) == "7.1 to 85.2"
    assert span(25_000, 60_000, 1) == "25,000 to 60,000"


def test_years_of_instants() -> None:
    assert year(1_800_000_000 * 10**9) == 2027


def test_a_row_without_more_said_has_always_been() -> None:
    row = Checked("row", "USD", "*", "on_demand")
    assert (row.from_ns, row.per_gpu_hour, row.bought) == (SINCE_EVER_NS, None, None)
