"""Numbers, ages and rows → text for people: columns that line up, nothing that could steer a terminal."""

import os
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from agent.clock import NS

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: int) -> str:
    """Bytes with a binary unit, such as 16.0 MiB."""
    value = float(count)
    for unit in UNITS:
        if value < 1024 or unit == UNITS[-1]:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the last unit has no end")


def age(seconds: float) -> str:
    """A time that has passed, in its two largest units."""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def instant(at_ns: int) -> str:
    """Unix nanoseconds as UTC to the second; the number itself where no calendar reaches."""
    try:
        return datetime.fromtimestamp(at_ns // NS, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"{at_ns} ns"


def plain(text: str) -> str:
    """Text from elsewhere on one line: what is not printable is written as an escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def width() -> int | None:
    """Columns of the terminal (or of COLUMNS); None where lines may be as long as they are, as in a file."""
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        return None
    return shutil.get_terminal_size().columns


def cut(line: str, most: int | None) -> str:
    """The line, with a sign at its end where something was left out."""
    return line if most is None or len(line) <= most else line[: max(1, most - 1)] + "…"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> list[str]:
    """Lines with aligned columns. `right`: one letter for each column, r for those aligned to the right."""
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [
            cell.rjust(widths[at]) if right[at : at + 1] == "r" else cell.ljust(widths[at])
            for at, cell in enumerate(row)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
