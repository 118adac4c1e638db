"""The tree of a parsed query: our own frozen nodes, independent of the library that parses the text.

Durations and instants are milliseconds. `kind` of a node is the PromQL type of its value.
"""

from dataclasses import dataclass
from typing import Literal

from agent.core.metrics.matchers import Matcher

Kind = Literal["scalar", "vector", "matrix", "string"]
Cardinality = Literal["one-to-one", "many-to-one", "one-to-many", "many-to-many"]


@dataclass(frozen=True, slots=True)
class At:
    """The `@` modifier: a fixed instant, or the start or end of the whole query."""

    where: Literal["instant", "start", "end"]
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class NumberLiteral:
    """A number."""

    value: float
    kind: Kind = "scalar"


@dataclass(frozen=True, slots=True)
class StringLiteral:
    """A string."""

    value: str
    kind: Kind = "string"


@dataclass(frozen=True, slots=True)
class VectorSelector:
    """`name{matchers} offset … @ …`; the metric name is the matcher of `__name__`."""

    matchers: tuple[Matcher, ...]
    offset_ms: int = 0
    at: At | None = None
    kind: Kind = "vector"


@dataclass(frozen=True, slots=True)
class MatrixSelector:
    """`selector[range]`."""

    selector: VectorSelector
    range_ms: int
    kind: Kind = "matrix"


@dataclass(frozen=True, slots=True)
class Subquery:
    """`expr[range:step]`; without a step the caller's default holds."""

    expr: "Expr"
    range_ms: int
    step_ms: int | None
    offset_ms: int = 0
    at: At | None = None
    kind: Kind = "matrix"


@dataclass(frozen=True, slots=True)
class Negation:
    """Unary minus."""

    expr: "Expr"
    kind: Kind


@dataclass(frozen=True, slots=True)
class Matching:
    """How elements of two vectors find each other. `on` False means ignoring `labels`."""

    cardinality: Cardinality
    on: bool
    labels: tuple[str, ...]
    include: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Binary:
    """`left op right`. `matching` is None unless both sides are vectors."""

    op: str
    left: "Expr"
    right: "Expr"
    return_bool: bool
    matching: Matching | None
    kind: Kind


@dataclass(frozen=True, slots=True)
class Aggregation:
    """`op by|without (labels) (parameter, expr)`."""

    op: str
    expr: "Expr"
    parameter: "Expr | None"
    labels: tuple[str, ...]
    without: bool
    kind: Kind = "vector"


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a function."""

    function: str
    arguments: tuple["Expr", ...]
    kind: Kind


Expr = (
    NumberLiteral | StringLiteral | VectorSelector | MatrixSelector | Subquery | Negation | Binary | Aggregation | Call
)
