"""FOCUS 1.2 datasets against a table of the specification's rules; sums against the bill."""

import json
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.calendar import Calendar
from agent.core.cost.focus import COLUMNS, Focus, FocusNames, hours_text, questions, tags, unpriced_ns
from agent.core.cost.reports import ReportQuery
from tests.support.focus_rules import HOUR_NS, MONTH_START_NS, ODD_TENANTS, Row, answer, broken_rules, dataset, read

DAY_NS = 24 * HOUR_NS


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai", "Asia/Kathmandu", "Europe/Berlin"])
def test_every_rule_of_the_table_holds(zone: str):
    text, _, _ = dataset(zone)
    rows = read(text)
    assert broken_rules(rows, COLUMNS) == []
    assert len(rows) > 40 * 24


SPOILT: dict[str, Callable[[Row], Row]] = {
    "BilledCost-C-003-M": lambda row: row | {"BilledCost": ""},
    "BilledCost-C-002-M": lambda row: row | {"BilledCost": "1,000.5"},
    "ListCost-C-002-M": lambda row: row | {"ListCost": "+1"},
    "ChargePeriodStart-C-002-M": lambda row: row | {"ChargePeriodStart": "2026-10-01T00:00:00.5Z"},
    "within the BillingPeriod": lambda row: row | {"BillingPeriodEnd": row["ChargePeriodStart"]},
    "ChargeCategory-C-004-M": lambda row: row | {"ChargeCategory": "Use"},
    "ChargeClass-C-003-C": lambda row: row | {"ChargeClass": "Correction"},
    "CapacityReservationStatus-C-003-C": lambda row: row | {"CapacityReservationId": ""},
    "CapacityReservationStatus-C-004-C": lambda row: row | {"CapacityReservationStatus": ""},
    "Tags KeyValueFormat": lambda row: row | {"Tags": '{"engineroom/a": {}}'},
    "Tags-C-012-M": lambda row: row | {"Tags": '{"a": 1}'},
    "ContractedCost-C-008-C": lambda row: row | {"ContractedCost": "7"},
    "PricingUnit-C-004-C": lambda row: row | {"PricingUnit": ""},
    "NullHandling": lambda row: row | {"ResourceName": "  "},
}


@pytest.mark.parametrize("rule", SPOILT)
def test_the_table_finds_what_is_wrong(rule: str):
    row = next(row for row in read(dataset(days=1)[0]) if row["x_CostState"] == "request")
    found = broken_rules([SPOILT[rule](row)], COLUMNS)
    assert any(rule in line for line in found)


def test_a_missing_or_misplaced_column_is_found():
    assert broken_rules([], [name for name in COLUMNS if name != "ListCost"]) == ["ListCost-D-000-M present"]
    assert broken_rules([], ["x_Node", *COLUMNS])[0].startswith("ColumnHandling")


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai"])
def test_billing_periods_add_up_to_the_bill_exactly(zone: str):
    text, bill_nano, _ = dataset(zone)
    periods: dict[str, Decimal] = {}
    for row in read(text):
        period = row["BillingPeriodStart"]
        periods[period] = periods.get(period, Decimal(0)) + Decimal(row["BilledCost"])
    assert len(periods) == 2
    assert sum(periods.values()) * 10**9 == bill_nano


def test_idle_is_unused_and_what_nobody_watched_is_neither():
    status = {row["x_CostState"]: row["CapacityReservationStatus"] for row in read(dataset(days=1)[0])}
    assert {state for state, value in status.items() if value == "Unused"} == {
        "loaded_idle",
        "allocated_idle",
        "unallocated",
    }
    assert {state for state, value in status.items() if value == "Used"} == {
        "request",
        "unattributed",
        "warmup",
        "other_workload",
    }
    assert status["gap"] == ""


def test_names_are_no_formulas_and_tags_have_them_as_they_are():
    rows = read(dataset(days=2)[0])
    cells = [value for row in rows for name, value in row.items() if name != "BilledCost"]
    assert not [value for value in cells if value.startswith(("=", "+", "@", "\t", "-2"))]
    tenants = {json.loads(row["Tags"]).get("engineroom/tenant", "") for row in rows if row["x_CostState"] == "request"}
    assert tenants == set(ODD_TENANTS)
    assert {row["x_Node"] for row in rows} == {"'=node-a"}


def test_rows_without_a_price_are_left_out_and_counted():
    text, _, report = dataset(days=1)
    assert len(read(text)) == 24 * 8
    assert len([row for row in report.rows if row.cost_nano is None]) == 1
    assert unpriced_ns(report) == 3


def test_what_goes_back_in_an_earlier_month_is_a_correction():
    rows = read(dataset(days=1, correction=True)[0])
    assert [row["ChargeClass"] for row in rows[:2]] == ["Correction", ""]
    assert broken_rules(rows, COLUMNS) == []


def test_names_come_from_the_settings():
    names = {"provider": "Acme", "invoice_issuer": "Acme Cloud", "billing_account_id": "42", "publisher": "Us"}
    row = read(dataset(days=1, **names)[0])[0]
    assert [row[c] for c in ("ProviderName", "InvoiceIssuerName", "BillingAccountId", "PublisherName")] == [
        "Acme",
        "Acme Cloud",
        "42",
        "Us",
    ]


@given(st.integers(-(2**62), 2**62))
def test_quantities_lose_no_nanosecond(gpu_ns: int):
    assert round(Decimal(hours_text(gpu_ns)) * HOUR_NS) == gpu_ns


@given(st.dictionaries(st.sampled_from(["tenant", "model", "state"]), st.text()))
def test_tags_read_back(group: dict[str, str]):
    assert json.loads(tags(group)) == {f"engineroom/{name}": value for name, value in group.items() if value}


def test_questions_are_small_and_leave_nothing_out():
    query = ReportQuery(start_ns=MONTH_START_NS + 1, end_ns=MONTH_START_NS + DAY_NS + 90 * 10**9 + 5)
    asked = list(questions(query, Calendar("UTC")))
    bounds = [bound for q in asked for bound in (q.start_ns, *q.edges)] + [asked[-1].end_ns]
    assert bounds == [*range(MONTH_START_NS, MONTH_START_NS + DAY_NS + 1, HOUR_NS), query.end_ns - 5]
    assert [q.end_ns for q in asked[:-1]] == [q.start_ns for q in asked[1:]]
    assert max(len(q.edges) for q in asked) == 5
    assert all(q.basis == "usage" for q in asked)


def test_a_report_can_be_told_in_pieces():
    query = ReportQuery(start_ns=MONTH_START_NS, end_ns=MONTH_START_NS + DAY_NS)
    focus = Focus(names=FocusNames(), node="n", calendar=Calendar("UTC"), now_ns=query.end_ns)
    found = answer(next(questions(query, focus.calendar)))
    pieces = [row for at in range(0, len(found.rows), 7) for row in focus.rows(found, at, at + 7)]
    assert pieces == list(focus.rows(found))


def test_rows_say_when_they_end():
    (first, *_) = questions(ReportQuery(start_ns=MONTH_START_NS, end_ns=MONTH_START_NS + DAY_NS), Calendar("UTC"))
    assert len(answer(first).rows) == 6 * 8 + 1
