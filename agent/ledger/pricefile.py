"""The settings of section `prices` and the price file they name in, the `PriceBook` out."""

from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from agent.core.cost.prices import SINCE_EVER_NS, Part, PriceBook, PriceRow, purchase_parts
from agent.core.ports import ConfigError
from agent.ledger.settings import Book, PriceEntry, PriceFile, PricesSettings

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
    books = settings.books
    if settings.file is not None:
        books = _read(settings.file).books
    if not books:
        return None
    return _build(_selected(books, settings.currency))


def _selected(books: tuple[Book, ...], currency: str | None) -> Book:
    names = ", ".join(book.currency for book in books)
    if currency is None:
        if len(books) > 1:
            raise ConfigError("prices.currency", f"there are books in {names}; say which one is used")
        return books[0]
    for book in books:
        if book.currency == currency:
            return book
    raise ConfigError("prices.currency", f"there is no book in {currency}; there are books in {names}")


def _read(file: Path) -> PriceFile:
    try:
        tree: Any = yaml.load(file.read_text(encoding="utf-8"), _ExactLoader)
    except OSError as error:
        raise ConfigError("prices.file", f"{file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("prices.file", f"{file} is not valid YAML: {error}") from error
    try:
        return PriceFile.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(file)"
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{file}: {key}", message[:1].lower() + message[1:]) from error


def _build(book: Book) -> PriceBook:
    return PriceBook(book.currency, [_row(entry) for entry in book.rows])


def _row(entry: PriceEntry) -> PriceRow:
    if entry.purchase is not None:
        bought = entry.purchase
        parts = purchase_parts(**{name: getattr(bought, name) for name in type(bought).model_fields})
    else:
        assert entry.per_gpu_hour is not None  # the model's validator saw to it
        parts = (Part("per_gpu_hour", entry.per_gpu_hour),)
    return PriceRow(entry.gpu, parts, _ns(entry.effective_from))


def _ns(instant: datetime | None) -> int:
    return SINCE_EVER_NS if instant is None else int(instant.timestamp()) * NS
