"""Rows: what their parts add up to."""

from fractions import Fraction

from agent.core.cost.energy_prices import EnergyTariff, Period
from agent.core.cost.price_rows import HOUR_NS, Choice, EnergyUse, Part, PriceRow, purchase_parts


def test_rent_of_a_rack_and_network_are_by_the_month_for_all_gpus() -> None:
    parts = purchase_parts(
        price=Fraction(8 * 8760),
        gpus=8,
        life_years=Fraction(1),
        colocation_per_month=Fraction(730 * 8),
        network_per_month=Fraction(73 * 8),
    )
    assert {part.name: part.per_hour for part in parts} == {
        "purchase": 1,
        "colocation": 1,
        "network": Fraction(1, 10),
    }


def test_a_row_whose_energy_price_moves() -> None:
    tariff = EnergyTariff("UTC", Fraction(1), (Period(0, 60, Fraction(0)),))
    row = PriceRow("A", (Part("purchase", Fraction(2)),), energy=EnergyUse(Fraction(3), tariff))
    assert row.changes_by_itself
    assert [part.name for part in row.parts_at(0)] == ["purchase"]
    assert [part.name for part in row.parts_at(HOUR_NS)] == ["purchase", "energy"]
    assert row.nano_per_ns_at(0) == Fraction(2 * 10**9, HOUR_NS)
    assert row.nano_per_ns_at(HOUR_NS) == Fraction(5 * 10**9, HOUR_NS)
    assert not PriceRow("A", row.parts, energy=EnergyUse(Fraction(), tariff)).changes_by_itself
    assert not PriceRow("A", row.parts).changes_by_itself


def test_a_choice_takes_what_it_names() -> None:
    row = PriceRow("A", (), kind="spot", region="eu", sku="x")
    assert Choice().takes(row)
    assert Choice("spot", "eu", "x").takes(row)
    assert not Choice("owned").takes(row)
    assert not Choice(region="us").takes(row)
    assert not Choice(sku="y").takes(row)
    assert Choice(region="us").takes(PriceRow("A", ()))
