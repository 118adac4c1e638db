"""Terms against names: every operator, its opposite, and what a database may decide."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.filters import exact_terms, passes, passes_all, tenant_term, waste_of
from agent.core.cost.reports import FilterOp, Term


@pytest.mark.parametrize(
    ("op", "values", "value", "passed"),
    [
        ("is", ("acme",), "acme", True),
        ("is", ("acme",), "Acme", False),
        ("is", ("a", "b"), "b", True),
        ("is", (), "", False),
        ("is", ("",), "", True),
        ("contains", ("cm",), "acme", True),
        ("contains", ("",), "acme", True),
        ("contains", ("%", "_"), "acme", False),
        ("contains", ("%",), "100%", True),
        ("contains", ("\0",), "a\0b", True),
        ("starts", ("ac", "ze"), "zeta", True),
        ("starts", ("eta",), "zeta", False),
        ("ends", ("eta",), "zeta", True),
        ("ends", ("東",), "東京", False),
        ("ends", (), "zeta", False),
    ],
)
def test_operators_and_their_opposites(op: FilterOp, values: tuple[str, ...], value: str, passed: bool) -> None:
    assert passes(Term("tenant", op, values), value) is passed
    opposite: FilterOp = f"{op}_not"  # type: ignore[assignment]
    assert opposite in get_args(FilterOp)
    assert passes(Term("tenant", opposite, values), value) is not passed


@given(st.sampled_from(get_args(FilterOp)), st.lists(st.text(), max_size=3), st.text())
def test_a_negated_term_passes_what_the_plain_one_does_not(op: FilterOp, values: list[str], value: str) -> None:
    plain: FilterOp = op.removesuffix("_not")  # type: ignore[assignment]
    told = passes(Term("pod", op, tuple(values)), value)
    assert told is (passes(Term("pod", plain, tuple(values)), value) is not op.endswith("_not"))


def test_every_term_must_pass_and_an_unknown_dimension_is_an_error() -> None:
    terms = (tenant_term("acme"), Term("state", "is_not", ("gap",)))
    assert passes_all(terms, {"tenant": "acme", "state": "request"})
    assert not passes_all(terms, {"tenant": "acme", "state": "gap"})
    assert passes_all((), {})
    with pytest.raises(KeyError):
        passes_all(terms, {"tenant": "acme"})


def test_a_database_decides_equality_of_columns_only() -> None:
    exact = [tenant_term("a"), Term("pod", "is_not", ("b",))]
    other = [Term("waste", "is", ("error",)), Term("tenant", "starts", ("%",)), Term("node", "is", ("n",))]
    assert exact_terms([*other, *exact], ("tenant", "pod", "outcome")) == (exact, other)


@pytest.mark.parametrize(
    ("outcome", "waste"),
    [(name, "") for name in ("", "ok", "in_flight", "rejected")]
    + [(name, name) for name in ("error", "timeout", "client_abort", "lost_record", "something new")],
)
def test_waste_is_what_ended_otherwise_than_well(outcome: str, waste: str) -> None:
    assert waste_of(outcome) == waste
