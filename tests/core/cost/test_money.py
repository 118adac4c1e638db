from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.money import exact, split, to_nano

WEIGHTS = st.lists(st.integers(0, 10**12), min_size=1, max_size=40).filter(any)


@given(st.integers(0, 10**20), WEIGHTS)
def test_parts_sum_to_the_total_and_are_within_one_unit_of_their_share(total: int, weights: list[int]) -> None:
    parts = split(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - Fraction(total * weight, sum(weights))) < 1
        assert part >= 0
        assert weight or part == 0


@given(st.integers(0, 10**15), WEIGHTS, st.integers(1, 1000))
def test_only_the_proportion_of_weights_matters(total: int, weights: list[int], factor: int) -> None:
    assert split(total, weights) == split(total, [weight * factor for weight in weights])


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [
        (10, [1, 1, 1], [4, 3, 3]),  # a tie: earlier places first
        (2, [1, 1, 1], [1, 1, 0]),
        (0, [3, 4], [0, 0]),
        (7, [0, 5, 0], [0, 7, 0]),
        (1, [1, 2], [0, 1]),
        (100, [33, 33, 34], [33, 33, 34]),
    ],
)
def test_largest_remainder(total: int, weights: list[int], parts: list[int]) -> None:
    assert split(total, weights) == parts


@pytest.mark.parametrize(("total", "weights"), [(5, [0, 0]), (0, [0]), (5, []), (-1, [1]), (5, [1, -1, 3])])
def test_what_cannot_be_split_is_refused(total: int, weights: list[int]) -> None:
    with pytest.raises(ValueError, match="cannot split"):
        split(total, weights)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (0.1, Fraction(1, 10)),
        ("0.1", Fraction(1, 10)),
        (Decimal("2.490"), Fraction(249, 100)),
        (3, Fraction(3)),
        ("1_000", Fraction(1000)),
        ("1e-3", Fraction(1, 1000)),
        (Fraction(2, 3), Fraction(2, 3)),
    ],
)
def test_numbers_are_taken_as_written(written: object, value: Fraction) -> None:
    assert exact(written) == value


@pytest.mark.parametrize("written", ["", "ten", None, True, float("nan"), float("inf"), "1e99", [1], "1/3"])
def test_what_is_no_number_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        exact(written)


def test_to_nano_rounds_half_to_even() -> None:
    assert to_nano(Fraction(5, 2 * 10**9)) == 2
    assert to_nano(Fraction(7, 2 * 10**9)) == 4
