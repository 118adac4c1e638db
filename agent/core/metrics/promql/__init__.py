"""PromQL over a short history: text to tree (`parse`), tree and series to values (`evaluate`, `evaluate_range`)."""

from agent.core.metrics.promql.evaluate import evaluate, evaluate_range
from agent.core.metrics.promql.parse import parse
from agent.core.metrics.promql.reach import longest_reach_ms
from agent.core.metrics.promql.tree import Expr
from agent.core.metrics.promql.values import (
    Matrix,
    QueryError,
    RangeSeries,
    Scalar,
    Source,
    Text,
    Value,
    Vector,
    VectorSample,
)

__all__ = [
    "Expr",
    "Matrix",
    "QueryError",
    "RangeSeries",
    "Scalar",
    "Source",
    "Text",
    "Value",
    "Vector",
    "VectorSample",
    "evaluate",
    "evaluate_range",
    "longest_reach_ms",
    "parse",
]
