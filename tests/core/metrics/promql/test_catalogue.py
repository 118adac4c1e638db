import re

import pytest

from agent.core.metrics.promql import QueryError, parse
from agent.core.metrics.promql.catalogue import AGGREGATIONS, FUNCTIONS, PARAMETERS, Signature

EXAMPLE = {"vector": "x", "matrix": "x[5m]", "scalar": "1", "string": '"a"'}


@pytest.mark.parametrize(("name", "signature"), FUNCTIONS.items())
def test_every_function_is_read_with_the_arguments_it_takes_and_no_fewer(name: str, signature: Signature) -> None:
    arguments = [EXAMPLE[signature.kind_of(index)] for index in range(signature.least)]
    parse(f"{name}({', '.join(arguments)})")
    for too_many_or_few in (arguments[:-1], [*arguments, *["1"] * (signature.most - len(arguments) + 1)]):
        if not signature.least <= len(too_many_or_few) <= signature.most:
            with pytest.raises(QueryError):
                parse(f"{name}({', '.join(too_many_or_few)})")


@pytest.mark.parametrize("name", sorted(AGGREGATIONS))
def test_every_aggregation_is_read(name: str) -> None:
    parameter = f"{EXAMPLE[PARAMETERS[name]]}, " if name in PARAMETERS else ""
    parse(f"{name} by (a) ({parameter}x)")


@pytest.mark.parametrize("name", ["histogram_avg", "holt_winters", "sin", "limitk", "info"])
def test_what_is_not_here_is_refused_by_name(name: str) -> None:
    assert name not in FUNCTIONS
    with pytest.raises(QueryError, match=re.escape(name)):
        parse(f"{name}(1, x)" if name == "limitk" else f"{name}(x)")


def test_the_last_kind_repeats() -> None:
    signature = FUNCTIONS["label_join"]
    assert [signature.kind_of(index) for index in (0, 1, 5)] == ["vector", "string", "string"]
