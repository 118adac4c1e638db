"""Which sequence numbers are settled: everything up to a mark, and ranges above it. Pure."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence


class Acks:
    """Settled numbers of one stream, as few numbers as there are holes."""

    def __init__(self, through: int = 0, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self.through = through  # every number up to this one is settled
        self._firsts: list[int] = []  # ranges above it: disjoint, ascending, not touching
        self._lasts: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def add(self, first: int, last: int) -> None:
        """Settle `first` to `last`. Raises ValueError when one of them is settled already."""
        if last < first:
            raise ValueError(f"{first} to {last} is no range")
        at = bisect_left(self._firsts, first)
        before = self._lasts[at - 1] if at else self.through
        after = self._firsts[at] if at < len(self._firsts) else None
        if first <= before or (after is not None and last >= after):
            raise ValueError(f"{first} to {last}: some of it is settled already")
        joins_before, joins_after = first == before + 1, after == last + 1
        if joins_before and at == 0:
            self.through = last
            if joins_after:
                self.through = self._lasts.pop(0)
                del self._firsts[0]
        elif joins_before and joins_after:
            self._lasts[at - 1] = self._lasts.pop(at)
            del self._firsts[at]
        elif joins_before:
            self._lasts[at - 1] = last
        elif joins_after:
            self._firsts[at] = first
        else:
            self._firsts.insert(at, first)
            self._lasts.insert(at, last)

    def ranges(self) -> list[tuple[int, int]]:
        """The settled ranges above `through`, inclusive."""
        return list(zip(self._firsts, self._lasts, strict=True))

    def settled(self) -> int:
        """How many numbers are settled in all."""
        return self.through + sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def unsettled(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The ranges within `first` to `last` that are not settled."""
        at = max(first, self.through + 1)
        index = bisect_left(self._lasts, at)
        while at <= last:
            if index == len(self._firsts) or self._firsts[index] > last:
                yield at, last
                return
            if self._firsts[index] > at:
                yield at, self._firsts[index] - 1
            at = self._lasts[index] + 1
            index += 1


def runs(sequences: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Numbers as inclusive ranges without holes; as few as there can be where they ascend."""
    if not sequences:
        return
    if isinstance(sequences, range) and sequences.step == 1:
        yield sequences[0], sequences[-1]
        return
    first = last = sequences[0]
    for number in sequences[1:]:
        if number != last + 1:
            yield first, last
            first = number
        last = number
    yield first, last
