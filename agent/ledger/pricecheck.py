"""A price file in, everything in it that is wrong or looks wrong out, each with its line."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from agent.core.cost.price_checks import check_rows
from agent.core.cost.price_findings import Bought, Checked, Finding
from agent.core.ports import ConfigError
from agent.ledger.pricefile import exchange_of, read_tree, row_of
from agent.ledger.settings import Book, ExchangeRate, PriceEntry, PriceFile, Purchase

_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:[,.'’  ]\d{3})+(?:[.,]\d+)?")
_Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the file something stands, for people."""

    file: Path
    lines: Mapping[_Path, int]

    def name(self, path: _Path, after: str = "") -> str:
        at = path
        while at and at not in self.lines:
            at = at[:-1]
        key = ".".join(str(part) for part in path)
        return f"{self.file}:{self.lines.get(at, 1)}: {key}" + (f" ({after})" if after else "")


def check_file(file: Path, now_ns: int) -> list[Finding]:
    """All findings, errors first. Rows that cannot be read are told as errors; the others are checked all the same.

    A file with the section `prices` (engineroom.yaml) is checked by that section. Raises `ConfigError` when it cannot
    be read at all.
    """
    tree: Any = read_tree(file)
    path: _Path = ()
    if isinstance(tree, dict) and isinstance(tree.get("prices"), dict):
        tree, path = tree["prices"], ("prices",)
    if not isinstance(tree, dict) or not isinstance(tree.get("books"), list) or not tree["books"]:
        raise ConfigError(
            str(file), "has no price books; expected `books:` with a list, as deploy/examples/prices.yaml"
        )
    place = _Place(file, _lines(file))
    found: list[Finding] = []
    rows: list[Checked] = []
    for number, book in enumerate(tree["books"]):
        rows += _book(book, (*path, "books", number), place, found)
    rates = _rates(tree.get("exchange"), (*path, "exchange"), place, found)
    if not found:
        found += _whole(tree, path, place)
    found += check_rows(rows, exchange_of(rates), now_ns)
    weight = {"error": 0, "warning": 1, "note": 2}
    return sorted(found, key=lambda finding: weight[finding.severity])


def _book(book: Any, path: _Path, place: _Place, found: list[Finding]) -> list[Checked]:
    if not isinstance(book, dict) or not isinstance(book.get("rows"), list) or not book["rows"]:
        found.append(Finding("error", place.name(path), "a book without rows", "expected `currency` and `rows`"))
        return []
    currency = str(book.get("currency"))
    rows = []
    for number, row in enumerate(book["rows"]):
        at = (*path, "rows", number)
        entry = _valid(PriceEntry, row, at, place, found)
        if isinstance(entry, PriceEntry):
            rows.append(_checked(entry, currency, place.name(at, entry.gpu)))
    shape = {**book, "rows": [{"gpu": "x", "per_gpu_hour": 1}]}
    _valid(Book, shape, path, place, found)
    found += _twice(rows)
    return rows


def _twice(rows: list[Checked]) -> Iterator[Finding]:
    seen: dict[Any, Checked] = {}
    for row in rows:
        key = (row.pattern, row.from_ns, row.kind, row.region, row.sku)
        if key in seen:
            text = f"overlaps {seen[key].where}: the same GPUs, kind and day"
            yield Finding("error", row.where, text, "give it a later `effective_from`, or take one away")
        seen.setdefault(key, row)


def _rates(given: Any, path: _Path, place: _Place, found: list[Finding]) -> list[ExchangeRate]:
    rates = []
    for number, rate in enumerate(given if isinstance(given, list) else []):
        made = _valid(ExchangeRate, rate, (*path, number), place, found)
        if isinstance(made, ExchangeRate):
            rates.append(made)
    return rates


def _whole(tree: dict[str, Any], path: _Path, place: _Place) -> Iterator[Finding]:
    """What only the file as a whole can be wrong about, such as two books of one currency."""
    found: list[Finding] = []
    _valid(PriceFile, {k: v for k, v in tree.items() if not path or k in PriceFile.model_fields}, path, place, found)
    yield from found


def _valid(model: type[BaseModel], value: Any, path: _Path, place: _Place, found: list[Finding]) -> BaseModel | None:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        for detail in error.errors():
            text = detail["msg"].removeprefix("Value error, ")
            written = detail.get("input")
            advice = "mend it; `engineroom run` does not start with it"
            if isinstance(written, str) and _THOUSANDS.fullmatch(written.strip()):
                text, advice = f"`{written}` has separators in it", "write digits and one decimal point: 1800000.50"
            elif isinstance(written, int | float) and "negative" in text:
                text = f"{written}: {text}"
            found.append(Finding("error", place.name((*path, *detail["loc"])), text, advice))
        return None


def _checked(entry: PriceEntry, currency: str, where: str) -> Checked:
    row = row_of(entry)
    return Checked(
        where,
        currency,
        entry.gpu,
        entry.is_kind,
        entry.region,
        entry.sku,
        row.from_ns,
        entry.per_gpu_hour,
        None if entry.purchase is None else _bought(entry.purchase),
    )


def _bought(bought: Purchase) -> Bought:
    prices: tuple[Fraction, ...] = (bought.energy_price_per_kwh,)
    if bought.electricity is not None:
        prices = (bought.electricity.per_kwh, *(period.per_kwh for period in bought.electricity.periods))
    return Bought(
        bought.price, bought.gpus, bought.life_years, bought.salvage, bought.power_watts, bought.pue, prices
    )  # fmt: skip


def _lines(file: Path) -> dict[_Path, int]:
    """The line of every key and item."""
    found: dict[_Path, int] = {}

    def walk(node: yaml.Node | None, path: _Path) -> None:
        if node is None or len(path) > 12:
            return
        found.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                at = (*path, str(key.value))
                found[at] = key.start_mark.line + 1
                walk(value, at)
        elif isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                walk(item, (*path, number))

    walk(yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader), ())
    return found
