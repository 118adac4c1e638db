"""Every mistake that people make in price books, found by what it looks like; and right books, in which nothing is."""

from fractions import Fraction
from typing import Any

import pytest

from agent.core.cost.exchange import Exchange, Rate
from agent.core.cost.price_checks import check_rows
from agent.core.cost.price_findings import Bought, Checked, Finding

NOW = 1_800_000_000 * 10**9  # 2027-01-15
DAY = 86_400 * 10**9
H100 = "NVIDIA H100 80GB HBM3"


def rent(price: Any, pattern: str = H100, currency: str = "USD", **fields: Any) -> Checked:
    values = {"where": "row", "kind": "on_demand", **fields}
    return Checked(currency=currency, pattern=pattern, per_gpu_hour=Fraction(price), **values)


def bought(pattern: str = H100, currency: str = "USD", **fields: Any) -> Checked:
    values: dict[str, Any] = {
        "price": 250_000, "gpus": 8, "life_years": 5, "salvage": 40_000, "power_watts": 1000, "pue": "1.3",
    } | fields  # fmt: skip
    energy = tuple(Fraction(price) for price in values.pop("energy", ["0.11"]))
    gpus = values.pop("gpus")
    made = Bought(gpus=gpus, energy_per_kwh=energy, **{k: Fraction(v) for k, v in values.items()})
    return Checked("row", currency, pattern, "owned", bought=made)


def found(*rows: Checked, exchange: Exchange | None = None) -> list[Finding]:
    return [f for f in check_rows(rows, exchange or Exchange(), NOW) if "no row for" not in f.text]


@pytest.mark.parametrize(
    "row",
    [
        rent("2.49"), rent("12.29"), rent("17.6", currency="CNY"), rent("0.44", "NVIDIA L4"), rent("0.35", "Tesla T4"),
        rent("1.29", "NVIDIA A100-*-40GB"), rent("340", currency="JPY"), rent(3, "An unknown GPU"), rent("0.2", "*"),
        bought(), bought(price=1_800_000, salvage=300_000, currency="CNY", energy=["0.7"]),
        bought("NVIDIA GeForce RTX 4090", "CNY", price=15000, gpus=1, salvage=3000, life_years=3, power_watts=550,
               energy=["0.3", "0.8", "1.3"]),
        bought("NVIDIA A100-*-40GB", "CNY", price=120_000, gpus=2, salvage=0, power_watts=550, energy=["0.75"]),
    ],
)  # fmt: skip
def test_what_is_right_is_left_alone(row: Checked) -> None:
    assert found(row) == []


@pytest.mark.parametrize(
    ("row", "severity", "guess"),
    [
        (rent(1800), "error", "per month"),
        (rent(21_000, "NVIDIA L40S"), "error", "per year"),
        (rent(60), "error", "per day"),
        (rent("0.04"), "error", "per minute"),
        (rent("0.0007"), "error", "per second"),
        (rent("98.32"), "error", "whole server of 8"),
        (rent("23.9"), "warning", "whole server of 8"),
        (rent(249), "error", "cents"),
        (rent(30_000), "error", "purchase price of a GPU"),
        (rent(240_000), "error", "purchase price of 8 GPUs"),
        (rent("0.0000025"), "error", "per token"),
        (rent(12_700, currency="CNY"), "error", "per month"),
        (rent(0), "error", "`purchase`"),
        (bought(life_years=60), "error", "months: write 5"),
        (bought(life_years=15), "warning", "years"),
        (bought(life_years="0.5"), "warning", "years"),
        (bought(salvage=240_000), "warning", "less than half"),
        (bought(pue=3), "warning", "1.05 to 2"),
        (bought(power_watts="0.7"), "error", "kilowatts"),
        (bought(power_watts=5600), "error", "all 8"),
        (bought(power_watts=200), "note", "rated power"),
        (bought(energy=["11"]), "error", "cents"),
        (bought(energy=["110"]), "error", "megawatt hour"),
        (bought(energy=["0.1", "12"]), "error", "cents"),
        (bought(energy=["0"]), "warning", "energy_price_per_kwh"),
        (bought(gpus=1), "error", "gpus: 8"),
        (bought(price=31_250, salvage=0), "warning", "price of one GPU"),
        (bought(price=25_000_000), "error", "cents"),
        (rent("2.49", "H100"), "warning", "*H100*"),
        (rent("2.49", from_ns=NOW - 40 * 365 * DAY), "warning", "check the year"),
    ],
)
def test_units_that_were_mistaken(row: Checked, severity: str, guess: str) -> None:
    first = found(row)[0]
    assert first.severity == severity
    assert guess in first.advice


def test_an_owners_own_exchange_rate_counts_and_an_inverted_one_is_told() -> None:
    rates = Exchange([Rate("USD", "XAU", Fraction(1, 4000))])
    assert found(rent(Fraction(3, 4000), currency="XAU"), exchange=rates) == []
    assert "not known here" in found(rent(1, currency="XAU"))[0].text
    turned = found(rent("2.49"), exchange=Exchange([Rate("CNY", "USD", Fraction("7.1"))]))
    assert [(f.severity, "upside down" in f.advice) for f in turned] == [("error", True)]
    odd = found(rent("2.49"), exchange=Exchange([Rate("USD", "CNY", Fraction(71))]))
    assert [f.severity for f in odd] == ["warning"]
    assert found(exchange=Exchange([Rate("USD", "CNY", Fraction("7.1")), Rate("XAU", "CNY", Fraction(1))])) == []


def test_a_year_that_is_far_off() -> None:
    assert [f.text for f in found(rent(2), rent(2, from_ns=NOW + 900 * DAY)) if "two years ahead" in f.text]


def test_what_is_wrong_between_rows_comes_after_what_is_wrong_in_one() -> None:
    texts = [f.text for f in found(rent(2), rent(0, from_ns=NOW), rent("0.01", kind="reserved", from_ns=NOW + DAY))]
    assert [word for text in texts for word in ("is 0", "is below", "first price") if word in text] == [
        "is 0",
        "is below",
        "first price",
    ]
