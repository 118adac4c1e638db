"""Chunks in, batches out: nothing lost, in order, within the bounds."""

from hypothesis import given
from hypothesis import strategies as st

from agent.spool.shelf import ITEM_BYTES, Shelf


@given(
    st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 30), min_size=1, max_size=8))),
    st.integers(1, 12),
    st.integers(1, 80),
)
def test_batches_are_the_chunks(chunks: list[tuple[int, list[int]]], max_items: int, max_bytes: int) -> None:
    shelf, put, number = Shelf(), list[tuple[int, bytes]](), 1
    for gap, sizes in chunks:
        number += gap
        items = [f"{number + at}".encode().ljust(size, b".")[:size] for at, size in enumerate(sizes)]
        shelf.add(range(number, number + len(items)), items, sum(sizes))
        put += list(enumerate(items, number))
        number += len(items)
    assert shelf.size_bytes == sum(len(item) + ITEM_BYTES for _, item in put)
    got: list[tuple[int, bytes]] = []
    while shelf:
        batch = shelf.take(max_items, max_bytes)
        size = sum(map(len, batch.items))
        assert 1 <= len(batch.items) == len(batch.sequences) <= max_items
        assert size <= max_bytes or len(batch.items) == 1
        assert len(batch.items) == max_items or not shelf or size + len(put[len(got) + len(batch.items)][1]) > max_bytes
        got += zip(batch.sequences, batch.items, strict=True)
    assert got == put
    assert shelf.size_bytes == 0


def test_a_batch_without_holes_has_a_range() -> None:
    shelf = Shelf()
    shelf.add(range(1, 3), [b"a", b"b"], 2)
    shelf.add(range(3, 4), [b"c"], 1)
    shelf.add(range(9, 10), [b"d"], 1)
    assert shelf.take(3, 100).sequences == range(1, 4)
    assert shelf.take(3, 100) == (range(9, 10), [b"d"])
