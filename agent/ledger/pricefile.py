"""The settings of section `prices` and the price file they name in, the `PriceBook` out."""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from agent.core.cost.energy_prices import EVERY_MONTH, EnergyTariff, Period
from agent.core.cost.exchange import SINCE_EVER_NS, Exchange, Rate
from agent.core.cost.prices import Choice, EnergyUse, Part, PriceBook, PriceRow, purchase_parts
from agent.core.ports import ConfigError
from agent.ledger.settings import Book, Electricity, ExchangeRate, PriceEntry, PriceFile, PricesSettings

NS = 1_000_000_000


class _ExactLoader(yaml.SafeLoader):
    """YAML whose decimals stay decimals: 0.1 is a tenth."""


def _decimal(loader: _ExactLoader, node: yaml.ScalarNode) -> Decimal | float:
    text = str(loader.construct_scalar(node)).replace("_", "")
    try:
        return Decimal(text)
    except ArithmeticError:
        return loader.construct_yaml_float(node)  # .inf, .nan, sexagesimal: refused later, by name


_ExactLoader.add_constructor("tag:yaml.org,2002:float", _decimal)


def load_prices(settings: PricesSettings) -> PriceBook | None:
    """The book that `settings` select, or None when no prices are given.

    Raises `ConfigError` that names the key, also for keys inside the price file.
    """
    books, rates = settings.books, settings.exchange
    if settings.file is not None:
        found = _read(settings.file)
        books, rates = found.books, (*settings.exchange, *found.exchange)
    if not books:
        return None
    chosen = _selected(books, settings.currency, rates)
    return PriceBook(
        chosen,
        rows_of(book for book in books if book.currency == chosen),
        others=[(book.currency, rows_of([book])) for book in books if book.currency != chosen],
        exchange=exchange_of(rates),
        choice=Choice(settings.kind, settings.region),
        gpus={one.gpu: Choice(one.kind, one.region or settings.region, one.sku) for one in settings.gpus},
    )


def _selected(books: tuple[Book, ...], currency: str | None, rates: tuple[ExchangeRate, ...]) -> str:
    names = ", ".join(book.currency for book in books)
    if currency is None:
        if len(books) > 1:
            raise ConfigError("prices.currency", f"there are books in {names}; say which one is used")
        return books[0].currency
    exchange = exchange_of(rates)
    if any(exchange.steps(book.currency, currency) for book in books):
        return currency
    raise ConfigError(
        "prices.currency", f"there is no book in {currency} and no exchange rate to it; there are books in {names}"
    )


def read_tree(file: Path) -> Any:
    """The file's YAML with exact decimals. Raises `ConfigError`."""
    try:
        return yaml.load(file.read_text(encoding="utf-8"), _ExactLoader)
    except OSError as error:
        raise ConfigError("prices.file", f"{file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or an impossible date
        raise ConfigError("prices.file", f"{file} is not valid YAML: {error}") from error


def _read(file: Path) -> PriceFile:
    tree = read_tree(file)
    try:
        return PriceFile.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(file)"
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{file}: {key}", message[:1].lower() + message[1:]) from error


def rows_of(books: Iterable[Book]) -> list[PriceRow]:
    """The rows of books of one currency, in their order."""
    return [row_of(entry) for book in books for entry in book.rows]


def exchange_of(rates: Iterable[ExchangeRate]) -> Exchange:
    """The rates; of two for the same instant the first counts."""
    return Exchange(Rate(r.source, r.target, r.rate, _ns(r.effective_from)) for r in rates)


def row_of(entry: PriceEntry) -> PriceRow:
    """A row as the book calculates with it."""
    energy = None
    if entry.purchase is not None:
        bought = entry.purchase
        given = {name: getattr(bought, name) for name in type(bought).model_fields if name != "electricity"}
        parts = purchase_parts(**given)
        if bought.electricity is not None:
            energy = EnergyUse(bought.power_watts / 1000 * bought.pue, _tariff(bought.electricity))
    else:
        assert entry.per_gpu_hour is not None  # the model's validator saw to it
        parts = (Part("per_gpu_hour", entry.per_gpu_hour),)
    return PriceRow(
        entry.gpu,
        parts,
        _ns(entry.effective_from),
        kind=entry.is_kind,
        sku=entry.sku,
        region=entry.region,
        energy=energy,
        mig=tuple(entry.mig.items()),
    )


def _tariff(electricity: Electricity) -> EnergyTariff:
    periods = (
        Period(p.start, p.end, p.per_kwh, p.weekdays, frozenset(p.months) or EVERY_MONTH) for p in electricity.periods
    )
    return EnergyTariff(electricity.time_zone, electricity.per_kwh, tuple(periods))


def _ns(instant: datetime | None) -> int:
    return SINCE_EVER_NS if instant is None else int(instant.timestamp()) * NS
