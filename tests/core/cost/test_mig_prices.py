"""What a MIG device costs of its GPU."""

from fractions import Fraction

import pytest

from agent.core.cost.mig_prices import price_weights
from agent.core.cost.price_rows import Part, PriceRow
from agent.core.cost.views import SlotView

ROW = PriceRow(
    "NVIDIA H100*",
    (Part("rent", Fraction(10)),),
    mig=(("1g.10gb", Fraction(1, 5)), ("3g.40gb", Fraction(1, 2))),
)
PROFILES = {"MIG-1": "1g.10gb", "MIG-3": "3g.40gb", "MIG-2": "2g.20gb"}


def views(**weights: int) -> list[SlotView]:
    return [
        SlotView(name.replace("_", "-").replace("--", "::"), weight, "unallocated") for name, weight in weights.items()
    ]


def ratio(weights: list[int] | None) -> list[Fraction]:
    assert weights is not None
    return [Fraction(weight, sum(weights)) for weight in weights]


def test_devices_have_their_fraction_and_what_nobody_has_the_rest() -> None:
    found = ratio(price_weights(ROW, views(MIG_1=1, MIG_3=3, GPU_0=3), PROFILES))
    assert found == [Fraction(1, 5), Fraction(1, 2), Fraction(3, 10)]


def test_a_profile_of_which_the_row_says_nothing_counts_by_compute_slices() -> None:
    found = ratio(price_weights(ROW, views(MIG_1=1, MIG_2=2, GPU_0=4), PROFILES))
    assert found == [Fraction(1, 5), Fraction(2, 7), 1 - Fraction(1, 5) - Fraction(2, 7)]


def test_fractions_of_more_than_the_gpu_are_scaled_down() -> None:
    row = PriceRow("*", ROW.parts, mig=(("1g.10gb", Fraction(1)), ("3g.40gb", Fraction(3))))
    assert ratio(price_weights(row, views(MIG_1=1, MIG_3=3, GPU_0=3), PROFILES)) == [Fraction(1, 4), Fraction(3, 4), 0]


def test_shares_of_a_device_have_equal_parts_of_its_own() -> None:
    found = ratio(price_weights(ROW, views(MIG_3__0=3, MIG_3__1=3, MIG_1=2, GPU_0=6), PROFILES))
    assert found == [Fraction(1, 4), Fraction(1, 4), Fraction(1, 5), Fraction(3, 10)]


@pytest.mark.parametrize("row", [None, PriceRow("*", ROW.parts)])
def test_without_fractions_money_goes_by_time(row: PriceRow | None) -> None:
    assert price_weights(row, views(MIG_1=1, GPU_0=6), PROFILES) is None


def test_a_gpu_that_is_not_cut_has_one_price() -> None:
    assert price_weights(ROW, views(GPU_0=1), {}) is None
