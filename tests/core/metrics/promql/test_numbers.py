import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.metrics.promql.numbers import column_means, column_sums, exact_sum, mean, quantile


def test_sums_lose_nothing() -> None:
    assert exact_sum([1e100, 1.0, -1e100]) == 1.0
    assert exact_sum([1e308, 1e308]) == math.inf
    assert math.isnan(exact_sum([math.inf, -math.inf]))
    assert column_sums(np.array([[1e100, 1.0], [1.0, 2.0], [-1e100, 3.0]])).tolist() == [1.0, 6.0]


def test_means_do_not_overflow() -> None:
    assert mean([1e308, 1e308]) == 1e308
    assert mean([math.inf, 1.0]) == math.inf
    with np.errstate(over="ignore"):
        assert column_means(np.array([[1e308, 2.0], [1e308, 4.0]])).tolist() == [1e308, 3.0]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 1))
def test_quantiles_are_those_of_numpy(values: list[float], q: float) -> None:
    assert quantile(q, values) == pytest.approx(float(np.quantile(values, q)), rel=1e-9, abs=1e-6)


def test_quantiles_of_odd_values() -> None:
    assert math.isnan(quantile(0.0, [1.0, math.nan]))  # NaN sorts lowest
    assert quantile(1.0, [1.0, math.nan]) == 1.0
    assert quantile(0.5, [math.inf]) == math.inf
    assert math.isnan(quantile(0.5, []))
