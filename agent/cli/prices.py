"""`engineroom prices`: looks for mistakes in a price book, and makes one from somebody's CSV."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.text import plain
from agent.core.ports import ConfigError

if TYPE_CHECKING:
    from agent.core.cost.price_findings import Finding
    from agent.ledger.csv_files import Refusals

_MARKS = {"error": "ERROR  ", "warning": "WARNING", "note": "note   "}


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    command = commands.add_parser("prices", help="check a price book, or import one from CSV", description=__doc__)
    kinds = command.add_subparsers(title="what to do", required=True, metavar="ACTION")
    check = kinds.add_parser(
        "check",
        help="find wrong units and rows that never count",
        description="Looks for prices per month, per server, in cents; for missing, zero, negative and overlapping "
        "rows, rows that never count, and figures that no building has. Exit status 1 when there is an error, 0 with "
        "warnings and notes. Ranges are rough, and only for this: docs/prices.md.",
    )
    check.add_argument(
        "file", type=Path, nargs="?", help="price file or engineroom.yaml (default: the file of --config)"
    )
    check.add_argument("--config", type=Path, help="engineroom.yaml; its section `prices` is checked")
    check.set_defaults(handler=run_check)
    read = kinds.add_parser(
        "import",
        help="make a price book from a CSV file",
        description="Reads our own columns (gpu, per_gpu_hour, kind, sku, region, effective_from, currency, note), "
        "OpenCost's custom prices, or SkyPilot's catalogue (vms.csv), and prints a price book as YAML. Lines that "
        "cannot be used are told, with their numbers; then the exit status is 1.",
    )
    read.add_argument("file", type=Path, help="the CSV file")
    read.add_argument("--format", choices=("engineroom", "opencost", "skypilot"), help="default: by its header")
    read.add_argument("--currency", help="currency of lines that do not say theirs, such as CNY")
    read.add_argument("--region", help="prices of this region only")
    read.add_argument("--output", type=Path, help="file to write (must not exist); default: stdout")
    add_csv_options(read)
    read.set_defaults(handler=run_import)


def add_csv_options(command: argparse.ArgumentParser) -> None:
    """How the text of a CSV file is to be read."""
    command.add_argument("--encoding", help="default: UTF-8, or UTF-16 with its mark; else such as gb18030, cp1252")
    command.add_argument("--delimiter", help="what is between columns; default: found in the header")
    command.add_argument(
        "--decimal", choices=(".", ","), default=".", help="sign before decimals (default %(default)s)"
    )


def delimiter(options: argparse.Namespace) -> str | None:
    """One character. Raises `ConfigError`."""
    found: str | None = options.delimiter
    if found is None or len(found) == 1:
        return found
    if found in ("tab", "\\t"):
        return "\t"
    raise ConfigError("--delimiter", f"is {found!r}; expected one character, or tab")


def run_check(options: argparse.Namespace) -> int:
    """Print findings, the worst first."""
    from agent.clock import unix_ns
    from agent.ledger.pricecheck import check_file

    file = options.file or _of(options.config)
    findings = check_file(file, unix_ns())
    for line in lines(findings):
        print(line)
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    print(f"{file}: {errors or 'no'} {'error' if errors == 1 else 'errors'}, {warnings or 'no'} "
          f"{'warning' if warnings == 1 else 'warnings'}")  # fmt: skip
    return 1 if errors else 0


def _of(config: Path | None) -> Path:
    from agent.config import load

    if config is None:
        raise ConfigError("FILE", "name a price file, or an engineroom.yaml with --config")
    named = load(config).prices.file
    return named if named is not None else config


def lines(findings: Sequence["Finding"]) -> list[str]:
    """What people read: what is wrong, where, and what to do."""
    return [plain(f"{_MARKS[one.severity]} {one.where}: {one.text}; {one.advice}") for one in findings]


def run_import(options: argparse.Namespace) -> int:
    """Print the book; what was left out goes to stderr."""
    from agent.ledger.csv_files import CsvFile
    from agent.ledger.price_csv import book_lines, read_prices

    if options.output is not None and options.output.exists():
        raise ConfigError("--output", f"{options.output} is there already; nothing is written over")
    with CsvFile(options.file, encoding=options.encoding, delimiter=delimiter(options)) as table:
        found = read_prices(
            table,
            form=options.format,
            currency=options.currency,
            region=options.region,
            decimal=options.decimal,
        )
    tell_refusals(table.refusals)
    told = f"form {found.format}: {len(found.rows)} rows"
    told += f"; {found.left_out:,} lines left out (no GPU, or another region)" if found.left_out else ""
    print(f"engineroom: {told}", file=sys.stderr)
    for note in found.notes:
        print(f"engineroom: {plain(note)}", file=sys.stderr)
    if not found.rows:
        print("engineroom: there is nothing to write", file=sys.stderr)
        return 1
    text = "\n".join(book_lines(found.rows, options.file.name)) + "\n"
    if options.output is None:
        print(text, end="")
    else:
        _write(options.output, text)
    return 1 if table.refusals.count else 0


def _write(file: Path, text: str) -> None:
    try:
        with file.open("x", encoding="utf-8") as there:
            there.write(text)
    except OSError as error:
        raise ConfigError("--output", f"{file} cannot be written: {error.strerror}") from error


def tell_refusals(refusals: "Refusals") -> None:
    """Lines that were left out, and why."""
    for number, reason in refusals.first:
        print(f"engineroom: line {number}: {plain(reason)}", file=sys.stderr)
    more = refusals.count - len(refusals.first)
    if more:
        print(f"engineroom: and {more:,} more lines that cannot be used", file=sys.stderr)
