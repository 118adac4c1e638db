"""Samples of a range in, one value for each series out: the rate family.

Every function gets a dense window: `times[row]` in milliseconds, `values[row, column]`, no holes, at least one row. It
answers one value per column, or None where there are too few samples. Extrapolation follows the rules that Prometheus
documents in the source of `rate`: half an interval beyond the first and last sample at most, never below zero.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from agent.core.metrics.promql.values import Floats, Instants

EXTRAPOLATION_THRESHOLD = 1.1  # a sample this many intervals away is one that is missing


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Samples of series that have the same time stamps, inside (`start_ms`, `end_ms`]; `at_ms` is the evaluation."""

    times: Instants
    values: Floats
    start_ms: int
    end_ms: int
    at_ms: int


RangeFunction = Callable[[Window], "Floats | None"]


def rate(window: Window) -> Floats | None:
    """Growth of a counter per second, extrapolated to the whole range."""
    return _counted(window, (window.end_ms - window.start_ms) / 1000)


def increase(window: Window) -> Floats | None:
    """Growth of a counter over the range, extrapolated to the whole range."""
    return _counted(window, 1.0)


def _counted(window: Window, seconds: float) -> Floats | None:
    """Growth over the range divided by `seconds`. A value that falls is a counter that started again at 0."""
    values = window.values
    if len(values) < 2:
        return None
    grown = values[-1] - values[0]
    fell = values[1:] < values[:-1]
    for row in np.flatnonzero(fell.any(axis=1)):  # one after the other, oldest first: rounds as Prometheus does
        grown = grown + np.where(fell[row], values[row], 0.0)
    interval, to_start, to_end = _extents(window)
    to_zero = np.where((grown > 0) & (values[0] >= 0), interval * (values[0] / grown), to_start)
    starts = np.where(to_zero < to_start, to_zero, to_start)
    return np.asarray(grown * ((interval + starts + to_end) / interval / seconds))


def delta(window: Window) -> Floats | None:
    """Difference between the ends of the range of a gauge, extrapolated."""
    if len(window.values) < 2:
        return None
    interval, to_start, to_end = _extents(window)
    return np.asarray((window.values[-1] - window.values[0]) * ((interval + to_start + to_end) / interval))


def irate(window: Window) -> Floats | None:
    """Growth per second between the last two samples of a counter."""
    if len(window.values) < 2:
        return None
    before, last = window.values[-2:]
    grown = np.where(last < before, last, last - before)
    return np.asarray(grown / (float(window.times[-1] - window.times[-2]) / 1000))


def idelta(window: Window) -> Floats | None:
    """Difference between the last two samples."""
    return None if len(window.values) < 2 else np.asarray(window.values[-1] - window.values[-2])


def deriv(window: Window) -> Floats | None:
    """Slope per second of the least-squares line."""
    if len(window.values) < 2:
        return None
    return _line(window, int(window.times[0]))[0]


def predict_linear(window: Window, seconds: float) -> Floats | None:
    """The least-squares line, `seconds` after the evaluation."""
    if len(window.values) < 2:
        return None
    slope, intercept = _line(window, window.at_ms)
    return slope * seconds + intercept


def resets(window: Window) -> Floats | None:
    """How often the value fell."""
    return np.asarray((window.values[1:] < window.values[:-1]).sum(axis=0), dtype=np.float64)


def changes(window: Window) -> Floats | None:
    """How often the value changed; from NaN to NaN is no change."""
    after, before = window.values[1:], window.values[:-1]
    changed = (after != before) & ~(np.isnan(after) & np.isnan(before))
    return np.asarray(changed.sum(axis=0), dtype=np.float64)


def _extents(window: Window) -> tuple[float, float, float]:
    """Seconds between first and last sample, and how far to extrapolate before and after them."""
    times = window.times
    interval = float(times[-1] - times[0]) / 1000
    average = interval / (len(times) - 1)
    to_start = float(times[0] - window.start_ms) / 1000
    to_end = float(window.end_ms - times[-1]) / 1000
    threshold = average * EXTRAPOLATION_THRESHOLD
    return (
        interval,
        average / 2 if to_start >= threshold else to_start,
        average / 2 if to_end >= threshold else to_end,
    )


def _line(window: Window, zero_ms: int) -> tuple[Floats, Floats]:
    """Slope per second and value at `zero_ms` of the least-squares line; a constant has slope 0 exactly."""
    seconds = (window.times - zero_ms).astype(np.float64) / 1000
    values = window.values
    middle = seconds.mean()
    mean = values.mean(axis=0)
    spread = seconds - middle
    slope = (spread[:, None] * (values - mean)).sum(axis=0) / (spread * spread).sum()
    intercept = mean - slope * middle
    if not np.isfinite(mean).all():  # infinities cancel out, or not, as in the sums that Prometheus forms
        count, total = len(seconds), values.sum(axis=0)
        shared = (seconds[:, None] * values).sum(axis=0) - seconds.sum() * total / count
        odd = ~np.isfinite(mean)
        slope = np.where(odd, shared / (np.square(seconds).sum() - seconds.sum() ** 2 / count), slope)
        intercept = np.where(odd, total / count - slope * seconds.sum() / count, intercept)
    constant = (values == values[0]).all(axis=0)
    first = np.where(np.isinf(values[0]), np.nan, values[0])
    return (
        np.where(constant, np.where(np.isnan(first), np.nan, 0.0), slope),
        np.where(constant, first, intercept),
    )


RATE_FUNCTIONS: dict[str, RangeFunction] = {
    "rate": rate,
    "increase": increase,
    "delta": delta,
    "irate": irate,
    "idelta": idelta,
    "deriv": deriv,
    "resets": resets,
    "changes": changes,
}
