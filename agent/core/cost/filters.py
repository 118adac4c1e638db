"""Which rows of a report pass: terms and a row's names in; yes or no out, and which terms a database can decide."""

from collections.abc import Iterable, Mapping

from agent.core.cost.reports import FilterOp, Term

NOT_WASTE = ("", "ok", "in_flight", "rejected")
"""Outcomes of work that bought something, may yet, or was never done."""

_NEGATED: dict[FilterOp, FilterOp] = {
    "is_not": "is",
    "contains_not": "contains",
    "starts_not": "starts",
    "ends_not": "ends",
}


def waste_of(outcome: str) -> str:
    """Why what a request cost bought nothing: its outcome; '' where it bought something, or may yet."""
    return "" if outcome in NOT_WASTE else outcome


def passes(term: Term, value: str) -> bool:
    """Whether a row with this value of the term's dimension passes. Letters count as they are written."""
    op = _NEGATED.get(term.op)
    if op is not None:
        return not _compares(op, term.values, value)
    return _compares(term.op, term.values, value)


def passes_all(terms: Iterable[Term], names: Mapping[str, str]) -> bool:
    """Whether a row with these names passes every term. Raises KeyError for a dimension that `names` lacks."""
    return all(passes(term, names[term.dimension]) for term in terms)


def tenant_term(tenant: str) -> Term:
    """What a report that is limited to one tenant holds."""
    return Term(dimension="tenant", op="is", values=(tenant,))


def exact_terms(terms: Iterable[Term], columns: Iterable[str]) -> tuple[list[Term], list[Term]]:
    """The terms that a database can decide the way we do (`is` and `is_not` of a column), and the others.

    Patterns are not among the first: LIKE is without regard to case in one database and with it in another, and takes
    `%`, `_` and a backslash in a tenant's name for signs of its own.
    """
    known = frozenset(columns)
    exact: list[Term] = []
    other: list[Term] = []
    for term in terms:
        is_exact = term.op in ("is", "is_not") and term.dimension in known
        (exact if is_exact else other).append(term)
    return exact, other


def _compares(op: FilterOp, values: tuple[str, ...], value: str) -> bool:
    if op == "is":
        return value in values
    if op == "contains":
        return any(wanted in value for wanted in values)
    return value.startswith(values) if op == "starts" else value.endswith(values)
