"""Mistakes that only show between the rows of a price book; and right books, in which nothing is found."""

from fractions import Fraction
from typing import Any

import pytest

from agent.core.cost.book_checks import check_book, check_rate
from agent.core.cost.exchange import Rate
from agent.core.cost.price_findings import Checked, Finding

NOW = 1_800_000_000 * 10**9  # 2027-01-15
DAY = 86_400 * 10**9
H100 = "NVIDIA H100 80GB HBM3"


def rent(price: Any, pattern: str = H100, **fields: Any) -> Checked:
    values = {"where": "row", "kind": "on_demand", **fields}
    return Checked(currency="USD", pattern=pattern, per_gpu_hour=Fraction(price), **values)


def found(*rows: Checked) -> list[Finding]:
    return [f for f in check_book(rows, NOW) if "no row for" not in f.text]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([rent(2, "NVIDIA *"), rent(1, "NVIDIA L4*")], "never counts"),
        ([rent(2, "nvidia *"), rent(1, "NVIDIA L4")], "never counts"),
        ([rent(2), rent(3, kind="spot")], "costs more than on demand"),
        ([rent(2, region="eu"), rent(3, region="us")], "several regions"),
        ([rent(1), rent("8", from_ns=NOW - DAY)], "changes from 1 to 8"),
        ([rent(2, from_ns=NOW + DAY)], "first price"),
    ],
)
def test_rows_beside_each_other(rows: list[Checked], text: str) -> None:
    assert [f for f in found(*rows) if text in f.text]


@pytest.mark.parametrize(
    "rows",
    [
        [rent(2, "NVIDIA L4*"), rent(1, "NVIDIA *")],
        [rent(2, "NVIDIA *"), rent(1, "NVIDIA H100*", kind="spot")],
        [rent(2, "NVIDIA H100 ????*"), rent(3, "NVIDIA H100*")],
        [rent(2), rent(1, kind="spot"), rent(3, from_ns=NOW + DAY)],
    ],
)
def test_rows_that_may_stand_beside_each_other(rows: list[Checked]) -> None:
    assert found(*rows) == []


def test_models_without_a_row_are_named() -> None:
    (note,) = check_book([rent(2, "NVIDIA *")], NOW)
    assert (note.severity, "Tesla T4" in note.text, "NVIDIA" in note.text) == ("note", True, False)


def test_rates_that_are_upside_down_or_far_from_usual() -> None:
    assert list(check_rate(Rate("USD", "CNY", Fraction("7.1")))) == []
    (turned,) = check_rate(Rate("CNY", "USD", Fraction("7.1")))
    assert (turned.severity, "upside down" in turned.advice) == ("error", True)
    (far,) = check_rate(Rate("USD", "CNY", Fraction("71")))
    assert far.severity == "warning"
    assert list(check_rate(Rate("USD", "XAU", Fraction("71")))) == [], "nothing is known of it"
