"""Rules of FOCUS 1.2 (FinOps Open Cost and Usage Specification) as a table, and a report with everything in it."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from itertools import pairwise

from agent.core.cost.calendar import Calendar
from agent.core.cost.focus import COLUMNS, DIMENSIONS, Focus, FocusNames, questions
from agent.core.cost.report_forms import csv_text
from agent.core.cost.reports import Report, ReportQuery, ReportRow

Row = dict[str, str]
NS = 10**9
HOUR_NS = 3600 * NS
MONTH_START_NS = int(datetime(2026, 10, 1, tzinfo=UTC).timestamp()) * NS
ODD_TENANTS = (
    "acme",
    '=HYPERLINK("http://x","y")',
    "+1",
    "-2",
    "@x",
    "\tz",
    'a "quoted", b',
    "租户",
    "line\nbreak",
    "",
)
STATES = ("request", "unattributed", "loaded_idle", "warmup", "other_workload", "allocated_idle", "unallocated", "gap")

# Of the columns with the feature level `Mandatory`; the other conditional ones are there because we support that.
MANDATORY = [
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
]
NOT_NULL = [
    "BilledCost",
    "BillingAccountId",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "ResourceId",
    "SkuId",
    "SkuPriceId",
]
DATES = ["BillingPeriodEnd", "BillingPeriodStart", "ChargePeriodEnd", "ChargePeriodStart"]
NUMBERS = ["BilledCost", "ContractedCost", "EffectiveCost", "ListCost", "PricingQuantity", "ConsumedQuantity"]
JSON_COLUMNS = ["Tags", "SkuPriceDetails"]
UNIT = re.compile(r"[A-Z][A-Za-z]*-(Years|Months|Days|Hours|Minutes|Seconds)")
NUMBER = re.compile(r"-?\d+(\.\d+)?(E-?\d+)?")
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _is_number(text: str) -> bool:
    try:
        Decimal(text)
    except InvalidOperation:
        return False
    return NUMBER.fullmatch(text) is not None


def _is_flat_object(text: str) -> bool:
    pairs = json.loads(text, object_pairs_hook=list)
    keys = [key for key, _ in pairs]
    return len(keys) == len(set(keys)) and not any(isinstance(value, dict | list) for _, value in pairs)


RULES: dict[str, Callable[[Row], bool]] = {
    **{f"{name}-C-003-M not null": lambda row, name=name: row[name] != "" for name in NOT_NULL},
    **{
        f"{name}-C-002-M NumericFormat": lambda row, name=name: row[name] == "" or _is_number(row[name])
        for name in NUMBERS
    },
    **{f"{name}-C-002-M DateTimeFormat": lambda row, name=name: bool(DATE.fullmatch(row[name])) for name in DATES},
    **{f"{name} KeyValueFormat": lambda row, name=name: _is_flat_object(row[name]) for name in JSON_COLUMNS},
    "BillingCurrency CurrencyFormat": lambda row: bool(re.fullmatch("[A-Z]{3}", row["BillingCurrency"])),
    "BillingAccountName-C-003-C": lambda row: row["BillingAccountName"] != "",
    "CapacityReservationStatus-C-003-C": lambda row: (
        row["CapacityReservationId"] != "" or row["CapacityReservationStatus"] == ""
    ),
    "CapacityReservationStatus-C-004-C": lambda row: (
        row["CapacityReservationId"] == "" or row["CapacityReservationStatus"] != ""
    ),
    "CapacityReservationStatus-C-006-M": lambda row: row["CapacityReservationStatus"] in ("", "Used", "Unused"),
    "CapacityReservationStatus-C-007-C": lambda row: (
        (row["CapacityReservationStatus"] == "Unused")
        == (row["x_CostState"] in ("loaded_idle", "allocated_idle", "unallocated", "broken"))
    ),
    "ChargeCategory-C-004-M": lambda row: row["ChargeCategory"] in ("Usage", "Purchase", "Tax", "Credit", "Adjustment"),
    "ChargeClass-C-003-C": lambda row: row["ChargeClass"] == "" or row["BilledCost"].startswith("-"),
    "ChargeClass-C-005-C": lambda row: row["ChargeClass"] in ("", "Correction"),
    "ChargeFrequency-C-003-M": lambda row: row["ChargeFrequency"] in ("One-Time", "Recurring", "Usage-Based"),
    "ChargePeriod is within the BillingPeriod": lambda row: (
        _instant(row["BillingPeriodStart"])
        <= _instant(row["ChargePeriodStart"])
        < _instant(row["ChargePeriodEnd"])
        <= _instant(row["BillingPeriodEnd"])
    ),
    "ConsumedQuantity-C-006-C": lambda row: row["ConsumedQuantity"] != "",
    "ConsumedUnit-C-004-C": lambda row: (row["ConsumedQuantity"] == "") == (row["ConsumedUnit"] == ""),
    "ConsumedUnit UnitFormat": lambda row: bool(UNIT.fullmatch(row["ConsumedUnit"])),
    "ContractedCost-C-008-C": lambda row: row["ContractedCost"] == row["BilledCost"],
    "EffectiveCost-C-008-C": lambda row: row["EffectiveCost"] == row["BilledCost"],
    "ListCost-C-008-C": lambda row: row["ListCost"] == row["BilledCost"],
    "PricingQuantity-C-005-C": lambda row: row["PricingQuantity"] != "",
    "PricingUnit-C-004-C": lambda row: (row["PricingQuantity"] == "") == (row["PricingUnit"] == ""),
    "PricingUnit UnitFormat": lambda row: bool(UNIT.fullmatch(row["PricingUnit"])),
    "ResourceName-C-005-C": lambda row: row["ResourceName"] != row["ResourceId"],
    "ResourceType-C-004-C": lambda row: (row["ResourceId"] == "") == (row["ResourceType"] == ""),
    "ServiceSubcategory-C-005-M": lambda row: (
        (row["ServiceCategory"], row["ServiceSubcategory"]) == ("AI and Machine Learning", "Generative AI")
    ),
    "SkuMeter-C-003-C": lambda row: (row["SkuId"] == "") == (row["SkuMeter"] == ""),
    "SkuPriceDetails-C-009-C": lambda row: all(
        key in ("GpuCount", "InstanceType", "MemorySize") or key.startswith("x_")
        for key in json.loads(row["SkuPriceDetails"])
    ),
    "SubAccountName-C-004-C": lambda row: (row["SubAccountId"] == "") == (row["SubAccountName"] == ""),
    "Tags-C-012-M": lambda row: all(key.startswith("engineroom/") for key in json.loads(row["Tags"])),
    "NullHandling: no empty strings": lambda row: all(value == "" or value.strip(" ") for value in row.values()),
}
"""Rule of the specification (ids as in the FinOps Foundation's requirements model) -> whether a row keeps it."""


def broken_rules(rows: Iterable[Row], columns: Iterable[str]) -> list[str]:
    """What a dataset breaks; nothing for a good one."""
    columns = list(columns)
    found = [f"{name}-D-000-M present" for name in MANDATORY if name not in columns]
    custom = [name.startswith("x_") for name in columns]
    if custom != sorted(custom) or len(set(columns)) < len(columns):
        found.append("ColumnHandling: custom columns come last")
    if not all(re.fullmatch(r"(x_)?([A-Z][a-z0-9]*)+", name) and len(name) <= 50 for name in columns):
        found.append("ColumnHandling: Pascal case")
    parents: dict[str, set[str]] = {}
    for number, row in enumerate(rows):
        found += [f"row {number}: {rule}" for rule, holds in RULES.items() if not holds(row)]
        parents.setdefault(row["SkuPriceId"], set()).add(row["SkuId"])
    found += ["SkuPriceId-C-008-M" for skus in parents.values() if len(skus) > 1]
    return found


def answer(query: ReportQuery, *, correction: bool = False) -> Report:
    """A made-up answer to one of `questions`: every state and odd name, amounts that no float holds."""
    bounds = [query.start_ns, *query.edges, query.end_ns]
    rows = []
    for start, end in pairwise(bounds):
        hour = start // HOUR_NS
        for number, state in enumerate(STATES):
            tenant = ODD_TENANTS[(hour + number) % len(ODD_TENANTS)] if state == "request" else ""
            group = dict.fromkeys(DIMENSIONS, "")
            group |= {"gpu": f"GPU-{number % 2}", "gpu_model": "NVIDIA H100 80GB HBM3", "tenant": tenant}
            group |= {"state": state, "model": "=llama" if state == "request" else "", "engine": "vllm"}
            group["waste"] = "client_abort" if state == "request" and hour % 3 == 0 else ""
            gpu_ns = (end - start) // len(STATES) + number
            row = ReportRow(
                start_ns=start, end_ns=end, group=group, gpu_ns=gpu_ns, cost_nano=gpu_ns * 7 // 9, requests=number
            )
            rows.append(row)
    if correction:
        rows[0] = ReportRow(**{f: getattr(rows[0], f) for f in rows[0].__struct_fields__} | {"cost_nano": -5})
    unpriced = ReportRow(start_ns=query.start_ns, end_ns=query.end_ns, group=rows[0].group, gpu_ns=3, cost_nano=None)
    rows.append(unpriced)
    return Report(
        query=query,
        currency="CNY",
        rows=tuple(rows),
        total_gpu_ns=sum(row.gpu_ns for row in rows),
        total_cost_nano=sum(row.cost_nano or 0 for row in rows),
    )


def dataset(zone: str = "UTC", days: int = 40, *, correction: bool = False, **names: str) -> tuple[str, int, Report]:
    """(CSV text, bill in nano-units, the first report) of `days` days from the first of October 2026."""
    calendar = Calendar(zone)
    start_ns = calendar.month_bounds(MONTH_START_NS + 40 * HOUR_NS)[0]
    query = ReportQuery(start_ns=start_ns, end_ns=start_ns + days * 24 * HOUR_NS + 1)
    focus = Focus(names=FocusNames(**names), node="=node-a", calendar=calendar, now_ns=start_ns + 60 * 24 * HOUR_NS)
    reports = [answer(day, correction=correction) for day in questions(query, calendar)]
    lines = [list(COLUMNS), *(line for report in reports for line in focus.rows(report))]
    return csv_text(lines), sum(report.total_cost_nano or 0 for report in reports), reports[0]


def read(text: str) -> list[Row]:
    """The rows of a dataset."""
    return list(csv.DictReader(io.StringIO(text, newline="")))
