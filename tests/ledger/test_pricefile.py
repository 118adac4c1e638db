"""Price files: the shipped example priced by hand here, and every impossible value refused by name."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import ConfigErrors, load
from agent.core.ports import ConfigError
from agent.ledger.pricefile import load_prices
from agent.ledger.settings import PricesSettings

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy/examples/prices.yaml"
HOUR_NS = 3600 * 10**9
T0 = 1_800_000_000 * 10**9


def text_tree(file: Path) -> Any:
    """The YAML with every number as the text that is written there."""
    return yaml.load(file.read_text(), yaml.BaseLoader)


def by_hand(row: dict[str, Any]) -> Fraction:
    """Price of a GPU hour, from the explanation at the head of the example file."""
    if "per_gpu_hour" in row:
        return Fraction(row["per_gpu_hour"])
    p = {key: Fraction(value) for key, value in row["purchase"].items()}
    zero = Fraction(0)
    fixed = (p["price"] - p.get("salvage", zero) + p.get("installation", zero)) / p["gpus"] / (p["life_years"] * 8760)
    upkeep = p.get("maintenance_per_year", zero) / p["gpus"] / 8760
    return fixed + upkeep + p["power_watts"] / 1000 * p["pue"] * p["energy_price_per_kwh"] + p["other_per_hour"]


@pytest.mark.parametrize("currency", ["CNY", "USD"])
@pytest.mark.parametrize(
    ("model", "pattern"),
    [
        ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("NVIDIA GeForce RTX 4080 SUPER", "NVIDIA GeForce RTX 4080 SUPER*"),
        ("NVIDIA A100-PCIE-40GB", "NVIDIA A100-*-40GB"),
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-*-40GB"),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3"),
    ],
)
def test_the_example_is_priced_as_it_says(currency: str, model: str, pattern: str) -> None:
    book = load_prices(PricesSettings(file=EXAMPLE, currency=currency))
    assert book is not None
    rows = next(b["rows"] for b in text_tree(EXAMPLE)["books"] if b["currency"] == currency)
    row = next(r for r in rows if r["gpu"] == pattern and "effective_from" not in r)
    per_hour = by_hand(row)
    for length in (1, 999, HOUR_NS, 10 * HOUR_NS + 7):
        exact = per_hour * 10**9 * length / HOUR_NS
        at = T0 - 365 * 24 * HOUR_NS
        assert book.bill(model, at, at + length) == exact.numerator // exact.denominator


@pytest.mark.parametrize(
    ("pattern", "gpus", "low", "high"),
    [
        ("NVIDIA GeForce RTX 4090", 1, 10_000, 20_000),
        ("NVIDIA A100-*-40GB", 2, 100_000, 150_000),
        ("NVIDIA A100-SXM4-80GB", 4, 300_000, 400_000),
        ("NVIDIA H100 80GB HBM3", 8, 1_000_000, 10_000_000),
    ],
)
def test_the_examples_hardware_prices(pattern: str, gpus: int, low: int, high: int) -> None:
    rows = next(b["rows"] for b in text_tree(EXAMPLE)["books"] if b["currency"] == "CNY")
    for row in rows:
        if row["gpu"] == pattern:
            assert int(row["purchase"]["gpus"]) == gpus
            assert low <= int(row["purchase"]["price"]) <= high


PURCHASE = {"price": 1000, "life_years": 4}


@pytest.mark.parametrize(
    ("row", "key", "expected"),
    [
        ({"purchase": PURCHASE | {"salvage": 1001}}, "purchase", "salvage <= price"),
        ({"purchase": PURCHASE | {"life_years": 0}}, "purchase.life_years", "greater than 0"),
        ({"purchase": PURCHASE | {"life_years": 400}}, "purchase", "such as 4"),
        ({"purchase": PURCHASE | {"price": -5}}, "purchase.price", "not be negative"),
        ({"purchase": PURCHASE | {"pue": 0.9}}, "purchase.pue", "between 1 and 10"),
        ({"purchase": PURCHASE | {"gpus": 0}}, "purchase.gpus", "greater than or equal to 1"),
        ({"purchase": PURCHASE | {"power_watts": "much"}}, "purchase.power_watts", "expected a number"),
        ({"purchase": PURCHASE | {"other_per_hour": float("nan")}}, "purchase.other_per_hour", "finite"),
        ({"purchase": PURCHASE, "per_gpu_hour": 1}, "books.0.rows.0", "exactly one of"),
        ({}, "books.0.rows.0", "exactly one of"),
        ({"per_gpu_hour": -0.1}, "per_gpu_hour", "not be negative"),
        ({"per_gpu_hour": 1, "effective_from": "soon"}, "effective_from", "expected a date"),
        ({"per_gpu_hour": 1, "colour": "red"}, "colour", "not permitted"),
    ],
)
def test_impossible_values_are_refused_by_name(tmp_path: Path, row: dict[str, Any], key: str, expected: str) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(yaml.safe_dump({"books": [{"currency": "CNY", "rows": [{"gpu": "x", **row}]}]}))
    with pytest.raises(ConfigError) as refused:
        load_prices(PricesSettings(file=file))
    assert key in refused.value.key
    assert expected in refused.value.expected
    config = tmp_path / "engineroom.yaml"
    config.write_text(yaml.safe_dump({"prices": yaml.safe_load(file.read_text())}))
    with pytest.raises(ConfigErrors, match=r"prices\.books\.0\.rows\.0"):
        load(config, {})


def test_decimals_are_read_as_written(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text("books: [{currency: CNY, rows: [{gpu: x, per_gpu_hour: 0.123456789012345678901234567}]}]")
    book = load_prices(PricesSettings(file=file))
    assert book is not None
    assert book.price_at("x", T0) == Fraction("0.123456789012345678901234567") * 10**9 / HOUR_NS


@pytest.mark.parametrize(
    ("settings", "key", "expected"),
    [
        ({"file": EXAMPLE}, "prices.currency", "CNY, USD"),
        ({"file": EXAMPLE, "currency": "EUR"}, "prices.currency", "no book in EUR"),
        ({"file": Path("/nowhere/prices.yaml")}, "prices.file", "cannot be read"),
    ],
)
def test_the_choice_of_a_book(settings: dict[str, Any], key: str, expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_prices(PricesSettings(**settings))
    assert refused.value.key == key
    assert expected in refused.value.expected


def test_no_prices_is_no_book() -> None:
    assert load_prices(PricesSettings()) is None


def test_dates_are_midnight_utc(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(
        "books: [{currency: CNY, rows: [{gpu: x, per_gpu_hour: 1, effective_from: 2027-01-15},"
        " {gpu: x, per_gpu_hour: 2, effective_from: 2027-01-15T08:00:00+08:00}]}]"
    )
    with pytest.raises(ConfigError, match="same time"):
        load_prices(PricesSettings(file=file))
    file.write_text("books: [{currency: CNY, rows: [{gpu: x, per_gpu_hour: 1, effective_from: 2027-01-15}]}]")
    book = load_prices(PricesSettings(file=file))
    assert book is not None
    assert book.priced_from("x", 0) == 1_799_971_200 * 10**9
