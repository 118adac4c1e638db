"""What a benchmark measured in, one printed line for each figure out."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured value, the bar it must reach, and on which side of the bar good is."""

    name: str
    value: float
    unit: str
    bar: float
    better: Literal["higher", "lower"]

    @property
    def ok(self) -> bool:
        return self.value >= self.bar if self.better == "higher" else self.value <= self.bar


def print_figures(figures: Iterable[Figure]) -> bool:
    """Print ``name value unit (bar) ok|short`` for each figure; True when none is short."""
    good = True
    for figure in figures:
        sign = ">=" if figure.better == "higher" else "<="
        verdict = "ok" if figure.ok else "short"
        print(f"{figure.name} {figure.value:.4g} {figure.unit} ({sign} {figure.bar:g}) {verdict}", flush=True)
        good = good and figure.ok
    return good
