"""`engineroom report` on a real ledger file, beside the ledger that has it open."""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import anyio
import pytest

from agent.cli import report as command
from agent.cli.report import hours, lines
from agent.core.cost.focus import COLUMNS
from agent.core.cost.report_forms import Page
from agent.core.cost.report_language import Question
from agent.core.cost.reports import Report, ReportQuery, ReportRow
from agent.core.ports import ConfigError
from agent.ledger.ledger import Ledger
from tests.support.focus_rules import broken_rules, read
from tests.support.ledger import T0, lived, opened
from tests.support.money import NS, HandClock, Sidecar
from tests.support.postgres import new_database, server

WINDOW = f"{T0 // NS - 3600},{T0 // NS + 7200}"


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """Two GPUs and two tenants for a while; still open."""
    found = await opened(tmp_path / "ledger.sqlite")
    settlement = await lived(found, HandClock(T0), 30, Sidecar())
    await settlement.drain()
    yield found
    found.close()


def ask(folder: Path, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_to(parser.add_subparsers())
    options = parser.parse_args(["report", "--data-dir", str(folder), "--window", WINDOW, *arguments])
    return int(options.handler(options))


async def bill(ledger: Ledger) -> int:
    return (await ledger.reconcile()).bill_nano or 0


async def test_a_table_with_exact_money(ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert ask(tmp_path, "--aggregate", "state,tenant") == 0
    out = capsys.readouterr().out
    total = next(line for line in out.splitlines() if line.startswith("total"))
    assert Decimal(total.split()[1]) * NS == await bill(ledger)
    costs = [line.split()[2] for line in out.splitlines() if line.startswith("request ")]
    assert len({len(cost.partition(".")[2]) for cost in costs}) == 1  # decimal points are below each other
    assert "acme" in out
    assert "\x1b" not in out


async def test_csv_and_json_sum_to_the_bill(ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert ask(tmp_path, "--format", "csv", "--aggregate", "tenant", "--step", "1h") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert sum(Decimal(row["cost"]) for row in rows) * NS == await bill(ledger)
    assert ask(tmp_path, "--format", "json", "--idle", "false") == 0
    body = json.loads(capsys.readouterr().out)
    assert body["total"]["cost_nano"] + body["left_out"]["cost_nano"] == await bill(ledger)


async def test_focus_sums_to_the_bill_and_keeps_the_rules(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert ask(tmp_path, "--format", "focus") == 0
    rows = read(capsys.readouterr().out)
    assert broken_rules(rows, COLUMNS) == []
    assert sum(Decimal(row["BilledCost"]) for row in rows) * NS == await bill(ledger)


async def test_a_filter_and_what_it_leaves(ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert ask(tmp_path, "--format", "json", "--aggregate", "tenant", "--filter", 'tenant:"acme"') == 0
    body = json.loads(capsys.readouterr().out)
    assert [row["group"]["tenant"] for row in body["rows"]] == ["acme"]


@pytest.mark.parametrize(
    ("arguments", "key", "says"),
    [
        (("--aggregate", "colour"), "--aggregate", "tenant, model"),
        (("--idle-policy", "x"), "--idle-policy", "owner"),
        (("--share-idle", "x"), "--share-idle", "weighted"),
        (("--filter", "x"), "--filter", "no dimension"),
        (("--limit", "0"), "--limit", "at least 1"),
        (("--format", "focus", "--aggregate", "tenant"), "--aggregate", "leave this out"),
        (("--format", "focus", "--idle-policy", "even"), "--idle-policy", "leave this out"),
    ],
)
async def test_what_is_wrong_is_told_by_the_options_name(
    ledger: Ledger, tmp_path: Path, arguments: tuple[str, ...], key: str, says: str
):
    with pytest.raises(ConfigError) as caught:
        ask(tmp_path, *arguments)
    assert caught.value.key == key
    assert says in caught.value.expected


def test_no_ledger_there_says_where_it_looked(tmp_path: Path):
    with pytest.raises(ConfigError, match=rf"there is no ledger at {tmp_path}/ledger\.sqlite; name the data folder"):
        ask(tmp_path)
    assert list(tmp_path.iterdir()) == []  # nothing is made by looking


async def test_the_folder_comes_from_the_configuration(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = tmp_path / "engineroom.yaml"
    config.write_text("storage: {data_dir: .}\n")
    parser = argparse.ArgumentParser()
    command.add_to(parser.add_subparsers())
    options = parser.parse_args(["report", "--config", str(config), "--window", WINDOW])
    assert options.handler(options) == 0
    assert "loaded_idle" in capsys.readouterr().out


async def test_focus_names_come_from_the_configuration(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = tmp_path / "engineroom.yaml"
    config.write_text("reports: {focus: {provider: Our cluster, billing_account_id: A-7}}\n")
    assert ask(tmp_path, "--format", "focus", "--config", str(config)) == 0
    told = read(capsys.readouterr().out)
    assert {(row["ProviderName"], row["PublisherName"], row["BillingAccountId"]) for row in told} == {
        ("Our cluster", "Our cluster", "A-7")
    }


@pytest.mark.component("postgres")
async def test_a_ledger_in_a_database_is_read_beside_the_agent_that_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with server() as servers:
        url = new_database(servers, "ledger")
        config = tmp_path / "engineroom.yaml"
        (tmp_path / "url").write_text(url + "\n")
        config.write_text(f"storage: {{data_dir: {tmp_path}, ledger_file: url}}\n")
        parser = argparse.ArgumentParser()
        command.add_to(parser.add_subparsers())
        options = parser.parse_args(["report", "--config", str(config), "--window", WINDOW, "--format", "json"])
        with pytest.raises(ConfigError, match=r"storage\.ledger: .*/ledger.* is no ledger of engineroom"):
            options.handler(options)
        async with await opened(url) as writer:
            await lived(writer, HandClock(T0), 5)
            assert options.handler(options) == 0
            assert json.loads(capsys.readouterr().out)["total"]["cost_nano"] == await bill(writer)
    assert not (tmp_path / "ledger.sqlite").exists()


async def test_a_reader_that_has_seen_enough_is_no_error(ledger: Ledger, tmp_path: Path):
    code = (
        "import argparse; from agent.cli import report; p = argparse.ArgumentParser(); "
        "report.add_to(p.add_subparsers()); o = p.parse_args(); raise SystemExit(o.handler(o))"
    )
    arguments = ["report", "--data-dir", str(tmp_path), "--window", WINDOW, "--format", "focus"]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = await anyio.run_process([sys.executable, "-c", code, *arguments], stdout=writing, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def made_up(tenants: list[str], cost: int = 1_234_567_890_123) -> tuple[Question, Report]:
    query = ReportQuery(start_ns=0, end_ns=3600 * NS, aggregate=("tenant", "model", "gpu_model"))
    rows = tuple(
        ReportRow(
            start_ns=0,
            end_ns=3600 * NS,
            group={"tenant": tenant, "model": "m" * 30, "gpu_model": "NVIDIA H100 80GB HBM3"},
            gpu_ns=1800 * NS,
            cost_nano=cost,
            requests=12,
        )
        for tenant in tenants
    )
    return Question(query=query), Report(
        query=query,
        currency="CNY",
        rows=rows,
        total_gpu_ns=1800 * NS * len(rows),
        total_cost_nano=cost * len(rows),
        start_ns=0,
        end_ns=3600 * NS,
    )


@pytest.mark.parametrize("columns", [40, 60, 80, 120, None])
def test_narrow_terminals_lose_figures_and_ends_of_names_but_no_digit_of_money(columns: int | None):
    told = lines(*made_up(["acme", "a-tenant-with-a-very-long-name-indeed"]), columns=columns)
    body = "\n".join(told)
    assert body.count("1234.567890123") == 2
    assert "2469.135780246" in body
    if columns is not None and columns >= 60:
        assert max(map(len, told[2:5])) <= columns
    assert ("not shown for lack of room" in body) == (columns is not None)


def test_names_from_outside_cannot_steer_a_terminal():
    told = "\n".join(lines(*made_up(["evil\x1b[31m\nname"])))
    assert "\x1b" not in told
    assert "evil\\x1b[31m\\nname" in told


def test_pages_and_empty_windows():
    asked, found = made_up(["a", "b", "c"])
    told = lines(asked, found, page=Page(offset=1, limit=1))
    assert any("1 of 3 rows" in line for line in told)
    empty = Report(query=asked.query, currency=None, rows=(), total_gpu_ns=0, total_cost_nano=None)
    assert "nothing is booked in this window" in lines(asked, empty)


def test_hours():
    assert [hours(ns) for ns in (0, 3600 * NS, 1, -1800 * NS)] == ["0.0000", "1.0000", "0.0000", "-0.5000"]
