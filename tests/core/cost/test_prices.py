from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.prices import HOUR_NS, SINCE_EVER_NS, BillLine, Part, PriceBook, PriceRow, purchase_parts

DAY_NS = 24 * HOUR_NS
T0 = 1_800_000_000 * 10**9


def row(pattern: str, per_hour: str, from_ns: int = SINCE_EVER_NS) -> PriceRow:
    return PriceRow(pattern, (Part("rent", Fraction(per_hour)),), from_ns)


def test_a_purchase_is_spread_over_its_life_and_energy_is_added() -> None:
    parts = purchase_parts(
        price=Fraction(1_000_000),
        gpus=8,
        life_years=Fraction(5),
        salvage=Fraction(124_000),
        power_watts=Fraction(1000),
        pue=Fraction("1.5"),
        energy_price_per_kwh=Fraction("0.8"),
    )
    assert {part.name: part.per_hour for part in parts} == {
        "purchase": Fraction(876_000, 8 * 5 * 8760),
        "energy": Fraction("1.2"),
    }
    assert sum(part.per_hour for part in parts) == Fraction("3.7")


@pytest.mark.parametrize(
    ("model", "per_hour"),
    [
        ("NVIDIA H100 80GB HBM3", 3),
        ("nvidia h100 80gb hbm3", 3),
        ("NVIDIA A100-SXM4-40GB", 2),
        ("NVIDIA A100-PCIE-40GB", 2),
        ("NVIDIA A100-SXM4-80GB", 1),  # only the last pattern matches
        ("Tesla T4", None),
    ],
)
def test_the_first_matching_pattern_decides(model: str, per_hour: int | None) -> None:
    book = PriceBook("CNY", [row("NVIDIA H100*", "3"), row("NVIDIA A100-*-40GB", "2"), row("NVIDIA *", "1")])
    price = book.price_at(model, T0)
    assert price == (None if per_hour is None else Fraction(per_hour * 10**9, HOUR_NS))
    assert (book.bill(model, T0, T0 + HOUR_NS)) == (None if per_hour is None else per_hour * 10**9)
    shown = book.shown(model, T0)
    assert (shown.nano_per_hour if shown else None) == (None if per_hour is None else per_hour * 10**9)


def test_prices_take_effect_at_their_instant() -> None:
    book = PriceBook("CNY", [row("x", "2", T0 + DAY_NS), row("x", "1")])
    assert book.bill("x", T0, T0 + 2 * DAY_NS) == 24 * 3 * 10**9
    later = book.shown("x", T0 + DAY_NS)
    assert later is not None
    assert later.nano_per_hour == 2 * 10**9
    assert later.effective_from == "2027-01-16T08:00:00Z"


def test_time_before_the_first_price_has_no_price() -> None:
    book = PriceBook("CNY", [row("x", "2", T0)])
    assert book.price_at("x", T0 - 1) is None
    assert book.bill("x", T0 - 1, T0 + 1) is None
    assert book.bill("x", T0, T0 + HOUR_NS) == 2 * 10**9
    assert book.priced_from("x", 5) == T0
    assert book.priced_from("y", 5) is None


@given(
    st.lists(st.tuples(st.integers(0, 10**7), st.fractions(0, 100, max_denominator=10**6)), min_size=1, max_size=5),
    st.lists(st.integers(0, 10**15), min_size=1, max_size=20),
)
def test_ticks_telescope(segments: list[tuple[int, Fraction]], cuts: list[int]) -> None:
    ordered = [(at * 10**6, price) for at, price in sorted(dict(segments).items())]
    ordered[0] = (0, ordered[0][1])
    line = BillLine(ordered)
    edges = [0, *sorted(cuts)]
    ticks = [line.nano(b) - line.nano(a) for a, b in pairwise(edges)]
    assert all(tick >= 0 for tick in ticks)
    assert sum(ticks) == line.nano(edges[-1])
    end = edges[-1]
    bill = Fraction()
    for i, (start, price) in enumerate(ordered):
        stop = ordered[i + 1][0] if i + 1 < len(ordered) else end
        bill += price * max(0, min(stop, end) - min(start, end))
    assert line.nano(end) == bill.numerator // bill.denominator


@given(st.lists(st.fractions(0, 1000, max_denominator=997), min_size=1, max_size=6))
def test_shown_parts_add_up(amounts: list[Fraction]) -> None:
    parts = tuple(Part(f"p{i}", amount) for i, amount in enumerate(amounts))
    shown = PriceBook("CNY", [PriceRow("*", parts)]).shown("x", 0)
    assert shown is not None
    assert sum(part.nano_per_hour for part in shown.parts) == shown.nano_per_hour
    assert shown.effective_from == "always"
