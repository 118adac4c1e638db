"""Numbers in, numbers out: sums that do not lose small parts, means that do not overflow, quantiles."""

import math
from collections.abc import Sequence

import numpy as np

from agent.core.metrics.promql.values import Floats

_CANCELLATION = 1e3  # sum of magnitudes over magnitude of the sum from which on digits are worth saving


def exact_sum(values: Sequence[float]) -> float:
    """Sum without rounding on the way; infinities and NaN as IEEE adds them."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # beyond the range on the way, or inf - inf
        return sum(values)


def mean(values: Sequence[float]) -> float:
    """Mean, also of values whose sum is beyond the range of a float."""
    count = len(values)
    total = exact_sum(values)
    if math.isinf(total) and not any(math.isinf(value) for value in values):
        return exact_sum([value / count for value in values])
    return total / count


def column_sums(values: Floats) -> Floats:
    """Sum of each column; exact where much cancels out."""
    sums = np.asarray(values.sum(axis=0))
    magnitudes = np.abs(values).sum(axis=0)
    for column in np.flatnonzero(magnitudes > _CANCELLATION * np.abs(sums)):
        sums[column] = exact_sum(values[:, column].tolist())
    return sums


def column_means(values: Floats) -> Floats:
    """Mean of each column, without overflow."""
    means = column_sums(values) / len(values)
    for column in np.flatnonzero(np.isinf(means)):
        means[column] = mean(values[:, column].tolist())
    return np.asarray(means)


def quantile(q: float, values: Sequence[float]) -> float:
    """Quantile with linear interpolation as Prometheus computes it; outside 0..1 it is an infinity."""
    if not values or math.isnan(q):
        return math.nan
    if q < 0:
        return -math.inf
    if q > 1:
        return math.inf
    ordered = sorted(values, key=lambda value: (not math.isnan(value), value))
    rank = q * (len(ordered) - 1)
    lower = math.floor(rank)
    upper = min(len(ordered) - 1, lower + 1)
    weight = rank - lower
    if weight == 0:  # so that an infinite neighbour does not make NaN of it
        return ordered[lower]
    return ordered[lower] * (1 - weight) + ordered[upper] * weight
