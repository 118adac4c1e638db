"""An invoice as CSV in (FOCUS, or date, SKU, amount and currency under any names), its lines out, exactly."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Literal

from agent.core.cost.calendar import Calendar
from agent.core.cost.invoices import DaySums, InvoiceLine
from agent.core.ports import ConfigError
from agent.ledger.csv_files import CsvFile, Line

NS = 1_000_000_000
MOST_DAYS = 200_000  # days x SKUs of one file: what the ledger takes in one go
LONGEST_NAME = 200

Field = Literal["date", "end", "sku", "amount", "currency", "source", "quantity", "unit", "class"]
REQUIRED: tuple[Field, ...] = ("date", "sku", "amount")

# The headers that are known, in lower case without spaces, dashes and underscores. The first that is there counts.
_HEADERS: dict[Field, tuple[str, ...]] = {
    "date": ("chargeperiodstart", "date", "usagedate", "usagestartdate", "startdate", "start", "day", "from", "日期"),
    "end": ("chargeperiodend", "enddate", "usageenddate", "end", "to"),
    "sku": ("skuid", "sku", "resourceid", "product", "productname", "service", "item", "description", "产品"),
    "amount": ("billedcost", "amount", "cost", "total", "netamount", "charge", "金额"),
    "currency": ("billingcurrency", "currency", "currencycode", "币种"),
    "source": ("invoiceid", "invoice", "invoicenumber"),
    "quantity": ("consumedquantity", "pricingquantity", "quantity", "usage", "hours"),
    "unit": ("consumedunit", "pricingunit", "unit"),
    "class": ("chargeclass",),
}
_CURRENCY = re.compile("[A-Z]{3}")
_DAY = re.compile(r"(\d{4})[-/.]?(\d{2})[-/.]?(\d{2})")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column is what; None: the file does not say."""

    names: Mapping[Field, str]
    is_focus: bool

    def of(self, field: Field) -> str | None:
        """The column's name in the file."""
        return self.names.get(field)


def find_columns(table: CsvFile, named: Mapping[Field, str], currency: str | None) -> Columns:
    """By the options, else by headers that are known. Raises `ConfigError` where one is missing."""
    there = {re.sub(r"[\s_-]", "", name).lower(): name for name in reversed(table.columns) if name}
    found: dict[Field, str] = {}
    for field, headers in _HEADERS.items():
        if field in named:
            if named[field] not in table.columns:
                raise ConfigError(
                    f"--{field}", f"{table.path} has no column {named[field]!r}; it has {', '.join(table.columns[:20])}"
                )
            found[field] = named[field]
            continue
        known = next((there[header] for header in headers if header in there), None)
        if known is not None and known not in named.values():
            found[field] = known
    for field in REQUIRED:
        if field not in found:
            raise ConfigError(
                str(table.path),
                f"has no column that is known to be the {field}; name it with --{field} "
                f"(columns: {', '.join(table.columns[:20])})",
            )
    if "currency" not in found and currency is None:
        raise ConfigError(
            str(table.path), "does not say its currency; name a column with --currency-column, or --currency"
        )
    return Columns(found, {"chargeperiodstart", "billedcost"} <= there.keys())


def read_invoice(
    table: CsvFile, columns: Columns, calendar: Calendar, *, source: str, currency: str | None, decimal: str = "."
) -> DaySums:
    """All lines, as sums of days; lines that cannot be used are in `table.refusals`.

    Dates without a time are days of the calendar's zone. Raises `ConfigError` for a file that is too large to be one
    invoice (days x SKUs).
    """
    sums = DaySums(calendar)
    for line in table.lines():
        try:
            sums.add(_read(line, columns, calendar, source, currency, decimal))
        except ValueError as error:
            table.refusals.add(line.number, str(error))
        if len(sums) > MOST_DAYS:
            told = f"has more than {MOST_DAYS:,} days x SKUs; split it by month, or name another column with --sku"
            raise ConfigError(str(table.path), told)
    return sums


def _read(
    line: Line, columns: Columns, calendar: Calendar, source: str, currency: str | None, decimal: str
) -> InvoiceLine:
    amount = line.number_of(columns.of("amount"), decimal)
    if amount is None:
        raise ValueError(f"{columns.of('amount')}: is empty; expected an amount")
    money = line.text(columns.of("currency")) or currency or ""
    if not _CURRENCY.fullmatch(money):
        raise ValueError(f"currency: {money!r}; expected three letters such as CNY or USD")
    start_ns, end_ns = _period(line, columns, calendar)
    charge = line.text(columns.of("class"))
    if charge not in ("", "Correction"):
        raise ValueError(f"{columns.of('class')}: {charge!r}; expected nothing or Correction")
    return InvoiceLine(
        source=_name(line.text(columns.of("source")) or source),
        number=line.number,
        start_ns=start_ns,
        end_ns=end_ns,
        sku=_name(_sku(line, columns)),
        currency=money,
        amount=amount,
        quantity=line.number_of(columns.of("quantity"), decimal),
        unit=_name(line.text(columns.of("unit"))) or None,
        kind="correction" if charge else "",
    )


def _sku(line: Line, columns: Columns) -> str:
    found = line.text(columns.of("sku"))
    if not found and columns.is_focus:
        # Taxes, credits and fees have no SKU; they are told by their category.
        found = next((text for name in ("ResourceId", "ChargeCategory") if (text := line.text(name))), "")
    if not found:
        raise ValueError(f"{columns.of('sku')}: is empty; expected what is charged")
    return found


def _name(text: str) -> str:
    if len(text) > LONGEST_NAME:
        raise ValueError(f"{text[:37]!r}... has more than {LONGEST_NAME} characters")
    if not text.isprintable():
        raise ValueError(f"{text[:40]!r} has characters that cannot be printed")
    return text


def _period(line: Line, columns: Columns, calendar: Calendar) -> tuple[int, int]:
    """[start, end): a day where there is no end; a last day without a time counts as a whole, except in FOCUS."""
    start = line.text(columns.of("date"))
    if not start:
        raise ValueError(f"{columns.of('date')}: is empty; expected a date such as 2026-01-31")
    start_ns, is_day = _instant(start, calendar, columns.of("date") or "")
    end = line.text(columns.of("end"))
    if not end:
        return start_ns, calendar.day_bounds(start_ns)[1]
    end_ns, ends_with_day = _instant(end, calendar, columns.of("end") or "")
    if ends_with_day and is_day and not columns.is_focus:
        end_ns = calendar.day_bounds(end_ns)[1]
    return start_ns, end_ns


@lru_cache(4096)
def _instant(written: str, calendar: Calendar, column: str) -> tuple[int, bool]:
    """(Unix ns, whether it was a date without a time). Times without a zone are UTC, as FOCUS has it."""
    day = _DAY.fullmatch(written)
    try:
        if day:
            parts = (int(day[1]), int(day[2]), int(day[3]))
            if not 2000 <= parts[0] <= 2200:
                raise ValueError
            return calendar.date_start(date(*parts)), True
        found = datetime.fromisoformat(written.removesuffix(" UTC"))
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
        if not 2000 <= found.year <= 2200:
            raise ValueError
    except (ValueError, OverflowError):
        text = written if len(written) <= 40 else written[:37] + "..."
        raise ValueError(f"{column}: {text!r} is no date; expected 2026-01-31 or 2026-01-31T08:00:00Z") from None
    return (found - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000, False


def fields() -> Iterator[Field]:
    """What a column can be named as."""
    yield from _HEADERS
