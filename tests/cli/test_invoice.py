"""`engineroom invoice import`: into the ledger of an agent that is running."""

import argparse
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.cli import invoice
from agent.core.ports import ConfigError
from agent.ledger.ledger import Ledger

MARCH = "date,sku,amount,currency\n2026-03-01,h100,12.5,USD\n2026-03-02,h100,13,USD\n"


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Path]:
    ledger = await Ledger.open(tmp_path / "ledger.sqlite", "node")
    yield tmp_path
    ledger.close()


def run(folder: Path, text: str, *arguments: str) -> int:
    file = folder / "march.csv"
    file.write_text(text)
    parser = argparse.ArgumentParser()
    invoice.add_to(parser.add_subparsers())
    options = parser.parse_args(["invoice", "import", str(file), "--data-dir", str(folder), *arguments])
    status: int = options.handler(options)
    return status


def rows(folder: Path) -> list[tuple[str, str, int, str]]:
    with sqlite3.connect(folder / "ledger.sqlite") as connection:
        found = connection.execute("SELECT source, day, nano, kind FROM invoices ORDER BY day, nano").fetchall()
    connection.close()
    return found


async def test_import_once_twice_and_corrected(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, MARCH) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{folder}/march.csv: 2 days x SKUs in days of UTC, 25.500000000 USD",
        "imported 2 days x SKUs, 0 corrections, 25.500000000 USD",
    ]
    assert run(folder, MARCH) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing new: all 2 days were imported before"
    other = MARCH.replace("12.5", "12.25")
    assert run(folder, other) == 1
    told = capsys.readouterr().err
    assert "1 days of it were imported before with other amounts, such as h100 on 2026-03-01; nothing was" in told
    assert run(folder, other, "--corrects") == 0
    assert "1 corrections, -0.250000000 USD" in capsys.readouterr().out
    assert run(folder, MARCH, "--source", "other") == 0
    assert rows(folder) == [
        ("march.csv", "2026-03-01", -250_000_000, "correction"),
        ("march.csv", "2026-03-01", 12_500_000_000, ""),
        ("other", "2026-03-01", 12_500_000_000, ""),
        ("march.csv", "2026-03-02", 13_000_000_000, ""),
        ("other", "2026-03-02", 13_000_000_000, ""),
    ]


async def test_a_bad_line_stops_it_unless_it_may_be_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = MARCH + "2026-03-03,h100,=1,USD\n"
    assert run(folder, bad) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "engineroom: line 4: amount: '=1' is a spreadsheet formula; expected a number"
    assert "nothing was imported" in told[1]
    assert rows(folder) == []
    assert run(folder, bad, "--partial") == 1
    assert len(rows(folder)) == 2


async def test_columns_days_and_currency_by_options(folder: Path) -> None:
    text = "when;what;net\n2026-03-01T20:00:00Z;h100;1.234,5\n2026-03-01T20:00:00Z;h100;1,5\n"
    options = ("--date", "when", "--sku", "what", "--amount", "net", "--currency", "CNY", "--decimal", ",")
    assert run(folder, text, *options, "--time-zone", "Asia/Shanghai", "--partial") == 1
    assert {day: nano for _, day, nano, _ in rows(folder)} == {"2026-03-02": 1_500_000_000}


async def test_nothing_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, MARCH, "--dry-run") == 0
    assert run(folder, "date,sku,amount,currency\n") == 1
    assert capsys.readouterr().out.count("nothing was imported") == 2
    with pytest.raises(ConfigError, match="there is no time zone"):
        run(folder, MARCH, "--time-zone", "Nowhere")
    with pytest.raises(ConfigError, match="more than 9,223,372,036 USD"):
        run(folder, MARCH.replace("12.5", "9e9").replace("-02", "-01").replace("13", "9e9"))
    assert rows(folder) == []


async def test_a_ledger_that_is_kept_locked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    holder = sqlite3.connect(folder / "ledger.sqlite", isolation_level=None)
    try:
        holder.execute("BEGIN IMMEDIATE")
        assert invoice.import_here(folder / "ledger.sqlite", [], "UTC", corrects=False, lock_seconds=0.05) == 1
    finally:
        holder.close()
    assert "nothing was imported" in capsys.readouterr().err


async def test_the_configuration_says_where(folder: Path) -> None:
    config = folder / "engineroom.yaml"
    config.write_text(f"storage: {{data_dir: {folder}}}\n")
    file = folder / "march.csv"
    file.write_text(MARCH)
    parser = argparse.ArgumentParser()
    invoice.add_to(parser.add_subparsers())
    options = parser.parse_args(["invoice", "import", str(file), "--config", str(config)])
    assert options.handler(options) == 0
    assert len(rows(folder)) == 2


def test_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no ledger at"):
        run(tmp_path, MARCH)
