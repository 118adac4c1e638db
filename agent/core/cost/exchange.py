"""Dated exchange rates in; what one unit of a currency was worth in another, from when on, out. Exact fractions."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

SINCE_EVER_NS = -(1 << 62)
Steps = tuple[tuple[int, Fraction], ...]


@dataclass(frozen=True, slots=True)
class Rate:
    """From `from_ns` (Unix ns) on, 1 unit of `source` is worth `rate` units of `target`. Never edited: a new rate is a
    new row with a later `from_ns`."""

    source: str
    target: str
    rate: Fraction
    from_ns: int = SINCE_EVER_NS


class Exchange:
    """All rates. A pair of currencies without a rate has none: nothing is chained over a third currency."""

    def __init__(self, rates: Iterable[Rate] = ()) -> None:
        self.rates = tuple(rates)
        self._steps: dict[tuple[str, str], Steps] = {}

    def steps(self, source: str, target: str) -> Steps:
        """(from Unix ns, units of `target` for one of `source`), ascending; empty when there is no rate.

        Where only the opposite direction is given, its inverse counts. Of two rates of the same instant the first.
        """
        found = self._steps.get((source, target))
        if found is None:
            found = self._steps[source, target] = self._find(source, target)
        return found

    def _find(self, source: str, target: str) -> Steps:
        if source == target:
            return ((SINCE_EVER_NS, Fraction(1)),)
        direct = {r.from_ns: r.rate for r in reversed(self.rates) if (r.source, r.target) == (source, target)}
        if not direct:
            opposite = [r for r in reversed(self.rates) if (r.source, r.target) == (target, source)]
            direct = {r.from_ns: 1 / r.rate for r in opposite if r.rate}
        return tuple(sorted(direct.items()))

    def at(self, source: str, target: str, at_ns: int) -> Fraction | None:
        """The rate in force at `at_ns`, or None: no rate is not a rate of 1, and no price of 0."""
        found = None
        for from_ns, rate in self.steps(source, target):
            if from_ns <= at_ns:
                found = rate
        return found
