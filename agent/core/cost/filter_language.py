"""Filters as OpenCost's and Kubecost's clients write them → terms of a report's question.

`tenant:"a","b"+model!:"x"`: a name, an operator, values in double quotes. All terms must hold (`+`); of several values
one (for negated operators: none). A double quote in a value is written twice. `label[tenant]` means `tenant`.
"""

import re
from typing import get_args

from agent.core.cost.reports import Dimension, FilterOp, Term

DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
MAX_CHARACTERS = 8_192
MAX_VALUES = 500
OPERATORS: dict[str, FilterOp] = {
    ":": "is",
    "!:": "is_not",
    "~:": "contains",
    "!~:": "contains_not",
    "<~:": "starts",
    "!<~:": "starts_not",
    "~>:": "ends",
    "!~>:": "ends_not",
}
_ALIASES: dict[str, Dimension] = {"gpumodel": "gpu_model", "device": "gpu"}
_KEYED = re.compile(r"label(?:\[\s*([^\]]*?)\s*\]|:(.*))", re.DOTALL)
_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[\w-]+(?:\[[^\]]*\])?")
_OPERATOR = re.compile(r"!?(?:<~|~>|~)?:")
_VALUE = re.compile(r'"((?:[^"]|"")*)"')


class WrongFilter(ValueError):
    """The filter cannot be read; the message says where and what would be right."""


def dimension_of(name: str) -> Dimension | None:
    """Our dimension of that name, also as `label:tenant` or `label[tenant]`, in any case; None: there is none."""
    keyed = _KEYED.fullmatch(name.strip())
    wanted = (keyed.group(1) or keyed.group(2) or "").strip() if keyed else name.strip()
    wanted = wanted.lower()
    known = {dimension: dimension for dimension in DIMENSIONS} | _ALIASES
    return known.get(wanted)


def parse_filter(text: str) -> tuple[Term, ...]:
    """The terms of a filter; none for an empty one. Raises `WrongFilter`."""
    if len(text) > MAX_CHARACTERS:
        raise WrongFilter(f"it has {len(text)} characters; at most {MAX_CHARACTERS} are read")
    at = _skip(text, 0)
    terms: list[Term] = []
    while at < len(text):
        if terms:
            at = _joint(text, at)
        term, at = _term(text, at)
        terms.append(term)
        if sum(len(term.values) for term in terms) > MAX_VALUES:
            raise WrongFilter(f"it has more than {MAX_VALUES} values; ask for less")
    return tuple(terms)


def _joint(text: str, at: int) -> int:
    """Behind the `+` between two terms. A `+` in a query string that was not percent-encoded arrives as a space."""
    if text[at] == "+":
        at = _skip(text, at + 1)
        if at == len(text):
            raise WrongFilter(f"it ends with `+`; write another term behind it, such as {_EXAMPLE}")
        return at
    if text[at] in "|()":
        raise WrongFilter(
            f"`{text[at]}` at position {at + 1} is not supported: all terms must hold; write one of several values as "
            'tenant:"a","b", and ask once for each other alternative'
        )
    if text[at - 1].isspace():
        return at
    raise WrongFilter(f"expected `+` and another term at position {at + 1}, found {text[at]!r}")


def _term(text: str, at: int) -> tuple[Term, int]:
    if text[at] in "|()":
        _joint(text, at)
    name = _NAME.match(text, at)
    if name is None:
        raise WrongFilter(f"expected a name at position {at + 1}, found {text[at]!r}; write terms such as {_EXAMPLE}")
    dimension = dimension_of(name.group())
    if dimension is None:
        raise WrongFilter(f"{name.group()!r} is no dimension; dimensions are {', '.join(DIMENSIONS)}")
    at = _skip(text, name.end())
    operator = _OPERATOR.match(text, at)
    if operator is None or operator.group() not in OPERATORS:
        raise WrongFilter(f"expected an operator behind {name.group()!r}; operators are {'  '.join(OPERATORS)}")
    values, at = _values(text, operator.end())
    return Term(dimension, OPERATORS[operator.group()], values), at


def _values(text: str, at: int) -> tuple[tuple[str, ...], int]:
    found: list[str] = []
    while True:
        at = _skip(text, at)
        value = _VALUE.match(text, at)
        if value is None:
            raise WrongFilter(f"expected a value in double quotes at position {at + 1}, as in {_EXAMPLE}")
        found.append(value.group(1).replace('""', '"'))
        at = _skip(text, value.end())
        if at == len(text) or text[at] != ",":
            return tuple(found), at
        at += 1


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


_EXAMPLE = 'tenant:"acme"'
