"""Reports by the hour → rows of a FOCUS 1.2 dataset (FinOps Open Cost and Usage Specification), the columns below.

A row is one hour x GPU x tenant x model x state. A GPU is a capacity reservation of the node: what serves or works for
somebody is its used part, idle time its unused part; of time when nobody watched neither is known, and both columns
are null. Unit price columns are conditional on a published price list, and left out: the parts of an hour add up to
the bill to the last nano-unit, which no product of a rounded unit price and a quantity would.
"""

import json
from collections.abc import Iterator
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from agent.core.cost.calendar import HOUR_NS, Calendar
from agent.core.cost.report_forms import cell, exact_text
from agent.core.cost.report_windows import NS, rfc3339
from agent.core.cost.reports import Dimension, Report, ReportQuery, ReportRow

Version = Literal["1.2"]
DIMENSIONS: tuple[Dimension, ...] = ("gpu", "gpu_model", "tenant", "model", "engine", "namespace", "state", "waste")
UNUSED_STATES = ("loaded_idle", "allocated_idle", "unallocated", "broken")
UNKNOWN_STATES = ("gap",)
SERVICE = "Self-hosted LLM inference"
COLUMNS = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "CapacityReservationId",
    "CapacityReservationStatus",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "CommitmentDiscountStatus",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceId",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceDetails",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "Tags",
    "x_CostState",
    "x_Engine",
    "x_GpuModel",
    "x_GpuSeconds",
    "x_InputCachedTokens",
    "x_InputTokens",
    "x_Joules",
    "x_MeteredSeconds",
    "x_Model",
    "x_Namespace",
    "x_Node",
    "x_OutputTokens",
    "x_Requests",
    "x_Tenant",
    "x_Waste",
    "x_WorkSeconds",
)
_CURRENCY = COLUMNS.index("BillingCurrency")
_CLASS = COLUMNS.index("ChargeClass")
_DATES = [COLUMNS.index(f"{name}Period{end}") for name in ("Billing", "Charge") for end in ("End", "Start")]
_COSTS = [COLUMNS.index(f"{name}Cost") for name in ("Billed", "Contracted", "Effective", "List")]
_QUANTITIES = [COLUMNS.index(f"{name}Quantity") for name in ("Consumed", "Pricing")]
_COUNTS = [
    COLUMNS.index(f"x_{name}")
    for name in (
        "GpuSeconds",
        "InputCachedTokens",
        "InputTokens",
        "Joules",
        "MeteredSeconds",
        "OutputTokens",
        "Requests",
        "WorkSeconds",
    )
]
_REMEMBERED = 20_000
_HOURS_AT_ONCE = 6
_TAGS: tuple[Dimension, ...] = ("tenant", "model", "engine", "namespace", "state", "waste")
_HOUR_PLACES = 15  # 1e-15 h is far below a nanosecond: the quantity in nanoseconds can be read back


class FocusNames(Struct, frozen=True, kw_only=True):
    """Who bills whom, as the columns name them. None: the node."""

    version: Version = "1.2"
    provider: str = "engineroom"
    publisher: str | None = None  # None: the provider
    invoice_issuer: str | None = None  # None: the provider
    billing_account_id: str | None = None
    billing_account_name: str | None = None


class Focus:
    """What the rows of one dataset have in common. `now_ns` decides which billing periods are over."""

    def __init__(self, *, names: FocusNames, node: str, calendar: Calendar, now_ns: int) -> None:
        self.names = names
        self.node = node
        self.calendar = calendar
        self.now_ns = now_ns
        # The same hours and the same names come again and again: most of a row is made once.
        self._bases: dict[tuple[str, ...], list[str]] = {}
        self._hours: dict[tuple[int, int], tuple[bool, list[str]]] = {}

    def rows(self, report: Report, first: int = 0, last: int | None = None) -> Iterator[list[str]]:
        """A line for each row of a report over `DIMENSIONS` that has a price; `unpriced_ns` are the others.

        Null is an empty cell. A name that a spreadsheet would run has an apostrophe in front; Tags has it as it is.
        `first` and `last` cut a piece out of the report's rows.
        """
        currency = report.currency
        for row in report.rows[first:last]:
            if row.cost_nano is not None and currency is not None:
                yield self._row(row, row.cost_nano, currency)

    def _row(self, row: ReportRow, cost_nano: int, currency: str) -> list[str]:
        base = self._base(row.group)
        is_over, dates = self._dates(row.start_ns, row.end_ns)
        cost, hours = exact_text(cost_nano) or "", hours_text(row.gpu_ns)
        cells = base.copy()
        cells[_CURRENCY] = currency
        for place, date in zip(_DATES, dates, strict=True):
            cells[place] = date
        for place in _COSTS:
            cells[place] = cost
        for place in _QUANTITIES:
            cells[place] = hours
        # Only what goes back in an earlier month is a correction in the sense of the specification.
        cells[_CLASS] = "Correction" if cost_nano < 0 and is_over else ""
        counts = (
            exact_text(row.gpu_ns) or "",
            str(row.input_cached_tokens),
            str(row.input_tokens),
            exact_text(row.energy_uj, 6) or "",
            exact_text(row.metered_ns) or "",
            str(row.output_tokens),
            str(row.requests),
            exact_text(row.work_ns) or "",
        )
        for place, count in zip(_COUNTS, counts, strict=True):
            cells[place] = count
        return cells

    def _dates(self, start_ns: int, end_ns: int) -> tuple[bool, list[str]]:
        """Whether the billing period is over, and the cells of `_DATES`."""
        found = self._hours.get((start_ns, end_ns))
        if found is None:
            if len(self._hours) >= _REMEMBERED:
                self._hours.clear()
            period_start, period_end = self.calendar.month_bounds(start_ns)
            dates = [rfc3339(at_ns) for at_ns in (period_end, period_start, end_ns, start_ns)]
            found = self._hours[start_ns, end_ns] = (period_end <= self.now_ns, dates)
        return found

    def _base(self, group: dict[str, str]) -> list[str]:
        """A row of these names without its dates and amounts."""
        key = tuple(group[dimension] for dimension in DIMENSIONS)
        found = self._bases.get(key)
        if found is None:
            if len(self._bases) >= _REMEMBERED:
                self._bases.clear()
            values = self._values(group)
            found = self._bases[key] = [values.get(column) or "" for column in COLUMNS]
        return found

    def _values(self, group: dict[str, str]) -> dict[str, str | None]:
        names = self.names
        resource = cell(f"{self.node}/{group['gpu']}")
        sku = cell(group["gpu_model"]) or "GPU"
        tenant = cell(group["tenant"]) or None
        account = names.billing_account_id or self.node
        reserved = None if group["state"] in UNKNOWN_STATES else resource
        unused = group["state"] in UNUSED_STATES
        return {
            "BillingAccountId": cell(account),
            "BillingAccountName": cell(names.billing_account_name or account),
            "CapacityReservationId": reserved,
            "CapacityReservationStatus": None if reserved is None else "Unused" if unused else "Used",
            "ChargeCategory": "Usage",
            "ChargeDescription": _description(group),
            "ChargeFrequency": "Usage-Based",
            "CommitmentDiscountStatus": None,  # there for those who check quantities by it, such as FOCUS' validator
            "ConsumedUnit": "GPU-Hours",
            "InvoiceId": None,  # no invoice has been issued for it
            "InvoiceIssuerName": cell(names.invoice_issuer or names.provider),
            "PricingUnit": "GPU-Hours",
            "ProviderName": cell(names.provider),
            "PublisherName": cell(names.publisher or names.provider),
            "ResourceId": resource,
            "ResourceName": None,  # a GPU has no name but its id
            "ResourceType": "GPU",
            "ServiceCategory": "AI and Machine Learning",
            "ServiceName": SERVICE,
            "ServiceSubcategory": "Generative AI",
            "SkuId": sku,
            "SkuMeter": "GPU time",
            "SkuPriceDetails": '{"GpuCount":1}',
            "SkuPriceId": sku,
            "SubAccountId": tenant,
            "SubAccountName": tenant,
            "Tags": tags(group),
            "x_CostState": group["state"],
            "x_Engine": cell(group["engine"]),
            "x_GpuModel": cell(group["gpu_model"]),
            "x_Model": cell(group["model"]),
            "x_Namespace": cell(group["namespace"]),
            "x_Node": cell(self.node),
            "x_Tenant": tenant,
            "x_Waste": group["waste"],
        }


def unpriced_ns(report: Report) -> int:
    """GPU nanoseconds of rows that no price covers: BilledCost must not be null, so the dataset lacks them."""
    return sum(row.gpu_ns for row in report.rows if row.cost_nano is None)


def questions(query: ReportQuery, calendar: Calendar) -> Iterator[ReportQuery]:
    """One question for each six hours of a window at most, so that no answer is large.

    The specification's date-times have no fractions of a second: the window is cut to whole ones.
    """
    start_ns, end_ns = query.start_ns - query.start_ns % NS, query.end_ns - query.end_ns % NS
    while start_ns < end_ns:
        until_ns = min(calendar.day_bounds(start_ns)[1], end_ns)
        edges = calendar.edges(start_ns, until_ns, "hour")
        if len(edges) >= _HOURS_AT_ONCE:
            until_ns = edges[_HOURS_AT_ONCE - 1]
            edges = edges[: _HOURS_AT_ONCE - 1]
        yield replace(query, start_ns=start_ns, end_ns=until_ns, edges=edges, aggregate=DIMENSIONS, basis="usage")
        start_ns = until_ns


def hours_text(gpu_ns: int) -> str:
    """GPU-hours with 15 decimal places at most, from which the nanoseconds can be read back."""
    scale: int = 10**_HOUR_PLACES
    scaled = (abs(gpu_ns) * scale + HOUR_NS // 2) // HOUR_NS
    text = exact_text(scaled if gpu_ns >= 0 else -scaled, _HOUR_PLACES, 1)
    return text or "0.0"


def tags(group: dict[str, str]) -> str:
    """A JSON object of what the row is of, under our prefix; without what does not apply."""
    found = {f"engineroom/{name}": group[name] for name in _TAGS if group.get(name)}
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _description(group: dict[str, str]) -> str:
    parts = [f"GPU time of {group['gpu_model'] or 'a GPU'}: {group['state']}"]
    parts += [f"{name} {group[name]}" for name in ("tenant", "model", "engine", "waste") if group[name]]
    return ", ".join(parts)
