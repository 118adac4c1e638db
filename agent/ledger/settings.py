"""The settings of this station: the section `prices` of the configuration file, and the form of a price file."""

from fractions import Fraction
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from agent.core.cost.prices import Kind
from agent.ledger.price_values import Amount, Currency, Day, Instant, Minute, Part, Positive, Pue, TimeZone
from agent.settings import ConfigPath

_SHAPE = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, populate_by_name=True)
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


class EnergyPeriod(BaseModel):
    """A time of the day with its own price of electricity."""

    model_config = _SHAPE

    start: Minute = Field(description="Time of day it begins, such as 08:00.")
    end: Minute = Field(description="Time of day it ends, at most 24:00; not after `start`: on the next day.")
    per_kwh: Amount = Field(description="Price of a kilowatt hour then.")
    days: tuple[Day, ...] = Field((), description="Days on which it begins; left out: every day.")
    months: tuple[Annotated[int, Field(ge=1, le=12, strict=True)], ...] = Field(
        (), description="Months (1 to 12) in which it begins; left out: every month."
    )

    @model_validator(mode="after")
    def _some_time(self) -> "EnergyPeriod":
        if self.start == self.end or self.start == 24 * 60:
            raise ValueError("`start` and `end` are the same time of day; a whole day is 00:00 to 24:00")
        return self

    @property
    def weekdays(self) -> frozenset[int]:
        """0 is Monday."""
        return frozenset(_DAYS.index(day) for day in self.days or _DAYS)


class Electricity(BaseModel):
    """What a kilowatt hour costs, by time of day, weekday and month. The first of the periods that covers decides."""

    model_config = _SHAPE

    time_zone: TimeZone = Field(description="Whose wall clock the times are, such as Asia/Shanghai.")
    per_kwh: Amount = Field(description="Price of a kilowatt hour outside of `periods`.")
    periods: tuple[EnergyPeriod, ...] = Field((), max_length=50, description="Times with another price.")


class Purchase(BaseModel):
    """GPUs that were bought: straight-line over their life, plus what it takes to run them."""

    model_config = _SHAPE

    price: Positive = Field(description="What all `gpus` together cost.")
    gpus: int = Field(1, ge=1, le=100_000, strict=True, description="How many GPUs `price` bought.")
    salvage: Amount = Field(Fraction(), description="What they will still be worth at the end of their life.")
    life_years: Positive = Field(description="Years (of 365 days) over which the price is spread.")
    installation: Amount = Field(Fraction(), description="One-off costs, for all `gpus` together.")
    maintenance_per_year: Amount = Field(Fraction(), description="Yearly costs, for all `gpus` together.")
    colocation_per_month: Amount = Field(
        Fraction(), description="Rent of the rack, for all `gpus` together. A month is 730 hours."
    )
    network_per_month: Amount = Field(Fraction(), description="Network, for all `gpus` together.")
    power_watts: Amount = Field(Fraction(), description="Power of one GPU with its share of the server.")
    pue: Pue = Field(Fraction(1), description="Power usage effectiveness of the building, at least 1.")
    energy_price_per_kwh: Amount = Field(Fraction(), description="Price of a kilowatt hour.")
    electricity: Electricity | None = Field(
        None, description="Price of a kilowatt hour by time of day, instead of `energy_price_per_kwh`."
    )
    other_per_hour: Amount = Field(Fraction(), description="Rent, network, staff: per GPU and hour.")

    @model_validator(mode="after")
    def _possible(self) -> "Purchase":
        if self.salvage > self.price:
            raise ValueError("`salvage` is more than `price`: GPUs do not gain value; expected salvage <= price")
        if self.life_years > 100:
            raise ValueError("`life_years` is more than 100; expected the years the GPUs are used, such as 4")
        if self.electricity is not None and self.energy_price_per_kwh:
            raise ValueError("expected `energy_price_per_kwh` or `electricity`, not both")
        return self


class PriceEntry(BaseModel):
    """One row of a price book. Exactly one of `per_gpu_hour` and `purchase`."""

    model_config = _SHAPE

    gpu: str = Field(min_length=1, max_length=200, description="GPU model as NVML names it; * and ? are wildcards.")
    effective_from: Instant = Field(None, description="From when on; a date means midnight UTC. Left out: always.")
    kind: Kind | None = Field(
        None,
        description="on_demand, spot, reserved or owned. Left out: owned with `purchase`, else on_demand.",
    )
    sku: str = Field("", max_length=200, description="What the seller's invoice calls it.")
    region: str = Field("", max_length=100, description="Where the price holds; left out: everywhere.")
    per_gpu_hour: Amount | None = Field(None, description="Price of one GPU for an hour, as a cloud bills it.")
    purchase: Purchase | None = Field(None, description="Bought GPUs.")
    mig: dict[str, Part] = Field(
        {}, description="What a MIG profile costs, as a part of the GPU: {1g.10gb: 1/7}. Left out: its compute slices."
    )
    note: str = Field("", description="Where the figures come from, for people.")

    @model_validator(mode="after")
    def _one_kind(self) -> "PriceEntry":
        if (self.per_gpu_hour is None) == (self.purchase is None):
            raise ValueError("expected exactly one of `per_gpu_hour` and `purchase`")
        return self

    @property
    def is_kind(self) -> Kind:
        """The kind, where it is not written the one that goes without saying."""
        return self.kind or ("owned" if self.purchase is not None else "on_demand")


class ExchangeRate(BaseModel):
    """What one unit of a currency is worth in another, from a day on."""

    model_config = _SHAPE

    source: Currency = Field(alias="from", description="Currency that is converted, such as USD.")
    target: Currency = Field(alias="to", description="Currency it becomes, such as CNY.")
    rate: Positive = Field(description="How much of `to` one unit of `from` is worth, such as 7.1.")
    effective_from: Instant = Field(None, description="From when on; a date means midnight UTC. Left out: always.")

    @model_validator(mode="after")
    def _two_currencies(self) -> "ExchangeRate":
        if self.source == self.target:
            raise ValueError(f"`from` and `to` are both {self.source}; expected two currencies")
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
            key = (row.gpu, row.effective_from, row.is_kind, row.region, row.sku)
            if key in seen:
                when = row.effective_from.isoformat() if row.effective_from else "always"
                raise ValueError(
                    f"two rows for `{row.gpu}` ({row.is_kind}) take effect at the same time ({when}); expected one"
                )
            seen.add(key)
        return self


def _books(books: tuple[Book, ...]) -> tuple[Book, ...]:
    currencies = [book.currency for book in books]
    if len(set(currencies)) < len(currencies):
        raise ValueError("two books have the same currency; put their rows into one")
    return books


def _exchange(rates: tuple[ExchangeRate, ...]) -> tuple[ExchangeRate, ...]:
    seen = set()
    for rate in rates:
        key = (rate.source, rate.target, rate.effective_from)
        if key in seen:
            when = rate.effective_from.isoformat() if rate.effective_from else "always"
            raise ValueError(f"two rates from {rate.source} to {rate.target} take effect at the same time ({when})")
        seen.add(key)
    return rates


class PriceFile(BaseModel):
    """A price file: one book or several, one for each currency, and what the currencies are worth."""

    model_config = _SHAPE

    books: Annotated[tuple[Book, ...], Field(min_length=1)]
    exchange: tuple[ExchangeRate, ...] = ()

    _check = field_validator("books")(_books)
    _check_exchange = field_validator("exchange")(_exchange)


class GpuPriceChoice(BaseModel):
    """Which rows price one GPU of this node, where it is not as the others."""

    model_config = _SHAPE

    gpu: str = Field(min_length=1, max_length=100, description="The GPU's uuid, as `nvidia-smi -L` shows it.")
    kind: Kind | None = Field(None, description="Rows of this kind only.")
    region: str | None = Field(None, description="Rows of this region, or of none, only.")
    sku: str | None = Field(None, description="Rows of this SKU only.")


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
    kind: Kind | None = Field(
        None, description="How this node's GPUs are paid for: rows of that kind only. Left out: the first that matches."
    )
    region: str | None = Field(None, description="Where this node is: rows of that region, or of none, only.")
    gpus: tuple[GpuPriceChoice, ...] = Field((), description="GPUs that are paid for in another way.")
    exchange: tuple[ExchangeRate, ...] = Field(
        (), description="Dated rates: models priced only in another book are converted. Also in the price file."
    )

    _check = field_validator("books")(_books)
    _check_exchange = field_validator("exchange")(_exchange)

    @model_validator(mode="after")
    def _one_source(self) -> "PricesSettings":
        if self.file is not None and self.books:
            raise ValueError("expected `file` or `books`, not both")
        names = [one.gpu for one in self.gpus]
        if len(set(names)) < len(names):
            raise ValueError("a GPU is listed twice under `gpus`; expected one choice for each")
        return self
