from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.metrics.promql.histograms import histogram_quantile
from agent.core.metrics.promql.values import Vector
from agent.core.metrics.published import format_bound
from agent.core.quantiles import around, from_buckets, mean, quantile
from agent.core.readings import Histogram

VLLM = (0.3, 0.5, 0.8, 1.0, 1.5, 2.5, 5.0)


def of(bounds: tuple[float, ...], *inside: float, total: float | None = None) -> Histogram:
    """A histogram from the counts of its single buckets."""
    counts = tuple(float(sum(inside[: at + 1])) for at in range(len(inside)))
    return Histogram(bounds=bounds, counts=counts, sum=total)


@st.composite
def histograms(draw: st.DrawFn) -> Histogram:
    bounds = sorted(draw(st.sets(st.floats(0.001, 1000.0), min_size=1, max_size=20)))
    counts = st.one_of(st.integers(0, 10**6).map(float), st.floats(0.0, 1e6).map(lambda x: round(x, 3)))
    inside = draw(st.lists(counts, min_size=len(bounds) + 1, max_size=len(bounds) + 1))
    if not sum(inside):
        inside[0] = 1.0
    return of(tuple(bounds), *inside)


def promql(histogram: Histogram, q: float) -> float:
    bounds = (*histogram.bounds, inf)
    labels = [(("engine", "e"), ("le", format_bound(bound))) for bound in bounds]
    return float(histogram_quantile(q, Vector(labels, np.array(histogram.counts))).values[0])


@given(histograms(), st.floats(0.001, 1.0))
def test_a_quantile_lies_between_its_bounds_and_is_the_one_of_the_rules(histogram: Histogram, q: float) -> None:
    found = quantile(histogram, q)
    assert found is not None
    assert found.value == pytest.approx(promql(histogram, q), rel=1e-9)
    assert found.observations == histogram.counts[-1]
    assert found.lower <= found.value
    if found.upper is None:
        assert found.value == found.lower == histogram.bounds[-1]
    else:
        assert found.value <= found.upper
        assert found.upper in histogram.bounds
    assert found.lower in (0.0, *histogram.bounds)


@given(histograms(), st.floats(0.001, 1.0), st.floats(0.001, 1.0))
def test_a_higher_quantile_is_not_smaller(histogram: Histogram, one: float, other: float) -> None:
    low, high = quantile(histogram, min(one, other)), quantile(histogram, max(one, other))
    assert low is not None
    assert high is not None
    assert low.value <= high.value
    assert low.lower <= high.lower


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=200), st.sampled_from((0.5, 0.9, 0.99)))
def test_the_true_quantile_lies_between_the_two_bounds(seen: list[float], q: float) -> None:
    bounds = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0)
    counts = tuple(float(sum(value <= bound for value in seen)) for bound in (*bounds, inf))
    found = quantile(Histogram(bounds=bounds, counts=counts), q)
    true = sorted(seen)[max(0, int(np.ceil(q * len(seen))) - 1)]
    assert found is not None
    assert found.lower <= true
    assert found.upper is None or true <= found.upper


def test_the_resolution_of_an_engines_own_buckets_is_told() -> None:
    found = quantile(of(VLLM, 0, 0, 0, 90, 0, 10, 0, 0), 0.99)
    assert found is not None
    assert (found.lower, found.upper, found.observations) == (1.5, 2.5, 100)
    assert found.value == pytest.approx(2.4)


def test_above_the_largest_bound_it_is_more_than_that() -> None:
    found = quantile(of((1.0, 2.0), 1, 0, 9), 0.9)
    assert found is not None
    assert (found.value, found.lower, found.upper) == (2.0, 2.0, None)


def test_counts_that_raced_are_lifted() -> None:
    found = quantile(Histogram(bounds=(1.0, 2.0), counts=(10.0, 9.0, 9.0)), 0.99)
    assert found is not None
    assert (found.lower, found.upper, found.observations) == (0.0, 1.0, 10.0)


def test_without_observations_or_bounds_there_is_none() -> None:
    assert quantile(of((1.0, 2.0), 0, 0, 0), 0.5) is None
    assert quantile(Histogram(bounds=(1.0,), counts=(0.0, float("nan"))), 0.5) is None
    triton = Histogram(bounds=(), counts=(10.0,), sum=5.0)
    assert quantile(triton, 0.5) is None
    assert mean(triton) == 0.5
    assert mean(Histogram(bounds=(), counts=(10.0,))) is None
    assert mean(Histogram(bounds=(), counts=(0.0,), sum=0.0)) is None


@pytest.mark.parametrize("q", [0.0, -0.1, 1.01, float("nan")])
def test_what_is_no_quantile_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        quantile(of((1.0,), 1, 0), q)


def test_buckets_in_any_order_make_a_histogram() -> None:
    assert from_buckets([(inf, 3.0), (1.0, 1.0)], 2.0) == Histogram(bounds=(1.0,), counts=(1.0, 3.0), sum=2.0)
    assert from_buckets([(1.0, 1.0)]) is None
    assert from_buckets([]) is None


@pytest.mark.parametrize(
    ("value", "expected"), [(2.0, (1.5, 2.5)), (2.5, None), (0.1, (0.0, 0.3)), (9.0, (5.0, None)), (0.3, None)]
)
def test_the_bounds_around_a_value(value: float, expected: tuple[float, float | None] | None) -> None:
    assert around(VLLM, value) == expected
