"""Price files as a whole: every mistake with its line, and the shipped example without one."""

from pathlib import Path

import pytest

from agent.core.cost.price_findings import Finding
from agent.core.ports import ConfigError
from agent.ledger.pricecheck import check_file

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy/examples/prices.yaml"
NOW = 1_800_000_000 * 10**9


def check(tmp_path: Path, text: str) -> list[Finding]:
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    return [finding for finding in check_file(file, NOW) if finding.severity != "note"]


def test_the_example_is_right() -> None:
    assert [f for f in check_file(EXAMPLE, NOW) if f.severity != "note"] == []


GOOD = 'books:\n  - currency: USD\n    rows:\n      - {gpu: "NVIDIA L4", per_gpu_hour: 0.44}\n'


@pytest.mark.parametrize(
    ("row", "where", "text"),
    [
        ('{gpu: "NVIDIA L40", per_gpu_hour: -1}', ":5: books.0.rows.1.per_gpu_hour", "-1: must not be negative"),
        ('{gpu: "NVIDIA L40", per_gpu_hour: 0}', ":5: books.0.rows.1 (NVIDIA L40)", "the price is 0"),
        ('{gpu: "NVIDIA L40", per_gpu_hour: .nan}', "per_gpu_hour", "finite"),
        ('{gpu: "NVIDIA L40", per_gpu_hour: .inf}', "per_gpu_hour", "finite"),
        ('{gpu: "NVIDIA L40"}', ":5: books.0.rows.1", "exactly one of"),
        ('{gpu: "NVIDIA L40", per_gpu_hour: "1,200.50"}', "per_gpu_hour", "`1,200.50` has separators in it"),
        ('{gpu: "NVIDIA L40", per_gpu_hour: 1 200}', "per_gpu_hour", "`1 200` has separators in it"),
        ('{gpu: "NVIDIA L40", per_gpu_hour: 1e40}', "per_gpu_hour", "finite"),
        ('{gpu: "NVIDIA L4", per_gpu_hour: 0.5}', ":5: books.0.rows.1 (NVIDIA L4)", "prices.yaml:4: books.0.rows.0"),
        ('{gpu: "NVIDIA L40", per_gpu_hour: 650}', ":5: books.0.rows.1", "650 USD for a GPU hour is above"),
        ('{gpu: "NVIDIA L40", purchase: {price: 6000, life_years: 4, pue: 12}}', "purchase.pue", "between 1 and 10"),
        ('{gpu: "NVIDIA L40", kind: rented, per_gpu_hour: 1}', "rows.1.kind", "Input should be"),
        ('{gpu: "NVIDIA L40", per_gpu_hour: 1, mig: {1g.6gb: 1/0}}', "rows.1.mig.1g.6gb", "divided by 0"),
        ('{gpu: "NVIDIA L40", per_gpu_hour: 1, mig: {1g.6gb: 7}}', "rows.1.mig.1g.6gb", "part of the GPU such as 1/7"),
        ("5", ":5: books.0.rows.1", "valid dictionary"),
    ],
)
def test_every_mistake_with_its_line(tmp_path: Path, row: str, where: str, text: str) -> None:
    (first, *_) = check(tmp_path, f"{GOOD}      - {row}\n")
    assert first.severity == "error"
    assert where in first.where
    assert text in first.text


def test_one_bad_row_does_not_hide_the_others(tmp_path: Path) -> None:
    found = check(tmp_path, GOOD + "      - {gpu: x}\n      - {gpu: y, per_gpu_hour: 0}\n      - {gpu: z, oops: 1}\n")
    assert [f.where.split(":")[1] for f in found if f.severity == "error"] == ["5", "7", "6"]


def test_the_electricity_of_a_purchase_is_looked_at(tmp_path: Path) -> None:
    found = check(
        tmp_path,
        GOOD.replace("per_gpu_hour: 0.44", "purchase: {price: 2500, life_years: 4, power_watts: 100, electricity: "
                     "{time_zone: Asia/Shanghai, per_kwh: 0.1, periods: [{start: '08:00', end: 22:00, per_kwh: 12}]}}"),
    )  # fmt: skip
    assert [f.text for f in found] == ["12 for a kilowatt hour; usual are 0.015 to 0.7"]


@pytest.mark.parametrize(
    ("text", "where", "told"),
    [
        ("books: [{currency: USD, rows: []}]", "books.0", "a book without rows"),
        ("books: [5]", "books.0", "a book without rows"),
        ("books: [{currency: dollars, rows: [{gpu: x, per_gpu_hour: 1}]}]", "books.0.currency", "match pattern"),
        (GOOD + "  - currency: USD\n    rows: [{gpu: x, per_gpu_hour: 1}]\n", "books", "two books have the same"),
        (GOOD + "exchange: [{from: USD, to: USD, rate: 1}]\n", "exchange.0", "are both USD"),
        (GOOD + "exchange: [{from: USD, to: CNY, rate: 0}]\n", "exchange.0.rate", "greater than 0"),
        (GOOD + "exchange: [{from: USD, to: CNY, rate: 0.14}]\n", "exchange USD to CNY", "usual is about 7.1"),
        (
            GOOD + "exchange: [{from: USD, to: CNY, rate: 7}, {from: USD, to: CNY, rate: 7.1}]\n",
            "exchange",
            "same time",
        ),
        (GOOD + "exchange: 7\n", "exchange", "valid tuple"),
        (GOOD + "colour: red\n", "colour", "not permitted"),
    ],
)
def test_the_file_around_the_rows(tmp_path: Path, text: str, where: str, told: str) -> None:
    found = check(tmp_path, text)
    assert [f for f in found if f.severity == "error" and where in f.where and told in f.text], found


def test_the_section_of_a_configuration(tmp_path: Path) -> None:
    text = "api: {}\nprices:\n  currency: USD\n" + "".join(f"  {line}\n" for line in GOOD.splitlines())
    assert check(tmp_path, text) == []
    (found,) = check(tmp_path, text.replace("0.44", "44"))
    assert ":7: prices.books.0.rows.0 (NVIDIA L4)" in found.where


@pytest.mark.parametrize(
    ("text", "told"), [("", "no price books"), ("books: {", "not valid YAML"), ("prices: {}", "no price books"),
                       ("[1]", "no price books"), ("books: 2026-02-31", "not valid YAML")]
)  # fmt: skip
def test_what_is_no_price_file(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check(tmp_path, text)
    with pytest.raises(ConfigError, match="cannot be read"):
        check_file(tmp_path / "nowhere.yaml", NOW)
