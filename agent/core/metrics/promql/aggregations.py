"""A vector in, one element (or k) for each group out."""

import math
from collections.abc import Callable, Sequence
from decimal import Decimal

import numpy as np

from agent.core.metrics.promql.labels import METADATA, ensure_unique, keep, put, remove
from agent.core.metrics.promql.numbers import exact_sum, mean, quantile
from agent.core.metrics.promql.tree import Aggregation
from agent.core.metrics.promql.values import QueryError, Vector
from agent.core.metrics.samples import Labels

_INT64 = 2.0**63


def aggregate(node: Aggregation, vector: Vector, parameter: float | str | None) -> Vector:
    """The result of `node` over `vector`. Raises `QueryError` for a parameter that is no usable number."""
    if isinstance(parameter, str):
        return _count_values(node, vector, parameter)
    groups = _groups(node, vector)
    if node.op in ("topk", "bottomk"):
        return _extremes(node.op, vector, list(groups.values()), _as_count(node.op, parameter))
    values = vector.values.tolist()
    reduce = _REDUCERS.get(node.op)
    if reduce is None:
        q = math.nan if parameter is None else parameter
        results = [quantile(q, [values[index] for index in members]) for members in groups.values()]
    else:
        results = [reduce([values[index] for index in members]) for members in groups.values()]
    return Vector(list(groups), np.array(results, dtype=np.float64))


def _groups(node: Aggregation, vector: Vector) -> dict[Labels, list[int]]:
    """Labels of each group, and which elements are in it."""
    if not node.labels and not node.without:
        return {(): list(range(len(vector)))} if len(vector) else {}
    names = frozenset(node.labels) | METADATA if node.without else frozenset(node.labels)
    cut = remove if node.without else keep
    groups: dict[Labels, list[int]] = {}
    for index, labels in enumerate(vector.labels):
        groups.setdefault(cut(labels, names), []).append(index)
    return groups


def _lowest(values: Sequence[float]) -> float:
    return min((value for value in values if not math.isnan(value)), default=math.nan)


def _highest(values: Sequence[float]) -> float:
    return max((value for value in values if not math.isnan(value)), default=math.nan)


def _variance(values: Sequence[float]) -> float:
    if not all(map(math.isfinite, values)):
        return math.nan
    middle = mean(values)
    with np.errstate(over="ignore"):
        return exact_sum(((np.array(values) - middle) ** 2).tolist()) / len(values)


_REDUCERS: dict[str, Callable[[Sequence[float]], float]] = {
    "sum": exact_sum,
    "avg": mean,
    "min": _lowest,
    "max": _highest,
    "count": lambda values: float(len(values)),
    "group": lambda values: 1.0,
    "stdvar": _variance,
    "stddev": lambda values: math.sqrt(_variance(values)),
}


def _as_count(op: str, parameter: float | None) -> int:
    if parameter is None or math.isnan(parameter):
        raise QueryError(f"the parameter of {op} is not a number")
    if not -_INT64 <= parameter < _INT64:
        raise QueryError(f"the parameter of {op} is too large: {parameter}")
    return int(parameter)


def _extremes(op: str, vector: Vector, groups: list[list[int]], count: int) -> Vector:
    """The `count` greatest or least elements of each group, best first; NaN is the worst; of equals the first stays."""
    sign = -1.0 if op == "topk" else 1.0
    values = vector.values.tolist()
    chosen: list[int] = []
    if count >= 1:
        for members in groups:
            members.sort(key=lambda index: (math.isnan(values[index]), sign * values[index]))
            chosen.extend(members[:count])
    return Vector([vector.labels[index] for index in chosen], vector.values[chosen])


def _count_values(node: Aggregation, vector: Vector, label: str) -> Vector:
    counts: dict[Labels, int] = {}
    names = frozenset(node.labels)
    for labels, value in zip(vector.labels, vector.values.tolist(), strict=True):
        marked = put(labels, label, format_value(value))
        group = remove(marked, names | METADATA) if node.without else keep(marked, names | {label})
        counts[group] = counts.get(group, 0) + 1
    ensure_unique(list(counts), "count_values")
    return Vector(list(counts), np.array(list(counts.values()), dtype=np.float64))


def format_value(value: float) -> str:
    """A number as a label value: shortest digits, never an exponent."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    text = format(Decimal(repr(value)), "f")
    return text.removesuffix(".0")
