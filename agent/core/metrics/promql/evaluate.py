"""A tree and a source of series in, values out: dispatches each node to the file of its kind."""

import math

import numpy as np

from agent.core.metrics.promql import functions, labels, selectors
from agent.core.metrics.promql.aggregations import aggregate
from agent.core.metrics.promql.context import Context, Steps
from agent.core.metrics.promql.histograms import histogram_quantile
from agent.core.metrics.promql.operators import binary, negate
from agent.core.metrics.promql.over_time import OVER_TIME_FUNCTIONS, quantile_of
from agent.core.metrics.promql.ranges import RATE_FUNCTIONS, RangeFunction, predict_linear
from agent.core.metrics.promql.reach import LOOKBACK_MS
from agent.core.metrics.promql.tree import (
    Aggregation,
    Binary,
    Call,
    Expr,
    MatrixSelector,
    Negation,
    NumberLiteral,
    StringLiteral,
    Subquery,
    VectorSelector,
)
from agent.core.metrics.promql.values import (
    Matrix,
    QueryError,
    RangeSeries,
    Scalar,
    Source,
    Text,
    Value,
    Vector,
)
from agent.core.metrics.series import present

SUBQUERY_STEP_MS = 60_000
MAX_STEPS = 11_000  # as Prometheus' HTTP API limits it

_RANGE_FUNCTIONS = {**RATE_FUNCTIONS, **OVER_TIME_FUNCTIONS}


def evaluate(
    expr: Expr,
    history: Source,
    at_ms: int,
    lookback_ms: int = LOOKBACK_MS,
    *,
    subquery_step_ms: int = SUBQUERY_STEP_MS,
) -> Value:
    """The value of `expr` at `at_ms`. `subquery_step_ms` is the step of subqueries that name none.

    Raises `QueryError` where Prometheus reports an error, such as many-to-many matches.
    """
    ctx = Context(history, at_ms, Steps(at_ms, at_ms), at_ms, at_ms, lookback_ms, subquery_step_ms)
    return _value(ctx, expr)


def evaluate_range(
    expr: Expr,
    history: Source,
    start_ms: int,
    end_ms: int,
    step_ms: int,
    lookback_ms: int = LOOKBACK_MS,
    *,
    subquery_step_ms: int = SUBQUERY_STEP_MS,
) -> list[RangeSeries]:
    """Values of `expr` at `start_ms`, `start_ms + step_ms`, … not after `end_ms`, sorted by labels.

    A scalar becomes one series without labels. Raises `QueryError` also for strings and range vectors, for a step
    that is not positive, and for more than 11000 steps.
    """
    if expr.kind not in ("scalar", "vector"):
        raise QueryError(f"a query over time needs a number or an instant vector, not a {expr.kind}")
    if step_ms <= 0:
        raise QueryError("the step has to be longer than zero")
    if end_ms < start_ms:
        raise QueryError("the end of the query is before its start")
    if (end_ms - start_ms) // step_ms >= MAX_STEPS:
        raise QueryError(f"more than {MAX_STEPS} steps; use a longer step or a shorter time")
    instants = range(start_ms, end_ms + 1, step_ms)
    steps = Steps(instants[0], instants[-1])
    vectors = (
        _as_vector(_value(Context(history, at_ms, steps, start_ms, end_ms, lookback_ms, subquery_step_ms), expr))
        for at_ms in instants
    )
    windows = selectors.table(instants, vectors)
    mask = present(windows.values)
    series = [
        RangeSeries(one, windows.times[mask[:, column]], windows.values[mask[:, column], column])
        for column, one in enumerate(windows.labels)
    ]
    return sorted(series, key=lambda one: one.labels)


def _as_vector(value: Value) -> Vector:
    return value if isinstance(value, Vector) else Vector([()], np.array([_number(value)]))


def _number(value: Value) -> float:
    if not isinstance(value, Scalar):
        raise QueryError("a number is needed here")
    return value.value


def _value(ctx: Context, expr: Expr) -> Value:
    match expr:
        case VectorSelector():
            return selectors.instant(ctx, expr)[0]
        case Aggregation():
            return _aggregation(ctx, expr)
        case Binary():
            return binary(expr, _operand(ctx, expr.left), _operand(ctx, expr.right))
        case Call():
            return _call(ctx, expr)
        case NumberLiteral(value=number):
            return Scalar(number)
        case Negation(expr=inner):
            return negate(_operand(ctx, inner))
        case StringLiteral(value=text):
            return Text(text)
        case MatrixSelector() | Subquery():
            return Matrix(selectors.all_samples(ctx, expr, _vector))


def _operand(ctx: Context, expr: Expr) -> Scalar | Vector:
    value = _value(ctx, expr)
    if isinstance(value, Scalar | Vector):
        return value
    raise QueryError("a number or an instant vector is needed here")


def _vector(ctx: Context, expr: Expr) -> Vector:
    value = _value(ctx, expr)
    if isinstance(value, Vector):
        return value
    raise QueryError("an instant vector is needed here")


def _scalar(ctx: Context, expr: Expr) -> float:
    return _number(_value(ctx, expr))


def _text(expr: Expr) -> str:
    if isinstance(expr, StringLiteral):
        return expr.value
    raise QueryError("a string is needed here")


def _aggregation(ctx: Context, expr: Aggregation) -> Vector:
    parameter: float | str | None = None
    if isinstance(expr.parameter, StringLiteral):
        parameter = expr.parameter.value
    elif expr.parameter is not None:
        parameter = _scalar(ctx, expr.parameter)
    return aggregate(expr, _vector(ctx, expr.expr), parameter)


def _call(ctx: Context, call: Call) -> Scalar | Vector:
    name, arguments = call.function, call.arguments
    if name == "time":
        return Scalar(ctx.at_ms / 1000)
    if (arguments and arguments[-1].kind == "matrix") or name == "predict_linear":
        return _range_call(ctx, name, arguments)
    if name == "scalar":
        return Scalar(functions.to_scalar(_vector(ctx, arguments[0])))
    if name == "vector":
        return Vector([()], np.array([_scalar(ctx, arguments[0])]))
    if name == "histogram_quantile":
        return histogram_quantile(_scalar(ctx, arguments[0]), _vector(ctx, arguments[1]))
    if not arguments:
        return functions.calendar(name, Vector([()], np.array([ctx.at_ms // 1000], dtype=np.float64)))
    if name == "timestamp":
        return _timestamp(ctx, arguments[0])
    return _vector_call(ctx, name, _vector(ctx, arguments[0]), arguments)


def _range_call(ctx: Context, name: str, arguments: tuple[Expr, ...]) -> Vector:
    function: RangeFunction
    node = arguments[0]
    if name == "predict_linear":
        seconds = _scalar(ctx, arguments[1])
        function = lambda window: predict_linear(window, seconds)  # noqa: E731  # a name would say no more
    elif name == "quantile_over_time":
        node, q = arguments[1], _scalar(ctx, arguments[0])
        function = lambda window: quantile_of(window, q)  # noqa: E731
    else:
        function = _RANGE_FUNCTIONS[name]
    if name == "absent_over_time":
        return functions.absent(node, bool(selectors.all_samples(ctx, node, _vector)))
    return selectors.over_range(ctx, node, function, _vector, keep_name=name == "last_over_time", name=name)


def _timestamp(ctx: Context, argument: Expr) -> Vector:
    """Instant of each sample; of a computed vector it is that of the evaluation."""
    if isinstance(argument, VectorSelector):
        vector, seconds = selectors.instant(ctx, argument)
    else:
        vector = _vector(ctx, argument)
        seconds = np.full(len(vector), ctx.at_ms / 1000)
    return functions.each(vector, lambda _: seconds, "timestamp")


def _vector_call(ctx: Context, name: str, vector: Vector, arguments: tuple[Expr, ...]) -> Vector:
    match name:
        case "absent":
            return functions.absent(arguments[0], len(vector) > 0)
        case "round":
            return functions.rounded(vector, _scalar(ctx, arguments[1]) if len(arguments) > 1 else 1.0)
        case "clamp":
            return functions.clamped(vector, _scalar(ctx, arguments[1]), _scalar(ctx, arguments[2]))
        case "clamp_min":
            return functions.clamped(vector, _scalar(ctx, arguments[1]), math.inf)
        case "clamp_max":
            return functions.clamped(vector, -math.inf, _scalar(ctx, arguments[1]))
        case "sort" | "sort_desc":
            return functions.ordered(vector, descending=name == "sort_desc")
        case "label_replace":
            target, replacement, source, pattern = (_text(argument) for argument in arguments[1:])
            return labels.label_replace(vector, target, replacement, source, pattern)
        case "label_join":
            target, separator, *sources = (_text(argument) for argument in arguments[1:])
            return labels.label_join(vector, target, separator, sources)
        case _ if name in functions.ELEMENT_FUNCTIONS:
            return functions.each(vector, functions.ELEMENT_FUNCTIONS[name], name)
        case _:
            return functions.calendar(name, vector)
