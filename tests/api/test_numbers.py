import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.numbers import money, plain, scientific


@pytest.mark.parametrize(
    ("value", "text", "with_exponent"),
    [
        (0.0, "0", "0e+00"),
        (1.0, "1", "1e+00"),
        (-2.5, "-2.5", "-2.5e+00"),
        (0.1, "0.1", "1e-01"),
        (1e21, "1000000000000000000000", "1e+21"),
        (1.5e-7, "0.00000015", "1.5e-07"),
        (123456.0, "123456", "1.23456e+05"),
        (math.inf, "+Inf", "+Inf"),
        (-math.inf, "-Inf", "-Inf"),
        (math.nan, "NaN", "NaN"),
    ],
)
def test_values_are_written_as_go_does(value: float, text: str, with_exponent: str):
    assert plain(value) == text
    assert scientific(value) == with_exponent


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_values_read_back(value: float):
    assert float(plain(value)) == value
    assert float(scientific(value)) == value


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (None, None),
        (0, "0.00"),
        (1, "0.000000001"),
        (1_500_000_000, "1.50"),
        (-1, "-0.000000001"),
        (2 * 10**18, "2000000000.00"),
    ],
)
def test_money_is_exact(nano: int | None, text: str | None):
    assert money(nano) == text


@given(st.integers(-(2**63), 2**63))
def test_money_reads_back(nano: int):
    from decimal import Decimal

    assert Decimal(money(nano) or "") * 10**9 == nano
