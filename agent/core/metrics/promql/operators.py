"""Two operands in, one result out: arithmetic, comparisons, vector matching, set operators."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from agent.core.metrics.promql.labels import METADATA, drop_name, ensure_unique, get, keep, put, remove, show
from agent.core.metrics.promql.tree import Binary, Matching
from agent.core.metrics.promql.values import Floats, QueryError, Scalar, Vector
from agent.core.metrics.samples import Labels

Truths = NDArray[np.bool_]

_ARITHMETIC: dict[str, Callable[[Floats, Floats], Floats]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "%": np.fmod,
    "^": np.power,
    "atan2": np.arctan2,
}
_COMPARISONS: dict[str, Callable[[Floats, Floats], Truths]] = {
    "==": np.equal,
    "!=": np.not_equal,
    ">": np.greater,
    "<": np.less,
    ">=": np.greater_equal,
    "<=": np.less_equal,
}


def binary(node: Binary, left: Scalar | Vector, right: Scalar | Vector) -> Scalar | Vector:
    """The result of `left op right`. Raises `QueryError` where elements do not match one to one or as grouped."""
    if isinstance(left, Scalar) and isinstance(right, Scalar):
        return _scalars(node, left, right)
    if isinstance(left, Vector) and isinstance(right, Vector):
        matching = node.matching or Matching("one-to-one", on=False, labels=())
        if matching.cardinality == "many-to-many":
            return _set(node.op, matching, left, right)
        return _vectors(node, matching, left, right)
    return _mixed(node, left, right)


def negate(value: Scalar | Vector) -> Scalar | Vector:
    """Unary minus; a vector loses its metric name."""
    if isinstance(value, Scalar):
        return Scalar(-value.value)
    labels = [drop_name(one) for one in value.labels]
    ensure_unique(labels, "unary minus")
    return Vector(labels, -value.values)


def _compute(op: str, left: Floats, right: Floats) -> Floats:
    with np.errstate(all="ignore"):
        if op in _ARITHMETIC:
            return _ARITHMETIC[op](left, right)
        return _COMPARISONS[op](left, right).astype(np.float64)


def _scalars(node: Binary, left: Scalar, right: Scalar) -> Scalar:
    found = _compute(node.op, np.array([left.value]), np.array([right.value]))
    return Scalar(float(found[0]))


def _mixed(node: Binary, left: Scalar | Vector, right: Scalar | Vector) -> Vector:
    """Vector and number: each element on its own."""
    vector = left if isinstance(left, Vector) else right
    if not isinstance(vector, Vector):  # for the type checker: one of them is a vector
        raise TypeError("no vector")
    one = left.values if isinstance(left, Vector) else np.array(left.value)
    other = right.values if isinstance(right, Vector) else np.array(right.value)
    result = _compute(node.op, one, other)
    if node.op in _COMPARISONS and not node.return_bool:
        kept = np.flatnonzero(result)
        return Vector([vector.labels[index] for index in kept], vector.values[kept])
    labels = [drop_name(each) for each in vector.labels]
    ensure_unique(labels, f"operator {node.op}")
    return Vector(labels, result)


def _signature(matching: Matching) -> Callable[[Labels], Labels]:
    """What of a label set has to be equal for two elements to match."""
    if matching.on:
        wanted = frozenset(matching.labels)
        return lambda labels: keep(labels, wanted)
    unwanted = frozenset(matching.labels) | {"__name__"}
    return lambda labels: remove(labels, unwanted)


def _set(op: str, matching: Matching, left: Vector, right: Vector) -> Vector:
    signature = _signature(matching)
    if op == "or":
        known = {signature(labels) for labels in left.labels}
        added = [index for index, labels in enumerate(right.labels) if signature(labels) not in known]
        labels = left.labels + [right.labels[index] for index in added]
        ensure_unique(labels, "or")
        return Vector(labels, np.concatenate((left.values, right.values[added])))
    known = {signature(labels) for labels in right.labels}
    wanted = op == "and"
    kept = [index for index, labels in enumerate(left.labels) if (signature(labels) in known) == wanted]
    return Vector([left.labels[index] for index in kept], left.values[kept])


def _vectors(node: Binary, matching: Matching, left: Vector, right: Vector) -> Vector:
    """Each element of the "many" side with its partner on the "one" side."""
    if not len(left) or not len(right):
        return Vector([], np.zeros(0))
    swapped = matching.cardinality == "one-to-many"
    many, one = (right, left) if swapped else (left, right)
    signature = _signature(matching)
    partners = _partners(matching, one, signature, "left" if swapped else "right")
    pairs = [
        (index, partner)
        for index, labels in enumerate(many.labels)
        if (partner := partners.get(signature(labels))) is not None
    ]
    labels = _result_labels(node, matching, many, one, pairs)
    many_values = many.values[[pair[0] for pair in pairs]]
    one_values = one.values[[pair[1] for pair in pairs]]
    left_values, right_values = (one_values, many_values) if swapped else (many_values, one_values)
    result = _compute(node.op, left_values, right_values)
    if node.op in _COMPARISONS and not node.return_bool:
        kept = np.flatnonzero(result)
        labels, result = [labels[index] for index in kept], left_values[kept]
    ensure_unique(labels, f"operator {node.op}")
    return Vector(labels, result)


def _partners(matching: Matching, one: Vector, signature: Callable[[Labels], Labels], side: str) -> dict[Labels, int]:
    partners: dict[Labels, int] = {}
    for index, labels in enumerate(one.labels):
        key = signature(labels)
        if key in partners:
            raise QueryError(
                f"two elements on the {side} side match the same group {show(key)}: {show(one.labels[partners[key]])} "
                f"and {show(labels)}; many-to-many matching is not allowed, so name labels that tell them apart"
            )
        partners[key] = index
    return partners


def _result_labels(
    node: Binary, matching: Matching, many: Vector, one: Vector, pairs: list[tuple[int, int]]
) -> list[Labels]:
    """Labels of each result, before any comparison filters it. Raises `QueryError` for ambiguous matches."""
    drops = node.return_bool or node.op in _ARITHMETIC
    single = matching.cardinality == "one-to-one"
    names = frozenset(matching.labels)
    labels: list[Labels] = []
    taken: set[object] = set()
    for index, partner in pairs:
        found = many.labels[index]
        if drops:
            found = remove(found, METADATA)
        if single:
            found = keep(found, names) if matching.on else remove(found, names)
        for name in matching.include:
            found = put(found, name, get(one.labels[partner], name))
        mark: object = partner if single else (partner, found)
        if mark in taken:
            raise QueryError(
                f"several elements match {show(one.labels[partner])} in `{node.op}`: "
                + (
                    "many-to-one matching needs group_left or group_right"
                    if single
                    else "the group labels do not tell them apart"
                )
            )
        taken.add(mark)
        labels.append(found)
    return labels


def go_max(a: Floats, b: Floats) -> Floats:
    """Greater of the two as Go's `math.Max`: an infinity wins over NaN."""
    found = np.maximum(a, b)
    return np.asarray(np.where((a == math.inf) | (b == math.inf), math.inf, found))


def go_min(a: Floats, b: Floats) -> Floats:
    """Lesser of the two as Go's `math.Min`: an infinity wins over NaN."""
    found = np.minimum(a, b)
    return np.asarray(np.where((a == -math.inf) | (b == -math.inf), -math.inf, found))
