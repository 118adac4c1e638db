import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.presence import presence

SECOND = 10**9
instants = st.integers(0, SECOND)
intervals = st.lists(st.tuples(instants, instants).map(lambda pair: (min(pair), max(pair))), max_size=12)


def told(length: int, flights: list[tuple[int, int]], *bypass: int) -> tuple[list[int], list[int]]:
    begins, ends = np.array(flights, dtype=np.int64).reshape(-1, 2).T
    weights, passed = presence(length, begins, ends, bypass)
    return weights.tolist(), passed


@pytest.mark.parametrize(
    ("flights", "bypass", "weights", "passed"),
    [
        ([], [], [], []),
        ([], [300], [], [300]),
        ([], [5000], [], [1000]),
        ([], [1500, 500], [], [750, 250]),
        ([(0, 1000)], [], [1000], []),
        ([(0, 1000)], [0], [1000], [0]),
        ([(0, 1000), (0, 1000)], [], [500, 500], []),
        ([(0, 1000), (800, 1000)], [], [900, 100], []),
        ([(0, 200), (800, 1000)], [], [200, 200], []),
        ([(0, 1000)], [1000], [500], [500]),
        ([(0, 500)], [1000], [250], [750]),
        ([(0, 500)], [500], [333], [416]),
        ([(400, 400), (0, 1000)], [], [0, 1000], []),
    ],
)
def test_everybody_there_has_an_equal_part(
    flights: list[tuple[int, int]], bypass: list[int], weights: list[int], passed: list[int]
) -> None:
    assert told(1000, flights, *bypass) == (weights, passed)


@given(intervals, st.integers(0, 3 * SECOND))
def test_the_weights_sum_to_the_active_time(flights: list[tuple[int, int]], bypass: int) -> None:
    weights, (passed,) = told(SECOND, flights, bypass)
    union = _union(flights)
    active = union + (SECOND - union) * min(bypass, SECOND) // SECOND
    assert abs(sum(weights) + passed - active) <= 2 * len(flights) + 2
    for (start, end), weight in zip(flights, weights, strict=True):
        assert (weight > 0) == (start < end)
        assert weight <= max(1, end - start)


def _union(flights: list[tuple[int, int]]) -> int:
    total = reached = 0
    for start, end in sorted(flights):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total
