"""Vectors and numbers in, a vector out: functions that look at each element by itself, and the calendar."""

import math
from collections.abc import Callable

import numpy as np

from agent.core.metrics.promql.labels import drop_name, ensure_unique
from agent.core.metrics.promql.operators import go_max, go_min
from agent.core.metrics.promql.tree import Expr, MatrixSelector, VectorSelector
from agent.core.metrics.promql.values import Floats, Instants, Vector
from agent.core.metrics.samples import Labels

_INT64 = 2.0**63


def _sign(values: Floats) -> Floats:
    return np.asarray(np.where(values < 0, -1.0, np.where(values > 0, 1.0, values)))


ELEMENT_FUNCTIONS: dict[str, Callable[[Floats], Floats]] = {
    "abs": np.abs,
    "ceil": np.ceil,
    "floor": np.floor,
    "exp": np.exp,
    "ln": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "sqrt": np.sqrt,
    "sgn": _sign,
}


def each(vector: Vector, function: Callable[[Floats], Floats], name: str) -> Vector:
    """`function` of every element; the metric name goes."""
    labels = [drop_name(one) for one in vector.labels]
    ensure_unique(labels, name)
    with np.errstate(all="ignore"):
        return Vector(labels, np.asarray(function(vector.values), dtype=np.float64))


def rounded(vector: Vector, to: float) -> Vector:
    """To the nearest multiple of `to`; ties go up."""
    inverse = 1 / to if to else math.copysign(math.inf, to)
    return each(vector, lambda values: np.floor(values * inverse + 0.5) / inverse, "round")


def clamped(vector: Vector, lowest: float, highest: float) -> Vector:
    """Limited to both bounds; nothing at all where they contradict each other."""
    if highest < lowest:
        return Vector([], np.zeros(0))
    low, high = np.array(lowest), np.array(highest)
    return each(vector, lambda values: go_max(low, go_min(high, values)), "clamp")


def to_scalar(vector: Vector) -> float:
    """Value of the only element; NaN where there is none, or more than one."""
    return float(vector.values[0]) if len(vector) == 1 else math.nan


def absent(argument: Expr, found: bool) -> Vector:
    """1 where nothing was found, with the labels that the selector's equality matchers say."""
    if found:
        return Vector([], np.zeros(0))
    return Vector([_labels_of(argument)], np.ones(1))


def _labels_of(argument: Expr) -> Labels:
    selector = argument.selector if isinstance(argument, MatrixSelector) else argument
    if not isinstance(selector, VectorSelector):
        return ()
    labels: dict[str, str] = {}
    seen: set[str] = set()
    for matcher in selector.matchers:
        if matcher.name == "__name__":
            continue
        if matcher.op == "=" and matcher.name not in seen:
            labels[matcher.name] = matcher.value
            seen.add(matcher.name)
        else:
            labels.pop(matcher.name, None)
    return tuple(sorted((name, value) for name, value in labels.items() if value))


def ordered(vector: Vector, *, descending: bool) -> Vector:
    """By value, NaN last."""
    values = vector.values.tolist()
    sign = -1.0 if descending else 1.0
    order = sorted(range(len(values)), key=lambda index: (math.isnan(values[index]), sign * values[index]))
    return Vector([vector.labels[index] for index in order], vector.values[order])


def calendar(name: str, vector: Vector) -> Vector:
    """A field of the UTC date that each value, in Unix seconds, means. NaN and instants beyond 64 bits give NaN."""
    return each(vector, lambda values: _calendar_values(name, values), name)


def _calendar_values(name: str, values: Floats) -> Floats:
    usable = np.abs(values) < _INT64 / 1000
    seconds = np.where(usable, values, 0).astype(np.int64).astype("datetime64[s]")
    return np.asarray(np.where(usable, _CALENDAR[name](seconds), np.nan))


def _since(unit: str, larger: str) -> Callable[["np.ndarray[tuple[int], np.dtype[np.datetime64]]"], Instants]:
    return lambda instants: (instants.astype(f"datetime64[{unit}]") - instants.astype(f"datetime64[{larger}]")).astype(
        np.int64
    )


def _days_in_month(instants: "np.ndarray[tuple[int], np.dtype[np.datetime64]]") -> Instants:
    month = instants.astype("datetime64[M]")
    return np.asarray((month + 1).astype("datetime64[D]") - month.astype("datetime64[D]"), dtype=np.int64)


_CALENDAR: dict[str, Callable[["np.ndarray[tuple[int], np.dtype[np.datetime64]]"], Instants]] = {
    "minute": lambda instants: _since("m", "h")(instants),
    "hour": lambda instants: _since("h", "D")(instants),
    "day_of_month": lambda instants: _since("D", "M")(instants) + 1,
    "day_of_year": lambda instants: _since("D", "Y")(instants) + 1,
    "day_of_week": lambda instants: (
        (instants.astype("datetime64[D]").astype(np.int64) + 4) % 7
    ),  # 1970 began on a Thursday
    "days_in_month": _days_in_month,
    "month": lambda instants: instants.astype("datetime64[M]").astype(np.int64) % 12 + 1,
    "year": lambda instants: instants.astype("datetime64[Y]").astype(np.int64) + 1970,
}
