"""Samples of a range in, one value for each series out: the `*_over_time` family. Windows are as in `ranges`."""

import numpy as np

from agent.core.metrics.promql.numbers import column_means, column_sums, quantile
from agent.core.metrics.promql.ranges import RangeFunction, Window
from agent.core.metrics.promql.values import Floats


def average(window: Window) -> Floats:
    """Mean."""
    return column_means(window.values)


def total(window: Window) -> Floats:
    """Sum."""
    return column_sums(window.values)


def lowest(window: Window) -> Floats:
    """Least value; NaN only where all are NaN."""
    return np.asarray(np.fmin.reduce(window.values, axis=0))


def highest(window: Window) -> Floats:
    """Greatest value; NaN only where all are NaN."""
    return np.asarray(np.fmax.reduce(window.values, axis=0))


def count(window: Window) -> Floats:
    """Number of samples."""
    return np.full(window.values.shape[1], float(len(window.values)))


def last(window: Window) -> Floats:
    """The newest sample."""
    return np.array(window.values[-1])


def is_present(window: Window) -> Floats:
    """1."""
    return np.ones(window.values.shape[1])


def variance(window: Window) -> Floats:
    """Population variance."""
    apart = window.values - column_means(window.values)
    return np.asarray((apart * apart).sum(axis=0) / len(apart))


def deviation(window: Window) -> Floats:
    """Population standard deviation."""
    return np.sqrt(variance(window))


def quantile_of(window: Window, q: float) -> Floats:
    """Quantile with linear interpolation, NaN sorting lowest."""
    columns = window.values.T.tolist()
    return np.array([quantile(q, column) for column in columns], dtype=np.float64)


OVER_TIME_FUNCTIONS: dict[str, RangeFunction] = {
    "avg_over_time": average,
    "sum_over_time": total,
    "min_over_time": lowest,
    "max_over_time": highest,
    "count_over_time": count,
    "last_over_time": last,
    "present_over_time": is_present,
    "absent_over_time": is_present,
    "stdvar_over_time": variance,
    "stddev_over_time": deviation,
}
