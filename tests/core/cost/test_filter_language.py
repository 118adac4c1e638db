from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.filter_language import (
    DIMENSIONS,
    MAX_CHARACTERS,
    OPERATORS,
    WrongFilter,
    dimension_of,
    parse_filter,
)
from agent.core.cost.reports import Term


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", []),
        ("  ", []),
        ('tenant:"a"', [Term("tenant", "is", ("a",))]),
        ('tenant:"a","b"+model!:"x"', [Term("tenant", "is", ("a", "b")), Term("model", "is_not", ("x",))]),
        ('label[tenant]:"a"', [Term("tenant", "is", ("a",))]),
        ('label[ gpu_model ] <~: "NVIDIA" , "AMD"', [Term("gpu_model", "starts", ("NVIDIA", "AMD"))]),
        # As a plus arrives that was not percent-encoded.
        ('tenant:"a" model:"b"', [Term("tenant", "is", ("a",)), Term("model", "is", ("b",))]),
        ('tenant:""', [Term("tenant", "is", ("",))]),
        ('tenant:"say ""hi"""', [Term("tenant", "is", ('say "hi"',))]),
        ('tenant:"a+b|c","(d)\\"', [Term("tenant", "is", ("a+b|c", "(d)\\"))]),
        ('Namespace:"kube\nsystem"', [Term("namespace", "is", ("kube\nsystem",))]),
    ],
)
def test_filters(text: str, terms: list[Term]):
    assert list(parse_filter(text)) == terms


@pytest.mark.parametrize("sign", OPERATORS)
def test_operators(sign: str):
    assert parse_filter(f'pod{sign}"x"') == (Term("pod", OPERATORS[sign], ("x",)),)
    assert parse_filter(f'pod {sign} "x"') == (Term("pod", OPERATORS[sign], ("x",)),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('colour:"red"', "'colour' is no dimension; dimensions are tenant, model"),
        ('label[app]:"x"', "is no dimension"),
        ('annotation[tenant]:"x"', "is no dimension"),
        ("tenant:a", "double quotes at position 8"),
        ('tenant:"a', "double quotes at position 8"),
        ('tenant:"a",', "double quotes at position 12"),
        ("tenant", "expected an operator behind 'tenant'"),
        ('tenant="a"', "expected an operator behind 'tenant'"),
        ('tenant>:"a"', "expected an operator"),
        ('tenant:"a"+', "ends with `\\+`"),
        ('tenant:"a"|tenant:"b"', r"`\|` at position 11 is not supported: .* alternative"),
        ('(tenant:"a")', r"`\(` at position 1 is not supported"),
        ('tenant:"a")', r"`\)` at position 11 is not supported"),
        ('tenant:"a"model:"b"', r"expected `\+` and another term at position 11"),
        (':"a"', "expected a name at position 1"),
        ('+tenant:"a"', "expected a name at position 1"),
        ("x" * (MAX_CHARACTERS + 1), "at most"),
        ('tenant:"a"' + ',"a"' * 600, "more than 500 values"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(text: str, says: str):
    with pytest.raises(WrongFilter, match=says):
        parse_filter(text)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str):
    with suppress(WrongFilter):
        parse_filter(text)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(DIMENSIONS), st.sampled_from(sorted(OPERATORS)), st.lists(st.text(), min_size=1, max_size=4)
        ),
        min_size=1,
        max_size=5,
    )
)
def test_any_value_can_be_written(terms: list[tuple[str, str, list[str]]]):
    def quoted(value: str) -> str:
        return '"' + value.replace('"', '""') + '"'

    text = "+".join(f"{name}{sign}{','.join(map(quoted, values))}" for name, sign, values in terms)
    expected = [Term(name, OPERATORS[sign], tuple(values)) for name, sign, values in terms]
    assert list(parse_filter(text)) == expected


@pytest.mark.parametrize(
    ("name", "dimension"),
    [
        ("tenant", "tenant"),
        (" Node ", "node"),
        ("label:tenant", "tenant"),
        ("label[gpuModel]", "gpu_model"),
        ("gpuModel", "gpu_model"),
        ("device", "gpu"),
        ("container", None),
        ("cluster", None),
        ("label:", None),
        ("", None),
    ],
)
def test_names(name: str, dimension: str | None):
    assert dimension_of(name) == dimension
