"""Pieces of work by tables; the pool by hypothesis: nothing is lost, doubled or out of order."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.delivery.work import Pool, Work


def work(first: int, *sizes: int, due: int = 0, alone: bool = False) -> Work[int]:
    sequences = range(first, first + len(sizes))
    return Work(sequences, [bytes(size) for size in sizes], list(sequences), sum(sizes), due_ns=due, alone=alone)


def numbers(piece: Work[int] | None) -> list[int]:
    return [] if piece is None else list(piece.sequences)


@pytest.mark.parametrize(
    ("sizes", "max_items", "max_bytes", "fitting"),
    [
        ((1, 1, 1), 10, 10, 3),
        ((1, 1, 1), 2, 10, 2),
        ((5, 5, 5), 10, 10, 2),
        ((5, 5, 5), 1, 10, 1),
        ((50, 5), 10, 10, 1),  # alone, though it is too large
        ((5, 50), 10, 10, 1),
        ((1,) * 5 + (50,), 3, 10, 3),
        ((0, 0, 0), 10, 1, 3),
    ],
)
def test_how_many_fit(sizes, max_items, max_bytes, fitting):
    assert work(1, *sizes).within(max_items, max_bytes) == fitting


def test_parts_keep_what_is_known_of_them():
    whole = work(10, 1, 2, 3, 4)
    whole.due_ns, whole.attempts, whole.reason, whole.paused = 7, 2, "later", True
    some = whole.pick([0, 2])
    assert (list(some.sequences), some.values, some.size_bytes) == ([10, 12], (10, 12), 4)
    assert (some.due_ns, some.attempts, some.reason, some.paused) == (7, 2, "later", True)
    assert whole.pick([0, 1, 2, 3]) is whole
    assert numbers(whole.pick([3])) == [13]
    first, second = whole.halves(alone=True)
    assert (numbers(first), numbers(second), first.alone, second.alone) == ([10, 11], [12, 13], True, True)
    assert (first.size_bytes, second.size_bytes) == (3, 7)


def test_joining_puts_the_order_of_the_stream_back():
    odd, even = work(1, 1, 2, 3, 4).pick([0, 2]), work(1, 1, 2, 3, 4).pick([1, 3])
    both = odd.joined([even])
    assert list(both.sequences) == both.values == [1, 2, 3, 4]
    assert [len(item) for item in both.items] == [1, 2, 3, 4]
    assert both.size_bytes == 10


def test_the_oldest_goes_first_and_is_filled_up_with_what_follows():
    pool = Pool[int]()
    for piece in (work(5, 1, 1), work(1, 1, 1), work(3, 1, 1)):
        pool.put(piece)
    assert numbers(pool.take(0, 5, 100, ordered=False)) == [1, 2, 3, 4]  # the next would be cut
    assert numbers(pool.take(0, 1, 100, ordered=False)) == [5]
    assert (pool.items, pool.size_bytes, len(pool)) == (1, 1, 1)
    assert numbers(pool.take(0, 5, 100, ordered=False)) == [6]
    assert pool.take(0, 5, 100, ordered=False) is None
    assert pool.next_due_ns(ordered=True) is None


def test_what_is_put_off_is_overtaken_unless_order_matters():
    def made() -> Pool[int]:
        pool = Pool[int]()
        for piece in (work(1, 1, due=100), work(2, 1), work(3, 1, due=50), work(4, 1)):
            pool.put(piece)
        return pool

    pool = made()
    assert (pool.next_due_ns(ordered=False), pool.next_due_ns(ordered=True)) == (0, 100)
    assert numbers(pool.take(0, 9, 99, ordered=False)) == [2, 4]
    assert numbers(pool.take(50, 9, 99, ordered=False)) == [3]
    assert numbers(pool.take(100, 9, 99, ordered=False)) == [1]
    pool = made()
    assert pool.take(99, 9, 99, ordered=True) is None
    assert numbers(pool.take(100, 9, 99, ordered=True)) == [1, 2, 3, 4]


def test_ordered_filling_stops_at_what_is_not_due():
    pool = Pool[int]()
    for piece in (work(1, 1), work(2, 1, due=50), work(3, 1)):
        pool.put(piece)
    assert numbers(pool.take(0, 9, 99, ordered=True)) == [1]


def test_suspects_stay_alone():
    pool = Pool[int]()
    for piece in (work(1, 1), work(2, 1, 1, alone=True), work(4, 1)):
        pool.put(piece)
    assert [numbers(pool.take(0, 9, 99, ordered=False)) for _ in range(3)] == [[1], [2, 3], [4]]


def test_what_is_put_off_does_not_count_as_read_ahead():
    pool = Pool[int]()
    back = work(1, 5, 5)
    back.attempts, back.reason = 1, "busy"
    pool.put(work(3, 7))
    pool.put(back)
    assert pool.fresh() == (1, 7)
    assert pool.held_back() is back


pieces = st.lists(
    st.tuples(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 3), st.booleans()), max_size=12
)
takes = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 20), st.booleans(), st.booleans()), max_size=60)


@given(pieces, takes, st.booleans())
def test_everything_comes_out_once_whatever_is_put_back(given_pieces, given_takes, ordered):
    pool, first = Pool[int](), 1
    for sizes, due, alone in given_pieces:
        pool.put(work(first, *sizes, due=due, alone=alone))
        first += len(sizes)
    out: list[int] = []
    for turn, (max_items, max_bytes, back, split) in enumerate(given_takes):
        piece = pool.take(turn % 4, max_items, max_bytes, ordered=ordered)
        if piece is None:
            continue
        found = numbers(piece)
        assert found == sorted(found)
        assert piece.values == found or list(piece.values) == found
        assert piece.size_bytes == sum(map(len, piece.items))
        assert len(found) <= max_items
        assert piece.size_bytes <= max_bytes or len(found) == 1
        if split and len(found) > 1:
            for half in piece.halves():
                pool.put(half)
        elif back:
            pool.put(piece.pick(range(0, len(found), 2)))
            out += found[1::2]
        else:
            out += found
    if ordered and not any(back for _, _, back, _ in given_takes):
        assert all(a < b for a, b in pairwise(out))
    while (piece := pool.take(99, 5, 15, ordered=ordered)) is not None:
        out += numbers(piece)
    assert sorted(out) == list(range(1, first))
    assert (pool.items, pool.size_bytes, len(pool)) == (0, 0, 0)
