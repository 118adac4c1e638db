"""`engineroom invoice import`: puts a real invoice beside our own bill, so that the report can say what differs."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.prices import add_csv_options, delimiter, tell_refusals
from agent.cli.text import plain
from agent.core.ports import ConfigError, TryLater

if TYPE_CHECKING:
    from agent.config import Settings
    from agent.core.cost.invoices import BilledDay
    from agent.ledger.invoice_files import Field
    from agent.ledger.invoices import Import

_COLUMNS: "dict[str, tuple[Field, str]]" = {
    "--date": ("date", "column with the day, or the start of the time"),
    "--end": ("end", "column with the end of the time"),
    "--sku": ("sku", "column with what is charged"),
    "--amount": ("amount", "column with the amount"),
    "--currency-column": ("currency", "column with the currency"),
    "--quantity": ("quantity", "column with the quantity"),
    "--unit": ("unit", "column with its unit"),
}


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    command = commands.add_parser(
        "invoice", help="import a real invoice, to compare our bill with", description=__doc__
    )
    kinds = command.add_subparsers(title="what to do", required=True, metavar="ACTION")
    read = kinds.add_parser(
        "import",
        help="import a CSV or FOCUS file into the ledger",
        description="Reads lines of date, SKU, amount and currency (or FOCUS) into the ledger, by local day and SKU; "
        "the agent may be running. Importing the same file again changes nothing. Lines that cannot be used are told, "
        "with their numbers, and nothing is imported unless --partial says that the others shall be.",
    )
    read.add_argument("file", type=Path, help="the CSV file")
    read.add_argument("--config", type=Path, help="the agent's engineroom.yaml, for its data folder and time zone")
    read.add_argument("--data-dir", type=Path, metavar="FOLDER", help="the agent's data folder, where its ledger is")
    read.add_argument("--time-zone", help="whose days are meant (default: the agent's)")
    read.add_argument("--source", help="name of the invoice, where the file does not say (default: the file's name)")
    read.add_argument("--currency", help="currency of lines that do not say theirs, such as USD")
    read.add_argument(
        "--corrects", action="store_true", help="it replaces what was imported before: book the difference"
    )
    read.add_argument("--partial", action="store_true", help="import the good lines of a file that has bad ones")
    read.add_argument("--dry-run", action="store_true", help="read and add up only")
    for option, (field, text) in _COLUMNS.items():
        read.add_argument(option, dest=f"column_{field}", metavar="COLUMN", help=text)
    add_csv_options(read)
    read.set_defaults(handler=run_import)


def run_import(options: argparse.Namespace) -> int:
    """Import; 1 when not all of it could be."""
    from agent.config import load
    from agent.core.cost.calendar import Calendar
    from agent.ledger.csv_files import CsvFile
    from agent.ledger.invoice_files import find_columns, read_invoice

    settings = load(options.config) if options.config else None
    zone = options.time_zone or (settings.node.time_zone if settings else "UTC")
    try:
        calendar = Calendar(zone)
    except ValueError as error:
        raise ConfigError("--time-zone", str(error)) from error
    named = {field: name for field, _ in _COLUMNS.values() if (name := getattr(options, f"column_{field}"))}
    with CsvFile(options.file, encoding=options.encoding, delimiter=delimiter(options)) as table:
        columns = find_columns(table, named, options.currency)
        sums = read_invoice(
            table,
            columns,
            calendar,
            source=options.source or options.file.name,
            currency=options.currency,
            decimal=options.decimal,
        )
    tell_refusals(table.refusals)
    try:
        days = sums.days()
    except ValueError as error:
        raise ConfigError(str(options.file), str(error)) from error
    totals: dict[str, int] = {}
    for day in days:
        totals[day.currency] = totals.get(day.currency, 0) + day.nano
    print(f"{options.file}: {len(days):,} days x SKUs in days of {zone}, {_money(totals)}")
    if table.refusals.count and not options.partial:
        print("engineroom: nothing was imported; mend those lines, or leave them out with --partial", file=sys.stderr)
        return 1
    if not days or options.dry_run:
        print("nothing was imported")
        return 1 if table.refusals.count or not days else 0
    where = _ledger(options.data_dir, settings)
    return max(import_here(where, days, zone, corrects=options.corrects), 1 if table.refusals.count else 0)


def import_here(
    where: Path | str, days: "list[BilledDay]", zone: str, *, corrects: bool, lock_seconds: float = 10.0
) -> int:
    """Add days to the ledger and say what was done; 1 when it could not be."""
    from agent.clock import unix_ns
    from agent.ledger.invoices import Differs, import_days

    try:
        done = import_days(where, days, zone, unix_ns(), corrects=corrects, lock_seconds=lock_seconds)
    except TryLater as error:
        print(f"engineroom: {error.reason}", file=sys.stderr)
        return 1
    except Differs as error:
        first = error.first
        print(
            f"engineroom: {error.days:,} days of it were imported before with other amounts, such as "
            f"{plain(first.sku)} on {first.day}; nothing was imported. If this file replaces that "
            "invoice, say --corrects; if it is another invoice of the same name, give it its own with --source",
            file=sys.stderr,
        )
        return 1
    for line in _done(done):
        print(line)
    return 0


def _done(done: "Import") -> list[str]:
    if not done.added and not done.corrected:
        return [f"nothing new: all {done.same:,} days were imported before"]
    lines = [f"imported {done.added:,} days x SKUs, {done.corrected:,} corrections, {_money(done.nano)}"]
    return lines + ([f"{done.same:,} were there already"] if done.same else [])


def _money(totals: dict[str, int]) -> str:
    from agent.core.cost.money import NANO

    return ", ".join(
        f"{'-' if nano < 0 else ''}{abs(nano) // NANO:,}.{abs(nano) % NANO:09d} {name}" for name, nano in totals.items()
    ) or "nothing"  # fmt: skip


def _ledger(folder: Path | None, settings: "Settings | None") -> Path | str:
    """The database that the configuration names, else the file in the data folder."""
    from agent.datafolder import default_folder
    from agent.ledger.postgresql import database_of

    if folder is None and settings is not None:
        named = database_of(settings.storage.ledger, settings.storage.ledger_file)
        if named is not None:
            return named
        folder = settings.storage.data_dir
    return (folder or default_folder(dict(os.environ), is_root=os.geteuid() == 0)) / "ledger.sqlite"
