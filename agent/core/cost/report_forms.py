"""A report in → the forms people and programs take it in: JSON values and CSV. Money and quantities stay exact."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from agent.core.cost.report_language import Question
from agent.core.cost.report_windows import NS, rfc3339
from agent.core.cost.reports import Report, ReportRow, Term

MICRO = 1_000_000
JSON_ROWS = 10_000  # of one answer, where nothing is said
CSV_ROWS = 200_000
MAX_ROWS = 1_000_000
_FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")
_COUNTED = ("requests", "input_tokens", "output_tokens")
_MEASURED = ("input_cached_tokens", "work_seconds", "energy_joules", "metered_seconds")


class Page(Struct, frozen=True, kw_only=True):
    """Which rows of a report are told: `limit` of them from `offset` on."""

    offset: int = 0
    limit: int = JSON_ROWS


def exact_text(value: int | None, places: int = 9, least: int = 2) -> str | None:
    """Exact decimal text of a number of 10^-places, with at least so many places: 1_500_000_000 → ``1.50``."""
    if value is None:
        return None
    whole, part = divmod(abs(value), 10**places)
    fraction = f"{part:0{places}d}".rstrip("0").ljust(least, "0")
    return f"{'-' if value < 0 else ''}{whole}" + (f".{fraction}" if fraction else "")


def report_json(question: Question, report: Report, page: Page | None = None, whole: Report | None = None) -> Any:
    """The report with seconds and decimal texts beside the exact integers.

    `whole` is the answer to `question.whole`, when idle rows were left out: the body says then what is missing.
    """
    query, page = report.query, page or Page()
    told = report.rows[page.offset : page.offset + page.limit]
    body = {
        "window": {"start": rfc3339(query.start_ns), "end": rfc3339(query.end_ns)},
        "covered": {"start": rfc3339(covered(report)[0]), "end": rfc3339(covered(report)[1])},
        "aggregate": query.aggregate,
        "basis": query.basis,
        "idle_policy": query.idle if query.basis == "allocation" else None,
        "step": question.step,
        "filter": [_term(term) for term in query.filter],
        "tenant": query.tenant,
        "currency": report.currency,
        "rows": [row_json(row) for row in told],
        "rows_found": len(report.rows),
        "offset": page.offset,
        "limit": page.limit,
        "cut": page.offset > 0 or len(told) < len(report.rows),
        "total": _total(report),
        "notes": notes(question, report, page),
    }
    if whole is not None:
        body["left_out"] = {"states": query.filter[-1].values, **left_out(report, whole)}
    return body


def covered(report: Report) -> tuple[int, int]:
    """What the rows cover: the window, or more of it where only hours or days are kept."""
    return report.start_ns or report.query.start_ns, report.end_ns or report.query.end_ns


def notes(question: Question, report: Report, page: Page) -> list[str]:
    """What people should know before they read the numbers."""
    found = list(report.notes)
    start, end = covered(report)
    if (start, end) != (report.query.start_ns, report.query.end_ns):
        found.append(f"The rows cover {rfc3339(start)} to {rfc3339(end)}: of some of the window only sums are kept.")
    if not question.shows_idle:
        found.append("Rows of idle states are left out, and the total is without them; `left_out` has their sum.")
    told = len(report.rows[page.offset : page.offset + page.limit])
    if told < len(report.rows):
        found.append(
            f"{told} of {len(report.rows)} rows, from number {page.offset} on; the total is that of all rows. "
            "Ask with offset and limit for the others, or aggregate by less."
        )
    return found


def left_out(report: Report, whole: Report) -> dict[str, Any]:
    """What `whole` has more than `report`."""
    cost = None
    if whole.total_cost_nano is not None:
        cost = whole.total_cost_nano - (report.total_cost_nano or 0)
    gpu_ns = whole.total_gpu_ns - report.total_gpu_ns
    return {"gpu_ns": gpu_ns, "gpu_seconds": gpu_ns / NS, "cost_nano": cost, "cost": exact_text(cost)}


def _term(term: Term) -> dict[str, Any]:
    return {"dimension": term.dimension, "operator": term.op, "values": term.values}


def row_json(row: ReportRow) -> dict[str, Any]:
    """One row, exact integers first."""
    return {
        "start": rfc3339(row.start_ns),
        "end": rfc3339(row.end_ns),
        "group": row.group,
        "gpu_ns": row.gpu_ns,
        "gpu_seconds": row.gpu_ns / NS,
        "work_ns": row.work_ns,
        "work_seconds": row.work_ns / NS,
        "cost_nano": row.cost_nano,
        "cost": exact_text(row.cost_nano),
        "energy_uj": row.energy_uj,
        "energy_joules": None if row.energy_uj is None else row.energy_uj / MICRO,
        "metered_seconds": row.metered_ns / NS,
        "requests": row.requests,
        "input_tokens": row.input_tokens,
        "input_cached_tokens": row.input_cached_tokens,
        "output_tokens": row.output_tokens,
    }


def _total(report: Report) -> dict[str, Any]:
    rows = report.rows
    total: dict[str, Any] = {
        "gpu_ns": report.total_gpu_ns,
        "gpu_seconds": report.total_gpu_ns / NS,
        "cost_nano": report.total_cost_nano,
        "cost": exact_text(report.total_cost_nano),
        "work_seconds": sum(row.work_ns for row in rows) / NS,
        "energy_uj": report.total_energy_uj,
        "energy_joules": None if report.total_energy_uj is None else report.total_energy_uj / MICRO,
        "requests": sum(row.requests for row in rows),
        "input_tokens": sum(row.input_tokens for row in rows),
        "input_cached_tokens": sum(row.input_cached_tokens for row in rows),
        "output_tokens": sum(row.output_tokens for row in rows),
    }
    if "waste" in report.query.aggregate:
        wasted = [row for row in rows if row.group["waste"]]
        costs = [row.cost_nano for row in wasted if row.cost_nano is not None]
        cost = sum(costs) if costs or report.total_cost_nano is not None else None
        total["waste"] = {
            "gpu_seconds": sum(row.gpu_ns for row in wasted) / NS,
            "cost_nano": cost,
            "cost": exact_text(cost),
        }
    return total


def csv_head(report: Report) -> list[str]:
    """The names of the columns of `csv_cells`."""
    return ["start", "end", *report.query.aggregate, "gpu_seconds", "cost", "currency", *_COUNTED, *_MEASURED]


def csv_cells(report: Report, row: ReportRow) -> list[str]:
    """One line. What is not known is empty; numbers are exact decimals; names cannot be run as formulas."""
    names = [cell(row.group.get(dimension, "")) for dimension in report.query.aggregate]
    return [
        rfc3339(row.start_ns),
        rfc3339(row.end_ns),
        *names,
        exact_text(row.gpu_ns) or "",
        exact_text(row.cost_nano) or "",
        report.currency or "",
        str(row.requests),
        str(row.input_tokens),
        str(row.output_tokens),
        str(row.input_cached_tokens),
        exact_text(row.work_ns) or "",
        exact_text(row.energy_uj, 6) or "",
        exact_text(row.metered_ns) or "",
    ]


def report_csv(report: Report, page: Page | None = None) -> str:
    """A head and one line per row."""
    page = page or Page(limit=CSV_ROWS)
    told = report.rows[page.offset : page.offset + page.limit]
    return csv_text([csv_head(report), *(csv_cells(report, row) for row in told)])


def csv_text(lines: Iterable[Sequence[str]]) -> str:
    """RFC 4180, with CRLF line ends."""
    out = io.StringIO()
    csv.writer(out).writerows(lines)
    return out.getvalue()


def cell(text: str) -> str:
    """A name that a spreadsheet would run as a formula gets an apostrophe in front (CWE-1236)."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


class ReportNews(Struct, frozen=True, kw_only=True):
    """A finished report on its way to somebody. `key` is the same for every repeat of it."""

    key: str
    body: bytes  # JSON
