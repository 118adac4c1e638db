"""Invoices as sellers send them: FOCUS, and date, SKU, amount, currency under any names."""

from pathlib import Path
from typing import Any

import pytest

from agent.core.cost.calendar import Calendar
from agent.core.ports import ConfigError
from agent.ledger.csv_files import CsvFile, Refusals
from agent.ledger.invoice_files import fields, find_columns, read_invoice

NS = 10**9

FOCUS_COLUMNS = (
    "BilledCost,BillingCurrency,ChargeCategory,ChargeClass,ChargePeriodStart,ChargePeriodEnd,"
    "ConsumedQuantity,ConsumedUnit,InvoiceId,ResourceId,SkuId\n"
)
FOCUS = (
    FOCUS_COLUMNS
    + """\
12.5,USD,Usage,,2026-03-01T00:00:00Z,2026-03-01T01:00:00Z,1,Hours,INV-7,i-1,p5.48xlarge
0.1234567890123,USD,Usage,,2026-03-01T01:00:00Z,2026-03-01T02:00:00Z,1,Hours,INV-7,i-1,p5.48xlarge
-2.5,USD,Usage,Correction,2026-03-01T00:00:00Z,2026-03-02T00:00:00Z,,,INV-7,i-1,p5.48xlarge
1.99,USD,Tax,,2026-03-01T00:00:00Z,2026-03-03T00:00:00Z,,,INV-7,,
"""
)


def read(
    tmp_path: Path, text: str, zone: str = "UTC", named: Any = None, **options: Any
) -> tuple[list[tuple[str, str, str, int, str, str]], Refusals]:
    file = tmp_path / "march.csv"
    file.write_text(text)
    currency = options.pop("currency", None)
    with CsvFile(file) as table:
        columns = find_columns(table, named or {}, currency)
        sums = read_invoice(table, columns, Calendar(zone), source="march.csv", currency=currency, **options)
        return [(d.source, d.day, d.sku, d.nano, d.currency, d.kind) for d in sums.days()], table.refusals


def test_focus(tmp_path: Path) -> None:
    days, refusals = read(tmp_path, FOCUS)
    assert refusals.count == 0
    assert days == [
        ("INV-7", "2026-03-01", "Tax", 995_000_000, "USD", ""),
        ("INV-7", "2026-03-01", "p5.48xlarge", 12_623_456_789, "USD", ""),
        ("INV-7", "2026-03-01", "p5.48xlarge", -2_500_000_000, "USD", "correction"),
        ("INV-7", "2026-03-02", "Tax", 995_000_000, "USD", ""),
    ]


@pytest.mark.parametrize(
    "header",
    [
        "date,sku,amount,currency",
        "Usage Date;SKU;Cost;Currency",
        "\ufeffUsage_Start_Date\tProduct\tNet Amount\tcurrency_code",
        "日期,产品,金额,币种",
    ],
)
def test_headers_that_are_known(tmp_path: Path, header: str) -> None:
    by = next(sign for sign in ";\t," if sign in header)
    line = by.join(["2026-03-01", "H100 hour", "12.5", "CNY"])
    days, _ = read(tmp_path, f"{header}\r\n{line}\r\n")
    assert days == [("march.csv", "2026-03-01", "H100 hour", 12_500_000_000, "CNY", "")]


def test_columns_can_be_named(tmp_path: Path) -> None:
    text = "when,what,date,to pay\n2026-03-02,a,2026-03-01,5\n"
    named = {"date": "when", "sku": "what", "amount": "to pay"}
    days, _ = read(tmp_path, text, named=named, currency="EUR")
    assert days == [("march.csv", "2026-03-02", "a", 5 * NS, "EUR", "")]
    with pytest.raises(ConfigError, match=r"--sku: .* has no column 'nothing'; it has when, what"):
        read(tmp_path, text, named={**named, "sku": "nothing"}, currency="EUR")
    with pytest.raises(ConfigError, match="no column that is known to be the sku; name it with --sku"):
        read(tmp_path, text, currency="EUR")
    with pytest.raises(ConfigError, match="does not say its currency"):
        read(tmp_path, text, named=named)
    assert set(named) < set(fields())


@pytest.mark.parametrize(
    ("start", "end", "zone", "days"),
    [
        ("2026-03-01", "", "Asia/Shanghai", {"2026-03-01": 100}),
        ("2026-03-01", "2026-03-04", "UTC", {f"2026-03-0{day}": 25 for day in range(1, 5)}),  # the last day counts
        ("20260301", "20260302", "UTC", {"2026-03-01": 50, "2026-03-02": 50}),
        ("2026/03/01", "", "UTC", {"2026-03-01": 100}),
        ("2026-03-01T16:00:00Z", "2026-03-02T16:00:00Z", "Asia/Shanghai", {"2026-03-02": 100}),
        ("2026-03-01 00:00:00 UTC", "2026-03-02 00:00:00", "UTC", {"2026-03-01": 100}),
        ("2026-03-01T12:00:00+08:00", "2026-03-02T12:00:00+08:00", "Asia/Shanghai",
         {"2026-03-01": 50, "2026-03-02": 50}),
        ("2026-03-01T22:15:30.5Z", "", "UTC", {"2026-03-01": 100}),
    ],
)  # fmt: skip
def test_times(tmp_path: Path, start: str, end: str, zone: str, days: dict[str, int]) -> None:
    found, refusals = read(tmp_path, f"start,end,sku,amount,currency\n{start},{end},x,100,USD\n", zone)
    assert refusals.first == []
    assert {day: nano for _, day, _, nano, _, _ in found} == {day: part * NS for day, part in days.items()}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("2026-02-30,x,1,USD", "'2026-02-30' is no date"),
        ("soon,x,1,USD", "is no date"),
        ("0001-01-01,x,1,USD", "is no date"),
        (",x,1,USD", "date: is empty"),
        ("2026-03-01,,1,USD", "sku: is empty"),
        ("2026-03-01,x,,USD", "amount: is empty"),
        ("2026-03-01,x,1,", "currency: ''"),
        ("2026-03-01,x,1,usd", "three letters"),
        ('2026-03-01,x,"1,000",USD', "has a ','"),
        ("2026-03-01,x,=1+1,USD", "formula"),
        ("2026-03-01,=cmd,1,USD", "formula"),
        ("2026-03-01,x,NaN,USD", "not a number"),
        ("2026-03-01,x,1e29,USD", "is more than 9,223,372,036"),
        (f"2026-03-01,{'x' * 201},1,USD", "more than 200 characters"),
        ("2026-03-01,a\u202eb,1,USD", "cannot be printed"),
    ],
)
def test_lines_that_cannot_be_used(tmp_path: Path, line: str, told: str) -> None:
    days, refusals = read(tmp_path, f"date,sku,amount,currency\n2026-03-01,y,1,USD\n{line}\n2026-03-01,y,1,USD\n")
    assert [day[3] for day in days] == [2 * NS]
    assert refusals.first[0][0] == 3
    assert told in refusals.first[0][1]


def test_focus_classes_are_known(tmp_path: Path) -> None:
    _, refusals = read(tmp_path, FOCUS.replace(",Correction,", ",Refund,"))
    assert [line for line, _ in refusals.first] == [4]


def test_decimal_commas(tmp_path: Path) -> None:
    text = "date;sku;amount;currency\n2026-03-01;x;1234,56;EUR\n2026-03-01;x;1.234,56;EUR\n"
    days, refusals = read(tmp_path, text, decimal=",")
    assert days[0][3] == 1_234_560_000_000
    assert refusals.first[0][0] == 3


def test_lines_of_very_many_skus_are_no_invoice(tmp_path: Path) -> None:
    lines = "".join(f"2026-01-01,2026-12-31,i-{number},1,USD\n" for number in range(600))
    with pytest.raises(ConfigError, match="more than 200,000 days x SKUs"):
        read(tmp_path, "start,end,resource_id,amount,currency\n" + lines)
