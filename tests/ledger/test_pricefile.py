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


FULL = """
exchange:
  - {from: USD, to: CNY, rate: 7.1, effective_from: 2026-01-01}
  - {from: USD, to: CNY, rate: 7.3, effective_from: 2027-01-15}
books:
  - currency: CNY
    rows:
      - gpu: "NVIDIA H20"
        sku: rack-7
        mig: {1g.12gb: 1/7, 3g.48gb: 0.5}
        purchase:
          price: 35040
          life_years: 4
          colocation_per_month: 730
          network_per_month: 73
          power_watts: 500
          pue: 1.4
          electricity: &power
            time_zone: Asia/Shanghai
            per_kwh: 0.70
            periods:
              - {start: 23:00, end: 07:00, per_kwh: 0.30}
              - {start: "08:00", end: 22:00, per_kwh: 1.10, days: [monday, friday], months: [1, 7]}
      - {gpu: "NVIDIA L20", purchase: {price: 17520, life_years: 2, power_watts: 100, electricity: *power}}
  - currency: USD
    rows:
      - {gpu: "NVIDIA L4", per_gpu_hour: 0.50}
      - {gpu: "NVIDIA L4", kind: spot, per_gpu_hour: 0.20}
      - {gpu: "NVIDIA L4", kind: reserved, region: eu, sku: three-years, per_gpu_hour: 0.30}
"""


def per_hour(book: Any, model: str, at: int, gpu: str = "") -> Fraction | None:
    price = book.price_at(model, at, gpu)
    return None if price is None else price * HOUR_NS / 10**9


def test_everything_that_a_row_can_say(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(FULL)
    gpus = [{"gpu": "GPU-1", "kind": "spot"}, {"gpu": "GPU-2", "region": "eu", "kind": "reserved"}]
    settings = {"currency": "CNY", "kind": None, "gpus": gpus}
    book = load_prices(PricesSettings(file=file, **settings))
    assert book is not None
    # T0 is a Friday in January, 16:00 in Shanghai.
    assert per_hour(book, "NVIDIA H20", T0) == 1 + 1 + Fraction("0.1") + Fraction("0.7") * Fraction("1.1")
    assert per_hour(book, "NVIDIA H20", T0 + 7 * HOUR_NS) == 1 + 1 + Fraction("0.1") + Fraction("0.7") * Fraction("0.3")
    assert per_hour(book, "NVIDIA L20", T0 + 15 * HOUR_NS) == 1 + Fraction("0.1") * Fraction("0.7")
    row = book.row_at("NVIDIA H20", T0)
    assert row is not None
    assert (row.kind, row.sku, row.mig_weight("1g.12gb"), row.mig_weight("3g.48gb")) == (
        "owned", "rack-7", Fraction(1, 7), Fraction(1, 2),
    )  # fmt: skip
    # T0 is 2027-01-15: the second rate.
    assert per_hour(book, "NVIDIA L4", T0) == Fraction("0.5") * Fraction("7.3")
    assert per_hour(book, "NVIDIA L4", T0 - 24 * HOUR_NS) == Fraction("0.5") * Fraction("7.1")
    assert per_hour(book, "NVIDIA L4", T0, "GPU-1") == Fraction("0.2") * Fraction("7.3")
    assert per_hour(book, "NVIDIA L4", T0, "GPU-2") == Fraction("0.3") * Fraction("7.3")
    assert per_hour(book, "NVIDIA L4", T0 - 400 * 24 * HOUR_NS) is None
    # Dollars by the inverse rate, or of their own book.
    other = load_prices(PricesSettings(file=file, currency="USD", kind="owned"))
    assert other is not None
    assert per_hour(other, "NVIDIA L4", T0) is None
    assert per_hour(other, "NVIDIA L20", T0 + 15 * HOUR_NS) == (1 + Fraction("0.07")) / Fraction("7.3")


def test_a_currency_without_a_book_needs_a_rate(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(FULL)
    rate = {"from": "CNY", "to": "EUR", "rate": "0.13"}
    book = load_prices(PricesSettings.model_validate({"file": file, "currency": "EUR", "exchange": [rate]}))
    assert book is not None
    assert per_hour(book, "NVIDIA L20", T0 + 15 * HOUR_NS) == (1 + Fraction("0.07")) * Fraction("0.13")
    assert "no exchange rate from USD to EUR" in (book.why_unpriced("NVIDIA L4", T0) or "")


@pytest.mark.parametrize(
    ("before", "after", "key", "expected"),
    [
        ("Asia/Shanghai", "Asia/Nowhere", "electricity.time_zone", "unknown time zone"),
        ("start: 23:00", "start: 25:00", "periods.0.start", "time of day such as 08:00"),
        ("start: 23:00", "start: soon", "periods.0.start", "time of day such as 08:00"),
        ("end: 07:00", "end: 23:00", "periods.0", "same time of day"),
        ("days: [monday", "days: [moonday", "periods.1.days", "monday"),
        ("months: [1", "months: [13", "periods.1.months", "12"),
        ("pue: 1.4", "energy_price_per_kwh: 1", "purchase", "not both"),
        ("1/7", "8/7", "mig.1g.12gb", "at most 1"),
        ("kind: spot", "kind: stolen", "kind", "on_demand"),
        ("to: CNY, rate: 7.1", "to: CNY, rate: -7.1", "exchange.0.rate", "not be negative"),
        ("effective_from: 2027-01-15", "effective_from: 2026-01-01", "exchange", "same time"),
    ],
)
def test_impossible_values_of_the_new_keys(tmp_path: Path, before: str, after: str, key: str, expected: str) -> None:
    file = tmp_path / "prices.yaml"
    assert before in FULL
    file.write_text(FULL.replace(before, after, 1))
    with pytest.raises(ConfigError) as refused:
        load_prices(PricesSettings(file=file, currency="CNY"))
    assert key in refused.value.key
    assert expected in refused.value.expected


def test_a_gpu_has_one_choice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="listed twice"):
        PricesSettings.model_validate({"gpus": [{"gpu": "GPU-1", "kind": "spot"}, {"gpu": "GPU-1", "kind": "owned"}]})
