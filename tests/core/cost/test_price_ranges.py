"""The table of what GPUs cost: it must fit the example book and itself."""

from fractions import Fraction

import pytest

from agent.core.cost.price_ranges import PER_DOLLAR, TABLE, models, per_dollar, range_of


def test_every_model_is_there_once_and_every_range_ascends() -> None:
    names = list(models())
    assert len(set(names)) == len(names)
    for entry in TABLE:
        assert 0 < entry.hour[0] < entry.hour[1]
        assert 0 < entry.purchase[0] < entry.purchase[1]
        assert 50 <= entry.watts <= 1500


@pytest.mark.parametrize(
    ("pattern", "watts", "known"),
    [
        ("NVIDIA H100 80GB HBM3", 700, True),
        ("nvidia l4", 72, True),
        ("NVIDIA L4*", 350, True),  # L4, L40 and L40S
        ("Some future GPU", 700, False),
    ],
)
def test_ranges_by_pattern(pattern: str, watts: int, known: bool) -> None:
    found, is_known = range_of(pattern)
    assert (found.watts, is_known) == (watts, known)


def test_a_pattern_of_many_spans_all_of_them() -> None:
    found, _ = range_of("*")
    assert found.hour == (min(e.hour[0] for e in TABLE), max(e.hour[1] for e in TABLE))


def test_how_large_a_currency_is() -> None:
    assert per_dollar("USD", None) == 1
    assert per_dollar("CNY", Fraction("6.9")) == 6.9
    assert per_dollar("CNY", Fraction("0.14")) == PER_DOLLAR["CNY"]  # upside down, and told as that
    assert per_dollar("XAU", None) is None
    assert per_dollar("XAU", Fraction(1, 4000)) == 1 / 4000
