"""A row of a price book and what its price is made of: figures of a purchase or a rent in, price per hour out."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from agent.core.cost.energy_prices import EnergyTariff
from agent.core.cost.exchange import SINCE_EVER_NS
from agent.core.cost.money import NANO

NS = 1_000_000_000
HOUR_NS = 3600 * NS
HOURS_PER_YEAR = 8760  # a year is 365 days: the life of a purchase is counted in these
HOURS_PER_MONTH = Fraction(HOURS_PER_YEAR, 12)

Kind = Literal["on_demand", "spot", "reserved", "owned"]
KINDS: tuple[Kind, ...] = ("on_demand", "spot", "reserved", "owned")
# FOCUS 1.2, PricingCategory. What is owned has a rate that was agreed on before, within the house.
PRICING_CATEGORY: Mapping[Kind, str] = {
    "on_demand": "Standard",
    "spot": "Dynamic",
    "reserved": "Committed",
    "owned": "Standard",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One reason why a GPU costs money; `per_hour` is in units of the currency, exact."""

    name: str
    per_hour: Fraction


@dataclass(frozen=True, slots=True)
class EnergyUse:
    """What one GPU draws from the meter (`kilowatts`: rated power x PUE), under a tariff that changes with time."""

    kilowatts: Fraction
    tariff: EnergyTariff


@dataclass(frozen=True, slots=True)
class PriceRow:
    """What one GPU of the models matching `pattern` costs from `from_ns` (Unix ns, whole seconds) on.

    `pattern` is a shell glob on NVML's model name, compared without regard to case. Rows are never edited: a new price
    is a new row with a later `from_ns`. `mig`: what a MIG profile costs, as a part of the GPU's price.
    """

    pattern: str
    parts: tuple[Part, ...]
    from_ns: int = SINCE_EVER_NS
    kind: Kind = "on_demand"
    sku: str = ""
    region: str = ""
    energy: EnergyUse | None = None
    mig: tuple[tuple[str, Fraction], ...] = ()

    def parts_at(self, at_ns: int) -> tuple[Part, ...]:
        """What makes up the price at an instant; parts of 0 are left out, except where there is no other."""
        if self.energy is None:
            return self.parts
        energy = Part("energy", self.energy.kilowatts * self.energy.tariff.price_at(at_ns))
        return (*self.parts, energy) if energy.per_hour else self.parts

    def nano_per_ns_at(self, at_ns: int) -> Fraction:
        """Price at an instant, in nano-units per nanosecond (the same number as units per second)."""
        return sum((part.per_hour for part in self.parts_at(at_ns)), Fraction()) * NANO / HOUR_NS

    @property
    def pricing_category(self) -> str:
        """FOCUS: Standard, Dynamic or Committed."""
        return PRICING_CATEGORY[self.kind]

    @property
    def changes_by_itself(self) -> bool:
        """True when the price moves within the row: with the time of day."""
        return self.energy is not None and not self.energy.tariff.is_flat and self.energy.kilowatts > 0

    def mig_weight(self, profile: str) -> Fraction | None:
        """What a MIG device of this profile ("1g.10gb") is of the GPU, in price; None: the row does not say."""
        wanted = profile.strip().casefold()
        return next((weight for name, weight in self.mig if name.strip().casefold() == wanted), None)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of a book's rows count. None: any, and the first one in the book decides."""

    kind: Kind | None = None
    region: str | None = None
    sku: str | None = None

    def takes(self, row: PriceRow) -> bool:
        """Whether the row is one of these. A row without region or SKU counts in every region; not for every SKU."""
        return (
            self.kind in (None, row.kind)
            and (self.region is None or row.region in ("", self.region))
            and self.sku in (None, row.sku)
        )


def purchase_parts(
    *,
    price: Fraction,
    gpus: int,
    life_years: Fraction,
    salvage: Fraction = Fraction(),
    installation: Fraction = Fraction(),
    maintenance_per_year: Fraction = Fraction(),
    colocation_per_month: Fraction = Fraction(),
    network_per_month: Fraction = Fraction(),
    power_watts: Fraction = Fraction(),
    pue: Fraction = Fraction(1),
    energy_price_per_kwh: Fraction = Fraction(),
    other_per_hour: Fraction = Fraction(),
) -> tuple[Part, ...]:
    """Straight-line cost of one of `gpus` bought together; `power_watts` and `other_per_hour` are per GPU.

    Energy is rated power all the time: the node pays for cooling and supply whether or not a kernel runs.
    """
    life_hours = life_years * HOURS_PER_YEAR
    parts = (
        Part("purchase", (price - salvage) / gpus / life_hours),
        Part("installation", installation / gpus / life_hours),
        Part("maintenance", maintenance_per_year / gpus / HOURS_PER_YEAR),
        Part("colocation", colocation_per_month / gpus / HOURS_PER_MONTH),
        Part("network", network_per_month / gpus / HOURS_PER_MONTH),
        Part("energy", power_watts / 1000 * pue * energy_price_per_kwh),
        Part("other", other_per_hour),
    )
    return tuple(part for part in parts if part.per_hour)
