"""Invoices: lines cut into local days to the last nano-unit."""

from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.calendar import Calendar
from agent.core.cost.invoices import DaySums, InvoiceLine

NS = 10**9
HOUR = 3600 * NS


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * NS


def line(start: str, end: str, amount: Any, **fields: Any) -> InvoiceLine:
    values: dict[str, Any] = {"source": "i", "number": 2, "sku": "h100", "currency": "USD"} | fields
    return InvoiceLine(start_ns=at(start), end_ns=at(end), amount=Fraction(amount), **values)


def days(zone: str, *lines: InvoiceLine) -> list[tuple[str, int]]:
    sums = DaySums(Calendar(zone))
    for one in lines:
        sums.add(one)
    return [(day.day, day.nano) for day in sums.days()]


def test_a_month_is_spread_over_its_days_by_time() -> None:
    month = days("Europe/Berlin", line("2026-02-28T23:00", "2026-03-31T22:00", "743"))
    assert len(month) == 31
    assert dict(month)["2026-03-01"] == 24 * NS
    assert dict(month)["2026-03-29"] == 23 * NS  # the clock is put forward
    assert sum(nano for _, nano in month) == 743 * NS


def test_a_day_of_another_zone_is_two_of_ours() -> None:
    found = days("Asia/Shanghai", line("2026-03-01T00:00", "2026-03-02T00:00", 3))
    assert found == [("2026-03-01", 2 * NS), ("2026-03-02", NS)]


def test_credits_are_negative() -> None:
    found = days("UTC", line("2026-03-01", "2026-03-03", "-1e-9"), line("2026-03-01", "2026-03-02", "5"))
    assert found == [("2026-03-01", 5 * NS - 1), ("2026-03-02", 0)]


@given(
    st.lists(
        st.tuples(st.integers(0, 40 * 24), st.integers(1, 40 * 24), st.fractions(-100, 100, max_denominator=10**12)),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns"]),
)
def test_days_are_the_lines_to_the_nano_unit(lines: list[tuple[int, int, Fraction]], zone: str) -> None:
    sums = DaySums(Calendar(zone))
    begin = at("2026-03-01")
    total = Fraction()
    for start, length, amount in lines:
        total += amount * NS
        sums.add(
            InvoiceLine(
                source="i",
                number=2,
                sku="x",
                currency="USD",
                amount=amount,
                start_ns=begin + start * HOUR,
                end_ns=begin + (start + length) * HOUR,
            )
        )
    assert sum(day.nano for day in sums.days()) == round(total)


def test_what_is_told_of_a_day() -> None:
    sums = DaySums(Calendar())
    first = line("2026-03-01", "2026-03-02", 2, quantity=Fraction(24), unit="Hours", number=7)
    sums.add(first)
    sums.add(line("2026-03-01", "2026-03-02", 1, quantity=Fraction(1, 3), unit="Hours", number=9))
    sums.add(line("2026-03-01", "2026-03-02", -1, kind="correction", quantity=Fraction(1), unit="Hours"))
    sums.add(line("2026-03-01", "2026-03-02", 1, sku="other"))
    assert len(sums) == 3
    plain, corrected, other = sums.days()
    assert (plain.line, plain.quantity, plain.unit, plain.nano) == (7, Fraction(73, 3), "Hours", 3 * NS)
    assert (corrected.kind, corrected.nano) == ("correction", -NS)
    assert (other.quantity, other.unit) == (None, None)
    sums.add(line("2026-03-01", "2026-03-02", 1, quantity=Fraction(1), unit="GiB"))
    assert sums.days()[0].quantity is None


@pytest.mark.parametrize(
    ("start", "end", "amount", "told"),
    [
        ("2026-03-02", "2026-03-02", 1, "ends before it begins"),
        ("2026-03-02", "2026-03-01", 1, "ends before it begins"),
        ("2026-03-02", "2126-03-01", 1, "ten years"),
        ("2026-03-01", "2026-03-02", 10**10, "is more than 9,223,372,036"),
        ("2026-03-01", "2026-03-02", -(10**20), "is more than 9,223,372,036"),
    ],
)
def test_lines_that_cannot_be(start: str, end: str, amount: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        DaySums(Calendar()).add(line(start, end, amount))


def test_a_sum_beyond_64_bits_is_refused() -> None:
    sums = DaySums(Calendar())
    for _ in range(2):
        sums.add(line("2026-03-01", "2026-03-02", 9 * 10**9))
    with pytest.raises(ValueError, match="h100 on 2026-03-01"):
        sums.days()


# Variance
