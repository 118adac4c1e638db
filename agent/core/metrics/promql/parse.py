"""Query text in, our tree out; what we would not answer as Prometheus does is refused here, by name.

The text is measured before the `promql-parser` library sees it: input nested too deeply would end the process.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import promql_parser

from agent.core.metrics.matchers import Matcher, MatchOp
from agent.core.metrics.promql.catalogue import AGGREGATIONS, FUNCTIONS, PARAMETERS
from agent.core.metrics.promql.tree import (
    Aggregation,
    At,
    Binary,
    Call,
    Cardinality,
    Expr,
    Kind,
    Matching,
    MatrixSelector,
    Negation,
    NumberLiteral,
    StringLiteral,
    Subquery,
    VectorSelector,
)
from agent.core.metrics.promql.values import QueryError
from agent.core.metrics.regexes import RegexError

MAX_BYTES = 4096
MAX_OPERATORS = 200
MAX_DEPTH = 50

ARITHMETIC = frozenset(("+", "-", "*", "/", "%", "^", "atan2"))
COMPARISONS = frozenset(("==", "!=", ">", "<", ">=", "<="))
SET_OPERATORS = frozenset(("and", "or", "unless"))

_TOKEN = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`|\#[^\n]*)"""
    r"""|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<at>@\s*-)|(?P<word>[A-Za-z_:][\w:.]*)|(?P<operator>[=!<>]=|=~|!~|[-+*/%^<>=])""",
    re.DOTALL,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse(text: str) -> Expr:
    """The tree of a query. Raises `QueryError` with what is wrong, where, and what to do."""
    _measure(text)
    try:
        return _node(promql_parser.parse(text))
    except (ValueError, OverflowError) as error:
        if isinstance(error, QueryError):
            raise
        raise QueryError(f"cannot read the query: {error}") from None
    except BaseException as error:
        # A Rust panic of the library; its class derives from BaseException and cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise QueryError(f"cannot read the query: the parser gave up on it ({error})") from None


def _measure(text: str) -> None:
    """Refuse what could exhaust the parser's stack. Brackets and signs inside strings and comments do not count."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise QueryError(f"the query is longer than {MAX_BYTES} bytes; split it into recording rules")
    depth = operators = 0
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind == "open":
            depth += 1
        elif kind == "close":
            depth -= 1
        elif kind == "at":
            raise QueryError(f"negative time stamp after `@` (character {token.start() + 1}): not supported")
        elif kind == "operator" or (kind == "word" and token.group().lower() in ("and", "or", "unless", "atan2")):
            operators += 1
        if depth > MAX_DEPTH:
            raise QueryError(f"brackets nested more than {MAX_DEPTH} deep (character {token.start() + 1})")
    if operators > MAX_OPERATORS:
        raise QueryError(
            f"the query has {operators} operators, more than {MAX_OPERATORS}; split it into recording rules"
        )


def _node(node: Any) -> Expr:
    match type(node).__name__:
        case "ParenExpr":
            return _node(node.expr)
        case "NumberLiteral":
            return NumberLiteral(float(node.val))
        case "StringLiteral":
            return StringLiteral(node.val)
        case "VectorSelector":
            return _selector(node)
        case "MatrixSelector":
            return MatrixSelector(_selector(node.vector_selector), _positive(node.range))
        case "SubqueryExpr":
            return _subquery(node)
        case "UnaryExpr":
            return _negation(node)
        case "BinaryExpr":
            return _binary(node)
        case "AggregateExpr":
            return _aggregation(node)
        case "Call":
            return _call(node)
        case other:
            raise QueryError(f"`{other}` is not supported")


def _selector(node: Any) -> VectorSelector:
    if node.matchers.or_matchers:
        raise QueryError("`or` inside a selector's braces is not PromQL; write two selectors with `or` between them")
    matchers = [] if node.name is None else [Matcher("__name__", "=", node.name)]
    for matcher in node.matchers.matchers:
        op = _match_op(str(matcher.op))
        try:
            matchers.append(Matcher(matcher.name, op, matcher.value))
        except RegexError as error:
            raise QueryError(f'matcher {matcher.name}{op}"{matcher.value}": {error}') from None
    if all(matcher.matches("") for matcher in matchers):
        raise QueryError("a selector needs a metric name or one matcher that does not match the empty string")
    return VectorSelector(tuple(matchers), _ms(node.offset), _at(node.at))


def _match_op(name: str) -> MatchOp:
    names: dict[str, MatchOp] = {"Equal": "=", "NotEqual": "!=", "Re": "=~", "NotRe": "!~"}
    return names[name.rpartition(".")[2]]


def _subquery(node: Any) -> Subquery:
    inner = _node(node.expr)
    _want(inner, ("vector",), "a subquery")
    step = None if node.step is None else _positive(node.step)
    return Subquery(inner, _positive(node.range), step, _ms(node.offset), _at(node.at))


def _negation(node: Any) -> Expr:
    inner = _node(node.expr)
    _want(inner, ("scalar", "vector"), "unary minus")
    if isinstance(inner, NumberLiteral):
        return NumberLiteral(-inner.value)
    return Negation(inner, inner.kind)


def _binary(node: Any) -> Binary:
    op, modifier = str(node.op).lower(), node.modifier
    left, right = _node(node.lhs), _node(node.rhs)
    for side in (left, right):
        _want(side, ("scalar", "vector"), f"operator `{op}`")
    both_vectors = left.kind == right.kind == "vector"
    return_bool = modifier is not None and modifier.return_bool
    if op in SET_OPERATORS:
        if not both_vectors:
            raise QueryError(f"set operator `{op}` works between two vectors only; use vector(…) for a number")
    elif op not in ARITHMETIC and op not in COMPARISONS:
        raise QueryError(f"operator `{op}` is not supported")
    if return_bool and op not in COMPARISONS:
        raise QueryError(f"`bool` goes with comparisons only, not with `{op}`")
    if op in COMPARISONS and left.kind == right.kind == "scalar" and not return_bool:
        raise QueryError(f"a comparison of two numbers needs `bool`: {op} bool")
    matching = _matching(modifier, op) if both_vectors else None
    if not both_vectors and modifier is not None and (modifier.matching is not None or modifier.group_labels):
        raise QueryError(f"`on`, `ignoring` and `group_…` go between two vectors only (operator `{op}`)")
    return Binary(op, left, right, return_bool, matching, "vector" if "vector" in (left.kind, right.kind) else "scalar")


def _matching(modifier: Any, op: str) -> Matching:
    if modifier is None:
        return Matching("many-to-many" if op in SET_OPERATORS else "one-to-one", on=False, labels=())
    fill = modifier.fill_values
    if fill is not None and (fill.lhs is not None or fill.rhs is not None):
        raise QueryError("the modifiers `fill`, `fill_left` and `fill_right` are experimental and not supported")
    names: dict[str, Cardinality] = {
        "OneToOne": "one-to-one",
        "ManyToOne": "many-to-one",
        "OneToMany": "one-to-many",
        "ManyToMany": "many-to-many",
    }
    cardinality = names[str(modifier.card).rpartition(".")[2]]
    if (cardinality == "many-to-many") != (op in SET_OPERATORS):
        raise QueryError(f"`group_left` and `group_right` do not go with `{op}`")
    on = modifier.matching is not None and str(modifier.matching.type).endswith("Include")
    labels = () if modifier.matching is None else tuple(modifier.matching.labels)
    include = tuple(modifier.group_labels or ())
    if on and (both := set(labels) & set(include)):
        raise QueryError(f"label `{min(both)}` must not be in `on` and in `group_…` at once")
    return Matching(cardinality, on, labels, include)


def _aggregation(node: Any) -> Aggregation:
    op, inner = str(node.op).lower(), _node(node.expr)
    if op not in AGGREGATIONS:
        raise QueryError(f"aggregation `{op}` is not supported (supported: {', '.join(sorted(AGGREGATIONS))})")
    _want(inner, ("vector",), f"aggregation `{op}`")
    parameter = None if node.param is None else _node(node.param)
    wanted = PARAMETERS.get(op)
    if (parameter is None) != (wanted is None):
        raise QueryError(f"aggregation `{op}` takes {'a' if wanted else 'no'} parameter")
    if parameter is not None and wanted is not None:
        _want(parameter, (wanted,), f"the parameter of `{op}`")
    if op == "count_values" and (not isinstance(parameter, StringLiteral) or not parameter.value):
        raise QueryError("count_values needs the name of a label as its first argument")
    labels = () if node.modifier is None else tuple(node.modifier.labels)
    without = node.modifier is not None and str(node.modifier.type).endswith("Without")
    return Aggregation(op, inner, parameter, labels, without)


def _call(node: Any) -> Call:
    name = node.func.name
    if name not in FUNCTIONS:
        raise QueryError(f"function `{name}` is not supported")
    arguments = tuple(_node(argument) for argument in node.args)
    signature = FUNCTIONS[name]
    if not signature.least <= len(arguments) <= signature.most:
        raise QueryError(f"function `{name}` does not take {len(arguments)} arguments")
    for index, argument in enumerate(arguments):
        _want(argument, (signature.kind_of(index),), f"argument {index + 1} of `{name}`")
    return Call(name, arguments, signature.result)


def _want(expr: Expr, kinds: tuple[Kind, ...], where: str) -> None:
    if expr.kind not in kinds:
        raise QueryError(f"{where} wants {' or '.join(kinds)}, not {expr.kind}")


def _at(node: Any) -> At | None:
    if node is None:
        return None
    kind = str(node.type).rpartition(".")[2]
    if kind == "Start":
        return At("start")
    if kind == "End":
        return At("end")
    return At("instant", _ms(node.at - _EPOCH))


def _ms(delta: timedelta | None) -> int:
    return 0 if delta is None else (delta + timedelta(microseconds=500)) // timedelta(milliseconds=1)


def _positive(delta: timedelta) -> int:
    found = _ms(delta)
    if found <= 0:
        raise QueryError("a range or step has to be longer than zero")
    return found
