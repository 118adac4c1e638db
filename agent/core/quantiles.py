"""Histograms in, quantiles out that say how sharp they are: the value and the two bounds that it lies between.

A histogram knows only how many observations are at or below each of its bounds. Interpolation is that of Prometheus'
`histogram_quantile` (linear inside a bucket, from 0 in the lowest), so that a figure here is the figure of the rules.
"""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from math import inf, isfinite

from msgspec import Struct

from agent.core.readings import Histogram


class Quantile(Struct, frozen=True, kw_only=True):
    """A quantile in the unit of its histogram. The true one lies above `lower` and not above `upper`.

    `upper` is None where it lies above the largest finite bound: `value` is that bound then, and means "more than".
    """

    value: float
    lower: float
    upper: float | None
    observations: float


def quantile(histogram: Histogram, q: float) -> Quantile | None:
    """The `q` quantile, 0 < q <= 1, of what a histogram counted.

    None without observations, and for a histogram without finite bounds: sum and count tell a mean only. Counts that do
    not ascend (scrapes that raced, float noise) are lifted to the one before. Raises ValueError for another `q`.
    """
    if not 0 < q <= 1:
        raise ValueError(f"a quantile is above 0 and at most 1, got {q!r}")
    counts = list(accumulate(histogram.counts, max))
    total = counts[-1]
    if not histogram.bounds or not isfinite(total) or total <= 0:
        return None
    rank = q * total
    found = bisect_left(counts, rank, 0, len(counts) - 1)
    if found == len(histogram.bounds):
        top = histogram.bounds[-1]
        return Quantile(value=top, lower=top, upper=None, observations=total)
    upper = histogram.bounds[found]
    lower, below = (histogram.bounds[found - 1], counts[found - 1]) if found else (min(0.0, upper), 0.0)
    share = (rank - below) / (counts[found] - below)
    # Rounding may carry the sum past a bound by one last digit.
    value = min(upper, max(lower, lower + (upper - lower) * share))
    return Quantile(value=value, lower=lower, upper=upper, observations=total)


def mean(histogram: Histogram) -> float | None:
    """Sum over count; None without observations, or where the engine tells no sum."""
    if histogram.sum is None or not isfinite(histogram.sum) or not histogram.count > 0:
        return None
    return histogram.sum / histogram.count


def from_buckets(buckets: Iterable[tuple[float, float]], total: float | None = None) -> Histogram | None:
    """A histogram of (bound, cumulative count) pairs in any order; None without a +Inf bucket. `total`: their sum."""
    pairs = sorted(buckets)
    if not pairs or pairs[-1][0] != inf:
        return None
    return Histogram(
        bounds=tuple(bound for bound, _ in pairs[:-1]), counts=tuple(count for _, count in pairs), sum=total
    )


def around(bounds: tuple[float, ...], value: float) -> tuple[float, float | None] | None:
    """The two bounds between which a histogram cannot tell values from `value`; None when it is a bound itself."""
    at = bisect_left(bounds, value)
    if at < len(bounds) and bounds[at] == value:
        return None
    return (bounds[at - 1] if at else 0.0), (bounds[at] if at < len(bounds) else None)
