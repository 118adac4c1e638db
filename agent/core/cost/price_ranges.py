"""What GPUs cost, roughly: for finding wrong units, never for a bill. GPU names and currencies in, ranges out.

Hourly figures span what was publicly asked from 2024 to 2026, spot offers and on-demand list prices of large clouds
included (Lambda's and RunPod's as SkyPilot's catalogue has them, A100 1.29 to 2.29, H100 up to 4.69, L4 0.44, are well
within), rounded outwards. Purchases: one GPU with its share of a server; at the low end used ones; the figures of the
example book are within. Watts: the boards' rated power as NVIDIA states it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Range:
    """For one GPU, in USD: an hour of rent, a purchase; and rated watts. `names` are examples as NVML says them."""

    names: tuple[str, ...]
    hour: tuple[float, float]
    purchase: tuple[float, float]
    watts: int


_ANY = Range((), (0.03, 30.0), (100.0, 120_000.0), 700)

TABLE: tuple[Range, ...] = (
    Range(("NVIDIA B300 SXM6 AC",), (3.0, 20.0), (35_000, 110_000), 1400),
    Range(("NVIDIA B200",), (2.0, 16.0), (30_000, 80_000), 1000),
    Range(("NVIDIA GB200", "NVIDIA GB300"), (2.5, 25.0), (40_000, 120_000), 1200),
    Range(("NVIDIA GH200 480GB", "NVIDIA GH200 144G HBM3e"), (1.0, 8.0), (20_000, 60_000), 700),
    Range(("NVIDIA H200", "NVIDIA H200 NVL"), (1.2, 13.0), (20_000, 60_000), 700),
    Range(("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA H100 NVL"), (0.9, 13.0), (12_000, 55_000), 700),
    Range(("NVIDIA H800", "NVIDIA H800 PCIe"), (0.8, 12.0), (12_000, 55_000), 700),
    Range(("NVIDIA H20",), (0.5, 6.0), (7_000, 25_000), 400),
    Range(("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"), (0.5, 6.0), (5_000, 28_000), 400),
    Range(("NVIDIA A800-SXM4-80GB", "NVIDIA A800 80GB PCIe"), (0.4, 6.0), (5_000, 28_000), 400),
    Range(("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"), (0.35, 5.0), (3_000, 18_000), 400),
    Range(("NVIDIA L40S",), (0.3, 4.0), (5_000, 15_000), 350),
    Range(("NVIDIA L40",), (0.3, 3.0), (4_000, 13_000), 300),
    Range(("NVIDIA L4",), (0.12, 2.0), (1_500, 5_000), 72),
    Range(("NVIDIA A40",), (0.2, 2.5), (2_500, 9_000), 300),
    Range(("NVIDIA A10", "NVIDIA A10G"), (0.15, 3.5), (1_200, 5_500), 300),
    Range(("NVIDIA RTX A6000",), (0.2, 2.5), (2_000, 8_000), 300),
    Range(("NVIDIA RTX 6000 Ada Generation",), (0.3, 3.0), (4_500, 12_000), 300),
    Range(("NVIDIA RTX PRO 6000 Blackwell Server Edition",), (0.5, 5.0), (6_000, 16_000), 600),
    Range(("NVIDIA GeForce RTX 5090",), (0.2, 2.0), (1_700, 6_000), 575),
    Range(("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090 D"), (0.12, 1.5), (1_000, 4_500), 450),
    Range(("NVIDIA GeForce RTX 4080", "NVIDIA GeForce RTX 4080 SUPER"), (0.08, 1.0), (600, 2_200), 320),
    Range(("NVIDIA GeForce RTX 3090",), (0.06, 1.0), (400, 3_000), 350),
    Range(("Tesla V100-SXM2-16GB", "Tesla V100-SXM2-32GB", "Tesla V100-PCIE-16GB"), (0.1, 4.5), (300, 13_000), 300),
    Range(("Tesla P100-PCIE-16GB",), (0.08, 2.5), (100, 9_000), 250),
    Range(("Tesla T4",), (0.08, 1.5), (400, 3_500), 70),
)

# Units of a currency for one US dollar: orders of magnitude, good enough to tell hours from months. Not for money.
PER_DOLLAR: dict[str, float] = {
    "USD": 1, "EUR": 0.9, "GBP": 0.8, "CHF": 0.85, "CAD": 1.4, "AUD": 1.5, "NZD": 1.7, "SGD": 1.3, "CNY": 7.1,
    "HKD": 7.8, "TWD": 32, "JPY": 150, "KRW": 1_400, "INR": 86, "BRL": 5.5, "MXN": 18, "SEK": 10, "NOK": 10.5,
    "DKK": 6.7, "PLN": 3.8, "CZK": 22, "HUF": 350, "ILS": 3.5, "AED": 3.67, "SAR": 3.75, "ZAR": 18, "THB": 33,
    "MYR": 4.3, "PHP": 57, "IDR": 16_000, "VND": 25_500, "TRY": 40, "RUB": 85,
}  # fmt: skip


def models() -> Iterator[str]:
    """Every model of the table, as NVML names it."""
    for entry in TABLE:
        yield from entry.names


def range_of(pattern: str) -> tuple[Range, bool]:
    """What GPUs matching a row's pattern cost: the whole span where several do. And whether the table knows them."""
    found = [entry for entry in TABLE if any(matches(name, pattern) for name in entry.names)]
    if not found:
        return _ANY, False
    return (
        Range(
            tuple(name for entry in found for name in entry.names),
            (min(e.hour[0] for e in found), max(e.hour[1] for e in found)),
            (min(e.purchase[0] for e in found), max(e.purchase[1] for e in found)),
            max(e.watts for e in found),
        ),
        True,
    )


def matches(name: str, pattern: str) -> bool:
    """Whether a row's pattern matches a model's name, as the price book compares."""
    return fnmatchcase(name.casefold(), pattern.casefold())


def per_dollar(currency: str, rate: Fraction | None) -> float | None:
    """Units for one US dollar: by `rate` (of the user's own exchange rates), else coarsely; None: unknown currency.

    A rate that is far from the coarse one is itself a mistake, and is found as that.
    """
    coarse = PER_DOLLAR.get(currency)
    if rate is None or (coarse is not None and not coarse / 3 < float(rate) < coarse * 3):
        return coarse
    return float(rate)
