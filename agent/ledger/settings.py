"""The settings of this station: the section `prices` of the configuration file, and the form of a price file."""

from datetime import UTC, date, datetime
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from agent.core.cost.money import exact
from agent.settings import ConfigPath

_SHAPE = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def _number(value: Any) -> Fraction:
    number = exact(value)
    if number < 0:
        raise ValueError("must not be negative")
    return number


def _positive(value: Any) -> Fraction:
    number = _number(value)
    if number == 0:
        raise ValueError("must be greater than 0")
    return number


def _pue(value: Any) -> Fraction:
    number = exact(value)
    if not 1 <= number <= 10:
        raise ValueError("must be between 1 and 10: total power of the building / power of its computers")
    return number


def _instant(value: Any) -> datetime | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("expected a date such as 2026-01-31 or an instant such as 2026-01-31T08:00:00Z") from None
    if isinstance(value, datetime):
        instant = value if value.tzinfo else value.replace(tzinfo=UTC)
    elif isinstance(value, date):
        instant = datetime(value.year, value.month, value.day, tzinfo=UTC)
    else:
        raise ValueError("expected a date such as 2026-01-31 (midnight UTC)")
    if instant.microsecond:
        raise ValueError("must be a whole second")
    return instant


Amount = Annotated[Fraction, BeforeValidator(_number)]
Positive = Annotated[Fraction, BeforeValidator(_positive)]


class Purchase(BaseModel):
    """GPUs that were bought: straight-line over their life, plus what it takes to run them."""

    model_config = _SHAPE

    price: Positive = Field(description="What all `gpus` together cost.")
    gpus: int = Field(1, ge=1, le=100_000, strict=True, description="How many GPUs `price` bought.")
    salvage: Amount = Field(Fraction(), description="What they will still be worth at the end of their life.")
    life_years: Positive = Field(description="Years (of 365 days) over which the price is spread.")
    installation: Amount = Field(Fraction(), description="One-off costs, for all `gpus` together.")
    maintenance_per_year: Amount = Field(Fraction(), description="Yearly costs, for all `gpus` together.")
    power_watts: Amount = Field(Fraction(), description="Power of one GPU with its share of the server.")
    pue: Annotated[Fraction, BeforeValidator(_pue)] = Field(
        Fraction(1), description="Power usage effectiveness of the building, at least 1."
    )
    energy_price_per_kwh: Amount = Field(Fraction(), description="Price of a kilowatt hour.")
    other_per_hour: Amount = Field(Fraction(), description="Rent, network, staff: per GPU and hour.")

    @model_validator(mode="after")
    def _possible(self) -> "Purchase":
        if self.salvage > self.price:
            raise ValueError("`salvage` is more than `price`: GPUs do not gain value; expected salvage <= price")
        if self.life_years > 100:
            raise ValueError("`life_years` is more than 100; expected the years the GPUs are used, such as 4")
        return self


class PriceEntry(BaseModel):
    """One row of a price book. Exactly one of `per_gpu_hour` and `purchase`."""

    model_config = _SHAPE

    gpu: str = Field(min_length=1, max_length=200, description="GPU model as NVML names it; * and ? are wildcards.")
    effective_from: Annotated[datetime | None, BeforeValidator(_instant)] = Field(
        None, description="From when on; a date means midnight UTC. Left out: always."
    )
    per_gpu_hour: Amount | None = Field(None, description="Price of one GPU for an hour, as a cloud bills it.")
    purchase: Purchase | None = Field(None, description="Bought GPUs.")
    note: str = Field("", description="Where the figures come from, for people.")

    @model_validator(mode="after")
    def _one_kind(self) -> "PriceEntry":
        if (self.per_gpu_hour is None) == (self.purchase is None):
            raise ValueError("expected exactly one of `per_gpu_hour` and `purchase`")
        return self


class Book(BaseModel):
    """All prices in one currency."""

    model_config = _SHAPE

    currency: str = Field(pattern="^[A-Z]{3}$", description="Three-letter code (ISO 4217), such as CNY or USD.")
    rows: tuple[PriceEntry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> "Book":
        seen = set()
        for row in self.rows:
            key = (row.gpu, row.effective_from)
            if key in seen:
                when = row.effective_from.isoformat() if row.effective_from else "always"
                raise ValueError(f"two rows for `{row.gpu}` take effect at the same time ({when}); expected one")
            seen.add(key)
        return self


def _books(books: tuple[Book, ...]) -> tuple[Book, ...]:
    currencies = [book.currency for book in books]
    if len(set(currencies)) < len(currencies):
        raise ValueError("two books have the same currency; put their rows into one")
    return books


class PriceFile(BaseModel):
    """A price file: one book or several, one for each currency."""

    model_config = _SHAPE

    books: Annotated[tuple[Book, ...], Field(min_length=1)]

    _check = field_validator("books")(_books)


class PricesSettings(BaseModel):
    """What a GPU hour costs. Without prices everything is counted in GPU seconds only."""

    model_config = _SHAPE

    file: ConfigPath | None = Field(
        None, description="Price file, as deploy/examples/prices.yaml; or write `books` here."
    )
    books: tuple[Book, ...] = Field((), description="Price books, written in place instead of in a file.")
    currency: str | None = Field(
        None, pattern="^[A-Z]{3}$", description="Which book is used; needed only when there are several."
    )

    _check = field_validator("books")(_books)

    @model_validator(mode="after")
    def _one_source(self) -> "PricesSettings":
        if self.file is not None and self.books:
            raise ValueError("expected `file` or `books`, not both")
        return self
