import csv
import io
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.report_forms import Page, cell, exact_text, left_out, report_csv, report_json
from agent.core.cost.report_language import Question
from agent.core.cost.reports import SHARED_STATES, Dimension, Report, ReportQuery, ReportRow, Term

NS = 10**9
NAMES = ["=1+1", "+1", "-1", "@a", "\tb", "\rc", "\nd", "＝1", "plain", "a,b", 'q"q', "", "租户"]


def report(names: list[str], *, priced: bool = True, aggregate: tuple[Dimension, ...] = ("tenant",)) -> Report:
    query = ReportQuery(start_ns=0, end_ns=3600 * NS, aggregate=aggregate)
    rows = tuple(
        ReportRow(
            start_ns=0,
            end_ns=3600 * NS,
            group=dict.fromkeys(aggregate, name),
            gpu_ns=1_234_567_891 + number,
            cost_nano=10_000_000_001 * number if priced else None,
            requests=3,
            input_tokens=5,
            input_cached_tokens=2,
            output_tokens=7,
            work_ns=NS // 4,
            energy_uj=1_500_000 if number else None,
            metered_ns=NS,
        )
        for number, name in enumerate(names)
    )
    total = sum(row.cost_nano or 0 for row in rows) if priced else None
    return Report(
        query=query,
        currency="CNY" if priced else None,
        rows=rows,
        total_gpu_ns=sum(row.gpu_ns for row in rows),
        total_cost_nano=total,
        start_ns=query.start_ns,
        end_ns=query.end_ns,
    )


@given(st.integers(-(2**70), 2**70), st.sampled_from([6, 9, 15]))
def test_exact_text_reads_back(value: int, places: int):
    text = exact_text(value, places)
    assert text is not None
    assert Decimal(text) == Decimal(value).scaleb(-places)
    assert "e" not in text.lower()


def test_exact_text_has_at_least_cents():
    assert [exact_text(value) for value in (0, 1_500_000_000, -1, None)] == ["0.00", "1.50", "-0.000000001", None]


def test_csv_is_exact_and_safe():
    found = report(NAMES)
    rows = list(csv.DictReader(io.StringIO(report_csv(found), newline="")))
    assert [row["tenant"].removeprefix("'") for row in rows] == NAMES
    assert not [row for row in rows if row["tenant"][:1] in "=+-@\t\r\n＝" and row["tenant"]]
    assert sum(Decimal(row["cost"]) for row in rows) * NS == found.total_cost_nano
    assert sum(Decimal(row["gpu_seconds"]) for row in rows) * NS == found.total_gpu_ns
    assert [row["energy_joules"] for row in rows[:2]] == ["", "1.50"]
    assert rows[0]["work_seconds"] == "0.25"


def test_csv_without_prices_has_empty_costs():
    rows = list(csv.DictReader(io.StringIO(report_csv(report(["a"], priced=False)))))
    assert (rows[0]["cost"], rows[0]["currency"]) == ("", "")


def test_a_page_of_rows_says_that_it_is_one():
    found = report(NAMES)
    body = report_json(Question(query=found.query), found, Page(offset=2, limit=3))
    assert [row["group"]["tenant"] for row in body["rows"]] == NAMES[2:5]
    assert (body["rows_found"], body["cut"]) == (len(NAMES), True)
    assert body["total"]["cost_nano"] == found.total_cost_nano
    assert "3 of 13 rows" in body["notes"][0]
    assert len(report_csv(found, Page(offset=2, limit=3)).splitlines()) == 4
    msgspec.json.encode(body)


def test_a_whole_report_needs_no_notes():
    found = report(["a"])
    body = report_json(Question(query=found.query), found)
    assert (body["cut"], body["notes"], "left_out" in body) == (False, [], False)
    assert body["covered"] == body["window"]
    row = body["rows"][0]
    assert (row["work_seconds"], row["energy_joules"], row["metered_seconds"]) == (0.25, None, 1.0)
    assert row["input_cached_tokens"] == 2


def test_what_is_covered_beyond_the_window_is_told():
    found = msgspec.structs.replace(report(["a"]), end_ns=7200 * NS, notes=("Only hours are kept.",))
    body = report_json(Question(query=found.query), found)
    assert body["covered"]["end"] == "1970-01-01T02:00:00Z"
    assert body["notes"][0] == "Only hours are kept."
    assert "1970-01-01T02:00:00Z" in body["notes"][1]


@pytest.mark.parametrize("priced", [True, False])
def test_what_is_left_out_of_a_report_without_idle_states(priced: bool):
    whole = report(["a", "b"], priced=priced)
    rows = whole.rows[:1]
    shown = msgspec.structs.replace(whole, rows=rows, total_gpu_ns=rows[0].gpu_ns, total_cost_nano=rows[0].cost_nano)
    shown = msgspec.structs.replace(
        shown, query=msgspec.structs.replace(shown.query, filter=(Term("state", "is_not", SHARED_STATES),))
    )
    body = report_json(Question(query=shown.query, shows_idle=False), shown, None, whole)
    assert body["left_out"]["states"] == SHARED_STATES
    assert body["left_out"]["gpu_ns"] == whole.rows[1].gpu_ns
    assert body["left_out"]["cost_nano"] == whole.rows[1].cost_nano
    assert "left out" in body["notes"][0]
    assert left_out(shown, whole)["cost"] == exact_text(whole.rows[1].cost_nano)


def test_waste_is_summed_where_it_is_told_apart():
    found = report(["", "client_abort"], aggregate=("waste",))
    total = report_json(Question(query=found.query), found)["total"]
    assert total["waste"]["cost_nano"] == found.rows[1].cost_nano
    assert total["waste"]["gpu_seconds"] == found.rows[1].gpu_ns / NS


def test_cells():
    assert [cell(name) for name in ("a", "=a", "")] == ["a", "'=a", ""]
