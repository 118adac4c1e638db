"""Somebody's price list as CSV in, a price book as YAML out: our own columns, OpenCost's, or SkyPilot's catalogue."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from pydantic import ValidationError

from agent.core.cost.price_ranges import TABLE, matches
from agent.core.ports import ConfigError
from agent.ledger.csv_files import CsvFile, Line
from agent.ledger.settings import PriceEntry

Format = Literal["engineroom", "opencost", "skypilot"]
FORMATS: tuple[Format, ...] = ("engineroom", "opencost", "skypilot")
MOST_ROWS = 10_000
PLACES = 12  # digits after the point of a price that is divided, such as a third of a server

# What tells one from another: columns that the header must have.
_SIGNS: dict[Format, tuple[str, ...]] = {
    "opencost": ("AssetClass", "InstanceIDField", "MarketPriceHourly"),
    "skypilot": ("AcceleratorName", "AcceleratorCount", "Price"),
    "engineroom": ("gpu", "per_gpu_hour"),
}
_OUR_COLUMNS = ("gpu", "per_gpu_hour", "kind", "sku", "region", "effective_from", "currency", "note")

# SkyPilot's names of GPUs, where NVML's do not end with them.
_SKYPILOT = {
    "A100": "NVIDIA A100-*-40GB", "A100-80GB": "NVIDIA A100*80GB*", "A100-80GB-SXM": "NVIDIA A100-SXM4-80GB",
    "H100": "NVIDIA H100*", "H100-SXM": "NVIDIA H100 80GB HBM3", "H100-NVL": "NVIDIA H100 NVL",
    "H100-MEGA-80GB": "NVIDIA H100 80GB HBM3", "H200": "NVIDIA H200*", "H200-SXM": "NVIDIA H200",
    "GH200": "NVIDIA GH200*", "B200": "NVIDIA B200*", "GB200": "NVIDIA GB200*", "B300": "NVIDIA B300*",
    "V100": "Tesla V100*-16GB", "V100-32GB": "Tesla V100*-32GB", "P100": "Tesla P100*", "P4": "Tesla P4",
    "T4": "Tesla T4", "K80": "Tesla K80", "M60": "Tesla M60", "A6000": "NVIDIA RTX A6000",
    "RTXA6000": "NVIDIA RTX A6000", "RTX6000-Ada": "NVIDIA RTX 6000 Ada Generation",
    "RTX4000-Ada": "NVIDIA RTX 4000 Ada Generation", "RTX6000": "Quadro RTX 6000",
    "RTXPRO6000": "NVIDIA RTX PRO 6000*",
}  # fmt: skip
_SAME = re.compile(r"(?:A10G?|A16|A2|A30|A40|L4|L40S?|H20|H800|A800)")
_GEFORCE = re.compile(r"(?:RTX)?(?P<number>[345]0[5-9]0)(?P<rest>-?(?:Ti|SUPER|D))?", re.IGNORECASE)


@dataclass(slots=True)
class Row:
    """One row of the book to be."""

    currency: str
    gpu: str
    per_gpu_hour: str
    kind: str = ""
    sku: str = ""
    region: str = ""
    effective_from: str = ""
    note: str = ""


@dataclass(slots=True)
class Imported:
    """What was read: rows in the order of the file; `left_out` lines were no GPU's, which is no mistake."""

    format: Format
    rows: list[Row] = field(default_factory=list)
    left_out: int = 0
    notes: list[str] = field(default_factory=list)


def read_prices(
    table: CsvFile,
    *,
    form: Format | None = None,
    currency: str | None = None,
    region: str | None = None,
    decimal: str = ".",
) -> Imported:
    """All rows; lines that cannot be used are in `table.refusals`. Raises `ConfigError` when the form is unknown.

    `currency` is that of lines that do not say theirs; SkyPilot's and OpenCost's are USD unless it is given. `region`
    keeps rows of that region only.
    """
    found = Imported(form or _form(table))
    missing = [name for name in _SIGNS[found.format] if name not in table.columns]
    if missing:
        raise ConfigError(str(table.path), f"has no column {missing[0]!r}, which form {found.format} needs")
    reading = _Reading(table, currency, region, decimal, found)
    readers: dict[Format, Callable[[Line], None]] = {
        "engineroom": reading.ours,
        "opencost": reading.opencost,
        "skypilot": reading.skypilot,
    }
    read = readers[found.format]
    for line in table.lines():
        try:
            read(line)
        except ValueError as error:
            table.refusals.add(line.number, str(error))
    reading.finish()
    return found


def _form(table: CsvFile) -> Format:
    for form, signs in _SIGNS.items():
        if all(name in table.columns for name in signs):
            return form
    shown = ", ".join(table.columns[:12]) or "none"
    raise ConfigError(
        str(table.path),
        f"is no price list that is known: its columns are {shown}; expected {', '.join(_OUR_COLUMNS)} "
        "(gpu and per_gpu_hour at least), OpenCost's or SkyPilot's",
    )


class _Reading:
    """One pass over a file."""

    def __init__(self, table: CsvFile, currency: str | None, region: str | None, decimal: str, found: Imported) -> None:
        self.table, self.currency, self.region, self.decimal, self.found = table, currency, region, decimal, found
        self._seen: dict[tuple[str, ...], int] = {}
        self._best: dict[tuple[str, str, str], tuple[Fraction, Row]] = {}
        self._guessed: set[str] = set()

    def _price(self, line: Line, column: str) -> Fraction | None:
        price = line.number_of(column, self.decimal)
        if price is not None and price < 0:
            raise ValueError(f"{column}: {line.cells[column].strip()} is negative; expected a price of 0 or more")
        return price

    def _wanted(self, region: str) -> bool:
        if self.region is None or region in ("", self.region):
            return True
        self.found.left_out += 1
        return False

    def _add(self, line: int, row: Row, price: Fraction) -> None:
        """A row that must not be there already; checked as the book will be."""
        if len(self.found.rows) >= MOST_ROWS:
            raise ConfigError(str(self.table.path), f"has more than {MOST_ROWS:,} rows; choose a --region")
        _check(row, price)
        key = (row.currency, row.gpu, row.kind, row.region, row.sku, row.effective_from)
        if key in self._seen:
            raise ValueError(f"overlaps line {self._seen[key]}: the same GPUs, kind, region and day")
        self._seen[key] = line
        self.found.rows.append(row)

    def ours(self, line: Line) -> None:
        """gpu, per_gpu_hour and what else a row may have."""
        unknown = [name for name in line.cells if name and name not in _OUR_COLUMNS and line.cells[name].strip()]
        if unknown:
            raise ValueError(f"the column {unknown[0]!r} is unknown; expected {', '.join(_OUR_COLUMNS)}")
        gpu, price = line.text("gpu"), self._price(line, "per_gpu_hour")
        currency = line.text("currency") or self.currency
        if not gpu or price is None:
            raise ValueError(f"{'gpu' if not gpu else 'per_gpu_hour'} is empty; expected a value")
        if currency is None:
            raise ValueError("no currency; expected a column `currency`, or --currency")
        values = {name: line.text(name) for name in ("kind", "sku", "region", "effective_from", "note")}
        if self._wanted(values["region"]):
            self._add(line.number, Row(currency, gpu, _digits(price), **values), price)

    def opencost(self, line: Line) -> None:
        """AssetClass `gpu` with the GPU's label as InstanceID; whole nodes and volumes are no GPU's price."""
        asset, name = line.text("AssetClass").lower(), line.text("InstanceID")
        if asset == "pv":
            self.found.left_out += 1
            return
        if asset == "node":
            raise ValueError(
                f"{name or line.text('InstanceType')}: the price of a whole node, which does not say its GPUs; "
                "write a row with `per_gpu_hour` (price / GPUs) by hand"
            )
        if asset != "gpu":
            raise ValueError(f"AssetClass {asset!r}; expected gpu (or node, pv)")
        price = self._price(line, "MarketPriceHourly")
        if not name or price is None:
            raise ValueError(f"{'InstanceID' if not name else 'MarketPriceHourly'} is empty; expected a value")
        region = line.text("Region")
        if self._wanted(region):
            # The label has `-` or `_` where NVML's name may have a space.
            pattern = re.sub(r"[-_ ]", "?", name)
            pattern = pattern if name.casefold().startswith(("nvidia", "tesla")) else f"*{pattern}*"
            note = f"OpenCost, {line.text('InstanceIDField') or 'label'} {name}"
            row = Row(self.currency or "USD", pattern, _digits(price), "on_demand", region=region, note=note)
            self._add(line.number, row, price)

    def skypilot(self, line: Line) -> None:
        """A machine with its GPUs: the cheapest way to one GPU of each model and region counts, on demand and spot."""
        name, count = line.text("AcceleratorName"), line.number_of("AcceleratorCount")
        if not name:
            self.found.left_out += 1
            return
        if count is None or count < 1 or count.denominator != 1:
            raise ValueError(f"AcceleratorCount: {line.cells.get('AcceleratorCount', '')!r}; expected 1 or more")
        pattern, is_known = _pattern(name)
        region, machine = line.text("Region"), line.text("InstanceType")
        if not self._wanted(region):
            return
        prices = [("on_demand", self._price(line, "Price")), ("spot", self._price(line, "SpotPrice"))]
        if not any(price for _, price in prices):
            raise ValueError(f"{machine or name}: neither Price nor SpotPrice; expected at least one")
        if not is_known:
            self._guessed.add(name)
        for kind, price in prices:
            if not price:
                continue
            key, each = (pattern, kind, region), price / count
            if len(self._best) >= MOST_ROWS and key not in self._best:
                raise ConfigError(str(self.table.path), f"has more than {MOST_ROWS:,} prices; choose a --region")
            if key not in self._best or each < self._best[key][0]:
                note = f"SkyPilot: {machine or 'a machine'} with {count} {name} for {_digits(price)}"
                row = Row(self.currency or "USD", pattern, _digits(each), kind, machine, region, note=note)
                _check(row, each)
                self._best[key] = (each, row)

    def finish(self) -> None:
        """What is known only at the end of the file."""
        rows = [row for _, row in self._best.values()]
        # Narrow patterns first: the first that matches decides.
        self.found.rows += sorted(rows, key=lambda row: (row.gpu.count("*"), -len(row.gpu), row.gpu))
        if self._guessed:
            names = ", ".join(sorted(self._guessed)[:10])
            self.found.notes.append(f"patterns guessed from the names {names}: compare them with nvidia-smi -L")
        if self.found.format == "skypilot" and len({row.region for row in rows}) > 1:
            self.found.notes.append("prices of several regions: set `prices.region`, or import with --region")


def _pattern(name: str) -> tuple[str, bool]:
    if name in _SKYPILOT:
        return _SKYPILOT[name], True
    if _SAME.fullmatch(name):
        return f"NVIDIA {name}", True
    geforce = _GEFORCE.fullmatch(name)
    if geforce:
        rest = (geforce["rest"] or "").lstrip("-")
        return f"NVIDIA GeForce RTX {geforce['number']}{' ' + rest if rest else ''}", True
    if name.casefold().startswith(("tpu", "mi", "gaudi", "trainium", "inferentia", "radeon")):
        raise ValueError(f"{name} is not a GPU of NVIDIA's, which alone are seen here")
    guess = f"*{re.sub(r'[-_ ]', '?', name)}*"
    return guess, any(matches(model, guess) for entry in TABLE for model in entry.names)


def _check(row: Row, price: Fraction) -> None:
    """Raises `ValueError` for what the book would refuse."""
    if not re.fullmatch("[A-Z]{3}", row.currency):
        raise ValueError(f"currency: {row.currency!r}; expected three letters such as CNY or USD")
    values = {"gpu": row.gpu, "per_gpu_hour": price, "sku": row.sku, "region": row.region, "note": row.note}
    try:
        PriceEntry.model_validate(
            {**values, "kind": row.kind or None, "effective_from": row.effective_from or None}, strict=False
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error


def _digits(number: Fraction) -> str:
    """As decimal digits: all of them, or rounded where they have no end."""
    if 10**30 % number.denominator == 0:
        scaled = str(number.numerator * (10**30 // number.denominator)).rjust(31, "0")
        whole, after = scaled[:-30], scaled[-30:].rstrip("0")
    else:
        scaled = str(round(number * 10**PLACES)).rjust(PLACES + 1, "0")
        whole, after = scaled[:-PLACES], scaled[-PLACES:].rstrip("0")
    return f"{whole}.{after}" if after else whole


def book_lines(rows: Sequence[Row], source: str) -> Iterator[str]:
    """The book as YAML, with exact decimals, to be read by people first."""
    yield f"# Prices of one GPU for one hour, imported from {json.dumps(source)} by `engineroom prices import`."
    yield "# Check them: engineroom prices check FILE"
    yield "books:"
    for currency in dict.fromkeys(row.currency for row in rows):
        yield f"  - currency: {currency}"
        yield "    rows:"
        for row in (row for row in rows if row.currency == currency):
            yield f"      - gpu: {json.dumps(row.gpu)}"
            yield from (f"        {name}: {value}" for name, value in _values(row))


def _values(row: Row) -> Iterable[tuple[str, str]]:
    yield "per_gpu_hour", row.per_gpu_hour
    for name in ("kind", "sku", "region", "effective_from", "note"):
        value = getattr(row, name)
        if value:
            yield name, json.dumps(value)
