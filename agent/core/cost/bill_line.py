"""Prices of a GPU over time in, the bill of any span of it out: the GPU's bill clock.

``C(t) = floor(sum over price segments of P_s * overlap)`` in nano-units since the GPU's t0; a tick costs
``C(end) - C(start)``, so ticks telescope and rounding never adds up.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction


class BillLine:
    """The bill clock of one GPU: prices from its t0 on, `segments` of (from Unix ns, nano-units per ns), ascending."""

    __slots__ = ("_before", "_denominator", "_rates", "_starts", "segments")

    def __init__(self, segments: Sequence[tuple[int, Fraction]]) -> None:
        self.segments = tuple(segments)
        self._starts = [start for start, _ in self.segments]
        self._denominator = math.lcm(*(price.denominator for _, price in self.segments))
        self._rates = [price.numerator * (self._denominator // price.denominator) for _, price in self.segments]
        self._before = [0]
        for i in range(1, len(self._starts)):
            self._before.append(self._before[-1] + self._rates[i - 1] * (self._starts[i] - self._starts[i - 1]))

    def nano(self, at_ns: int) -> int:
        """Bill from the first segment's start to `at_ns`, whole nano-units, rounded down."""
        i = bisect_right(self._starts, at_ns) - 1
        if i < 0:
            return 0
        return (self._before[i] + self._rates[i] * (at_ns - self._starts[i])) // self._denominator
