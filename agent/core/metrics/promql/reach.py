"""How far back a query looks, from its tree alone."""

from agent.core.metrics.promql.tree import (
    Aggregation,
    At,
    Binary,
    Call,
    Expr,
    MatrixSelector,
    Negation,
    Subquery,
    VectorSelector,
)

LOOKBACK_MS = 300_000


def longest_reach_ms(expr: Expr, lookback_ms: int = LOOKBACK_MS) -> int:
    """Milliseconds before the evaluation instant of the oldest sample that can matter: range + offset, or lookback.

    A plain selector counts with its lookback although a series that is alive needs only its last sample. A fixed
    `@` instant counts as 0: how far back it lies depends on when the query is evaluated. Never negative.
    """
    return max(0, _reach(expr, lookback_ms))


def _reach(expr: Expr, lookback_ms: int) -> int:
    match expr:
        case VectorSelector():
            return _shift(expr.at, expr.offset_ms + lookback_ms)
        case MatrixSelector(selector=selector, range_ms=range_ms):
            return _shift(selector.at, selector.offset_ms + range_ms)
        case Subquery():
            return _shift(expr.at, expr.offset_ms + expr.range_ms + _reach(expr.expr, lookback_ms))
        case Negation():
            return _reach(expr.expr, lookback_ms)
        case Binary():
            return max(_reach(expr.left, lookback_ms), _reach(expr.right, lookback_ms))
        case Aggregation():
            parameter = 0 if expr.parameter is None else _reach(expr.parameter, lookback_ms)
            return max(_reach(expr.expr, lookback_ms), parameter)
        case Call():
            return max((_reach(argument, lookback_ms) for argument in expr.arguments), default=0)
        case _:
            return 0


def _shift(at: At | None, reach: int) -> int:
    return 0 if at is not None and at.where == "instant" else reach
