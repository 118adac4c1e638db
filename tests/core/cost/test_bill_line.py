"""The bill clock: ticks add up to the bill, whatever they are cut at."""

from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.bill_line import BillLine


@given(
    st.lists(st.tuples(st.integers(0, 10**7), st.fractions(0, 100, max_denominator=10**6)), min_size=1, max_size=5),
    st.lists(st.integers(0, 10**15), min_size=1, max_size=20),
)
def test_ticks_telescope(segments: list[tuple[int, Fraction]], cuts: list[int]) -> None:
    ordered = [(at * 10**6, price) for at, price in sorted(dict(segments).items())]
    ordered[0] = (0, ordered[0][1])
    line = BillLine(ordered)
    edges = [0, *sorted(cuts)]
    ticks = [line.nano(b) - line.nano(a) for a, b in pairwise(edges)]
    assert all(tick >= 0 for tick in ticks)
    assert sum(ticks) == line.nano(edges[-1])
    end = edges[-1]
    bill = Fraction()
    for i, (start, price) in enumerate(ordered):
        stop = ordered[i + 1][0] if i + 1 < len(ordered) else end
        bill += price * max(0, min(stop, end) - min(start, end))
    assert line.nano(end) == bill.numerator // bill.denominator


def test_before_its_beginning_there_is_no_bill() -> None:
    line = BillLine([(100, Fraction(3, 2)), (200, Fraction(0))])
    assert [line.nano(at) for at in (0, 99, 100, 101, 103, 200, 10**18)] == [0, 0, 0, 1, 4, 150, 150]
