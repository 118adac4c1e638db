"""Splits of arrays are those of plain integers, to the last unit and for every size of numbers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.exact import Runs, split_array, split_list
from agent.core.cost.money import split

SMALL, LARGE = st.integers(0, 12), st.integers(0, 2**62)


def weights(sizes: st.SearchStrategy[int]) -> st.SearchStrategy[list[int]]:
    return st.lists(sizes, min_size=1, max_size=60).filter(any)


@given(st.one_of(SMALL, LARGE), st.one_of(weights(SMALL), weights(st.integers(0, 10**10)), weights(LARGE)))
def test_one_split(total: int, parts: list[int]) -> None:
    expected = split(total, parts)
    assert split_list(total, parts) == expected
    assert split_array(total, np.array(parts, dtype=np.int64)).tolist() == expected


@given(st.data(), st.sampled_from((12, 10**9, 2**40, 2**62)))
def test_many_splits_at_once(data: st.DataObject, most: int) -> None:
    runs = data.draw(st.lists(weights(st.integers(0, most)), min_size=1, max_size=8))
    totals = data.draw(st.lists(st.integers(0, most), min_size=len(runs), max_size=len(runs)))
    starts = np.cumsum([0, *map(len, runs[:-1])])
    found = Runs(np.array([w for run in runs for w in run], dtype=np.int64), starts)
    expected = [part for total, run in zip(totals, runs, strict=True) for part in split(total, run)]
    assert found.split(totals).tolist() == expected


def test_thousands_of_equal_weights() -> None:
    ones = np.ones(30_000, dtype=np.int64)
    found = Runs(ones, np.arange(0, 30_000, 10)).split([3] * 3000)
    assert found.reshape(-1, 10).tolist() == [[1, 1, 1, 0, 0, 0, 0, 0, 0, 0]] * 3000
    assert split_list(29_999, [1] * 30_000) == [1] * 29_999 + [0]


def test_integers_beyond_64_bits() -> None:
    huge = [2**70 + i for i in range(40)]
    assert split_list(2**80, huge) == split(2**80, huge)
