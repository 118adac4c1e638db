"""`engineroom report`: what GPU time cost and whom, read from the ledger beside a running agent → tables, CSV, JSON."""

import argparse
import json
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.text import cut, plain, table, width
from agent.core.cost.calendar import HOUR_NS, Calendar
from agent.core.cost.filter_language import DIMENSIONS
from agent.core.cost.focus import COLUMNS, Focus, FocusNames, questions, unpriced_ns
from agent.core.cost.report_forms import (
    MAX_ROWS,
    Page,
    covered,
    csv_text,
    exact_text,
    left_out,
    notes,
    report_csv,
    report_json,
)
from agent.core.cost.report_language import (
    ACCUMULATIONS,
    BASES,
    IDLE_POLICIES,
    Asked,
    Question,
    WrongParameter,
    question,
)
from agent.core.cost.report_windows import STEP_FORMS, WINDOW_FORMS, rfc3339
from agent.core.cost.reports import Report, ReportRow
from agent.core.ports import ConfigError

if TYPE_CHECKING:
    from agent.ledger.viewing import View

TABLE_ROWS = 1_000
FOCUS_ROWS = 1_000  # made at once
LEAST_NAME = 6  # columns that a name keeps on a narrow terminal


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    command = commands.add_parser(
        "report",
        help="what GPU time cost, and whom: tables, CSV, JSON or FOCUS from the ledger",
        description="Reads the ledger of this node, also while the agent runs, and prints what its GPU time cost. The "
        "sum of all rows is the bill, to the last digit. The words are those of /api/v1/cost/report; "
        "docs/cost-reports.md explains them.",
    )
    command.add_argument("--window", default="today", help=f"time covered: {WINDOW_FORMS}; default: today")
    command.add_argument(
        "--aggregate", help=f"comma-separated dimensions of a row, of: {', '.join(DIMENSIONS)}; default: state"
    )
    command.add_argument("--step", help=f"cut rows at: {STEP_FORMS}")
    command.add_argument("--accumulate", help=f"one of {', '.join(ACCUMULATIONS)}")
    command.add_argument("--basis", help=f"{' or '.join(BASES)}: idle time in rows of its own, or spread")
    command.add_argument("--idle-policy", help=f"who pays for idle time: {', '.join(IDLE_POLICIES)}")
    command.add_argument("--share-idle", help="false, true, weighted or even, as OpenCost has it")
    command.add_argument("--idle", help="false leaves rows of idle states out")
    command.add_argument("--filter", default="", help='terms that rows must pass, as tenant:"a","b"+model!:"x"')
    command.add_argument("--tenant", help="only what is this tenant's")
    command.add_argument("--format", choices=("table", "csv", "json", "focus"), default="table")
    command.add_argument("--limit", type=int, help=f"most rows to print; default: {TABLE_ROWS} of a table, else all")
    command.add_argument("--offset", type=int, default=0, help="rows to leave out at the beginning")
    command.add_argument("--config", type=Path, help="the agent's configuration file: where its ledger is")
    command.add_argument("--data-dir", type=Path, help="the agent's data folder; default: that of the configuration")
    command.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Ask the ledger and print. Raises `ConfigError` for what the user must change."""
    from agent.clock import unix_ns
    from agent.ledger.viewing import open_view

    if (options.limit is not None and options.limit < 1) or options.offset < 0:
        raise ConfigError("--limit", "expected at least 1, and --offset at least 0")
    try:
        where, names = _source(options)
        with open_view(where) as view:
            calendar, now_ns = Calendar(view.time_zone), unix_ns()
            asked = _question(options, now_ns, calendar)
            if options.format == "focus":
                _print_focus(view, Focus(names=names, node=view.node, calendar=calendar, now_ns=now_ns), asked)
            else:
                whole = None if asked.shows_idle else view.report(asked.whole)
                _print(options, asked, view.report(asked.query), whole)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough, as `head` does. What is left in the buffer must not fail at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _source(options: argparse.Namespace) -> tuple[Path | str, FocusNames]:
    """The data folder, or the URL of the database that the configuration names; and its names in FOCUS datasets."""
    if options.data_dir is not None and options.config is None:
        return options.data_dir, FocusNames()
    from agent.config import load
    from agent.datafolder import default_folder
    from agent.ledger.postgresql import database_of

    settings = load(options.config, os.environ)
    names, storage = settings.reports.focus.to_names(), settings.storage
    if options.data_dir is not None:
        return options.data_dir, names
    folder = storage.data_dir or default_folder(dict(os.environ), is_root=os.geteuid() == 0)
    return database_of(storage.ledger, storage.ledger_file) or folder, names


def _question(options: argparse.Namespace, now_ns: int, calendar: Calendar) -> Question:
    asked = Asked(
        window=options.window,
        aggregate=options.aggregate or "state",
        step=options.step,
        accumulate=options.accumulate,
        basis=options.basis,
        idle_policy=options.idle_policy,
        share_idle=options.share_idle,
        idle=options.idle,
        filter=options.filter,
        tenant=options.tenant,
    )
    if options.format == "focus":
        shape = ("aggregate", "step", "accumulate", "basis", "idle_policy", "share_idle", "limit")
        given = next((name for name in shape if getattr(options, name) is not None), None)
        if given is not None:
            rows = "one row for each hour, GPU, tenant, model and state, and all of them"
            raise ConfigError(f"--{given.replace('_', '-')}", f"--format focus has {rows}; leave this out")
    try:
        return question(asked, now_ns, calendar)
    except WrongParameter as error:
        option = "--" + re.sub("[A-Z]", lambda letter: f"-{letter.group().lower()}", error.parameter)
        raise ConfigError(option, f"{error.detail}. {error.remedy}") from error


def _print_focus(view: "View", focus: Focus, asked: Question) -> None:
    """Some hours in memory at a time."""
    sys.stdout.write(csv_text([COLUMNS]))
    unpriced = 0
    for day in questions(asked.query, focus.calendar):
        found = view.report(day)
        for at in range(0, len(found.rows), FOCUS_ROWS):
            sys.stdout.write(csv_text(focus.rows(found, at, at + FOCUS_ROWS)))
        unpriced += unpriced_ns(found)
    if unpriced:
        left = exact_text(unpriced)
        print(f"engineroom: {left} GPU seconds have no price and are not in the dataset", file=sys.stderr)


def _print(options: argparse.Namespace, asked: Question, found: Report, whole: Report | None) -> None:
    most = TABLE_ROWS if options.format == "table" else MAX_ROWS
    page = Page(offset=options.offset, limit=options.limit or most)
    if options.format == "json":
        print(json.dumps(report_json(asked, found, page, whole), indent=2, ensure_ascii=False))
    elif options.format == "csv":
        sys.stdout.write(report_csv(found, page))
        for note in notes(asked, found, page):
            print(f"engineroom: {note}", file=sys.stderr)
    else:
        for line in lines(asked, found, whole, page, width()):
            print(line)


def lines(
    asked: Question, found: Report, whole: Report | None = None, page: Page | None = None, columns: int | None = None
) -> list[str]:
    """What people read: the window, the rows, their total, and what to know of them. `columns`: of the terminal."""
    page = page or Page(limit=TABLE_ROWS)
    start, end = covered(found)
    unit = found.currency or "no prices"
    basis = found.query.basis + (f" ({found.query.idle})" if found.query.basis == "allocation" else "")
    head = [f"{rfc3339(start)} to {rfc3339(end)}, basis {basis}, {unit}"]
    body = _table(asked, found, page, columns) if found.rows else ["nothing is booked in this window"]
    said = [plain(note) for note in notes(asked, found, page)]
    if whole is not None:
        left = left_out(found, whole)
        said.append(f"left out (idle states): {hours(left['gpu_ns'])} GPU hours, {left['cost'] or 'no price'}")
    folded = [piece for note in said for piece in (textwrap.wrap(note, max(40, columns)) if columns else [note])]
    return [cut(line, columns) for line in head] + [""] + body + ([""] if folded else []) + folded


def _table(asked: Question, found: Report, page: Page, columns: int | None) -> list[str]:
    rows = found.rows[page.offset : page.offset + page.limit]
    dimensions = found.query.aggregate
    names = (["from"] if asked.query.edges else []) + list(dimensions)
    costs = [exact_text(row.cost_nano) for row in rows] + [exact_text(found.total_cost_nano)]
    places = max((len(cost.partition(".")[2]) for cost in costs if cost), default=0)
    figures = {
        "cost": [_padded(cost, places) for cost in costs],
        "GPU hours": [hours(row.gpu_ns) for row in rows] + [hours(found.total_gpu_ns)],
        "share": [_share(row, found) for row in rows] + [""],
        "requests": [str(row.requests) for row in rows] + [str(sum(row.requests for row in found.rows))],
        "input": [str(row.input_tokens) for row in rows] + [str(sum(row.input_tokens for row in found.rows))],
        "output": [str(row.output_tokens) for row in rows] + [str(sum(row.output_tokens for row in found.rows))],
        "kWh": [_kwh(row.energy_uj) for row in rows] + [_kwh(found.total_energy_uj)],
    }
    cells = [
        ([rfc3339(row.start_ns)] if asked.query.edges else []) + [plain(row.group[d]) or "-" for d in dimensions]
        for row in rows
    ]
    last = ["total"] + [""] * (len(names) - 1) if names else []
    shown, dropped = _fitting(names, [*cells, last], figures, columns)
    told = table(
        [*names, *figures] if not dropped else [*names, *(f for f in figures if f not in dropped)],
        [[*row, *(figures[name][at] for name in figures if name not in dropped)] for at, row in enumerate(shown)],
        "l" * len(names) + "r" * (len(figures) - len(dropped)),
    )
    told.insert(len(told) - 1, "-" * max(map(len, told)))
    if dropped:
        told += ["", f"not shown for lack of room: {', '.join(dropped)} (--format csv has all)"]
    return told  # where even that is too long, wrapped: no digit of money is cut off


def _fitting(
    names: Sequence[str], cells: list[list[str]], figures: dict[str, list[str]], columns: int | None
) -> tuple[list[list[str]], list[str]]:
    """Cells, and the figures to leave out, for lines of `columns`. First figures go, then ends of names, never cost."""
    if columns is None:
        return cells, []
    widths = {name: max(len(name), *map(len, values)) for name, values in figures.items()}
    name_widths = [max(len(name), *(len(row[at]) for row in cells)) for at, name in enumerate(names)]
    dropped: list[str] = []

    def total(name_parts: Sequence[int]) -> int:
        kept = [width for name, width in widths.items() if name not in dropped]
        return sum(name_parts) + sum(kept) + 2 * (len(name_parts) + len(kept) - 1)

    for name in reversed(list(figures)[1:]):
        if total(name_widths) <= columns:
            break
        dropped.insert(0, name)
    while total(name_widths) > columns and max(name_widths, default=0) > LEAST_NAME:
        name_widths[name_widths.index(max(name_widths))] -= 1
    return [[cut(cell, name_widths[at]) for at, cell in enumerate(row)] for row in cells], dropped


def hours(gpu_ns: int) -> str:
    """GPU hours to four places, for people; the exact nanoseconds are in the other formats."""
    tenths = round(abs(gpu_ns) * 10_000 / HOUR_NS)
    return f"{'-' if gpu_ns < 0 else ''}{tenths // 10_000}.{tenths % 10_000:04d}"


def _padded(cost: str | None, places: int) -> str:
    """The exact text with zeros at its end, so that the decimal points are below each other."""
    if cost is None:
        return "?"
    whole, _, fraction = cost.partition(".")
    return f"{whole}.{fraction.ljust(places, '0')}"


def _share(row: ReportRow, found: Report) -> str:
    part, whole = (row.cost_nano, found.total_cost_nano)
    if not part or not whole:
        part, whole = row.gpu_ns, found.total_gpu_ns
    return f"{100 * part / whole:.1f}%" if whole else ""


def _kwh(energy_uj: int | None) -> str:
    return "?" if energy_uj is None else f"{energy_uj / 3.6e12:.3f}"
