"""Settled numbers as ranges, against a plain set."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.spool.acks import Acks, runs


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 8))))
def test_ranges_are_a_set(steps: list[tuple[int, int]]) -> None:
    acks, known = Acks(), set[int]()
    for first, more in steps:
        wanted = set(range(first, first + more + 1))
        if wanted & known:
            with pytest.raises(ValueError, match="settled already"):
                acks.add(first, first + more)
        else:
            acks.add(first, first + more)
            known |= wanted
        assert acks.settled() == len(known)
        assert acks.through == next(n for n in range(100) if n + 1 not in known)
        open_numbers = [n for begin, end in acks.unsettled(3, 50) for n in range(begin, end + 1)]
        assert open_numbers == [n for n in range(3, 51) if n not in known]
        again = Acks(acks.through, acks.ranges())
        assert (again.through, again.ranges()) == (acks.through, acks.ranges())
        assert all(b[0] > a[1] + 1 for a, b in zip(acks.ranges(), acks.ranges()[1:], strict=False)), "no fewer ranges"


def test_a_range_goes_forward() -> None:
    with pytest.raises(ValueError, match="no range"):
        Acks().add(3, 2)


@given(st.lists(st.integers(0, 50), unique=True))
def test_runs_hold_the_same_numbers_in_whatever_order(numbers: list[int]) -> None:
    found = [n for first, last in runs(numbers) for n in range(first, last + 1)]
    assert found == numbers
    in_order = list(runs(sorted(numbers)))
    assert all(b[0] > a[1] + 1 for a, b in pairwise(in_order))


def test_runs_of_ranges() -> None:
    assert list(runs(range(3, 9))) == [(3, 8)]
    assert list(runs(range(3, 3))) == []
    assert list(runs(range(3, 9, 2))) == [(3, 3), (5, 5), (7, 7)]
    assert list(runs([2, 1, 4])) == [(2, 2), (1, 1), (4, 4)], "never a number that is not among them"
