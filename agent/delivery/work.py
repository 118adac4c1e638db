"""What is read from the stream and not settled: pieces of work, cut, joined and put back in the order of the stream."""

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class Work(Generic[T]):
    """Items for one request, in order: sequence numbers, bytes as they lie in the spool, decoded values."""

    sequences: Sequence[int]
    items: Sequence[bytes]
    values: Sequence[T]
    size_bytes: int
    due_ns: int = 0  # boot clock
    attempts: int = 0  # answers that asked for time with these items while others were taken
    alone: bool = False  # one of them is refused: not to be joined with others
    reason: str = ""  # why they wait
    paused: bool = False

    def part(self, start: int, stop: int) -> "Work[T]":
        """A run of it."""
        items = self.items[start:stop]
        return self._of(self.sequences[start:stop], items, self.values[start:stop])

    def pick(self, numbers: Sequence[int]) -> "Work[T]":
        """The items with these numbers, 0 being the first."""
        if len(numbers) == len(self.items):
            return self
        if numbers[-1] - numbers[0] == len(numbers) - 1:
            return self.part(numbers[0], numbers[-1] + 1)
        get = itemgetter(*numbers)
        return self._of(get(self.sequences), get(self.items), get(self.values))

    def halves(self, *, alone: bool = False) -> tuple["Work[T]", "Work[T]"]:
        """Two parts of it; both may then be joined with others again unless `alone`."""
        middle = len(self.items) // 2
        first, second = self.part(0, middle), self.part(middle, len(self.items))
        first.alone = second.alone = alone or self.alone
        return first, second

    def within(self, max_items: int, max_bytes: int) -> int:
        """How many of its first items fit; at least one."""
        if self.size_bytes <= max_bytes:
            return min(len(self.items), max_items)
        sums = accumulate(map(len, self.items[:max_items]))
        return max(1, next((n for n, total in enumerate(sums) if total > max_bytes), max_items))

    def joined(self, others: "Sequence[Work[T]]") -> "Work[T]":
        """All of them as one, in the order of the stream."""
        parts = [self, *others]
        sequences = [s for part in parts for s in part.sequences]
        items = [i for part in parts for i in part.items]
        values = [v for part in parts for v in part.values]
        if any(a.sequences[-1] > b.sequences[0] for a, b in pairwise(parts)):
            order = itemgetter(*sorted(range(len(sequences)), key=sequences.__getitem__))
            sequences, items, values = list(order(sequences)), list(order(items)), list(order(values))
        size = sum(part.size_bytes for part in parts)
        return Work(
            sequences,
            items,
            values,
            size,
            attempts=max(part.attempts for part in parts),
            paused=any(part.paused for part in parts),
        )

    def _of(self, sequences: Sequence[int], items: Sequence[bytes], values: Sequence[T]) -> "Work[T]":
        size = sum(map(len, items))
        return Work(sequences, items, values, size, self.due_ns, self.attempts, self.alone, self.reason, self.paused)


def _first_sequence(work: Work[T]) -> int:
    return work.sequences[0]


@dataclass(slots=True)
class Pool(Generic[T]):
    """Work that waits to be sent, the oldest first. `items` and `size_bytes` are sums."""

    items: int = 0
    size_bytes: int = 0
    _works: list[Work[T]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._works)

    def put(self, work: Work[T]) -> None:
        insort(self._works, work, key=_first_sequence)
        self.items += len(work.items)
        self.size_bytes += work.size_bytes

    def take(self, now_ns: int, max_items: int, max_bytes: int, *, ordered: bool) -> Work[T] | None:
        """The oldest work that is due, cut or filled up to the given sizes. `ordered`: nothing overtakes."""
        works = self._works
        at = next((n for n, work in enumerate(works[: 1 if ordered else None]) if work.due_ns <= now_ns), None)
        if at is None:
            return None
        work = self._remove(at)
        fitting = work.within(max_items, max_bytes)
        if fitting < len(work.items):
            self.put(work.part(fitting, len(work.items)))
            return work.part(0, fitting)
        more: list[Work[T]] = []
        room_items, room_bytes = max_items - fitting, max_bytes - work.size_bytes
        while not work.alone and at < len(works):
            following = works[at]
            if following.alone or len(following.items) > room_items or following.size_bytes > room_bytes:
                break
            if following.due_ns > now_ns:
                if ordered:
                    break
                at += 1
                continue
            more.append(self._remove(at))
            room_items, room_bytes = room_items - len(following.items), room_bytes - following.size_bytes
        return work.joined(more) if more else work

    def next_due_ns(self, *, ordered: bool) -> int | None:
        """When the next work is due; None when there is none."""
        if not self._works:
            return None
        return self._works[0].due_ns if ordered else min(work.due_ns for work in self._works)

    def fresh(self) -> tuple[int, int]:
        """Items and bytes of what was not put off: how far the reading is ahead of the sending."""
        works = [work for work in self._works if not work.attempts]
        return sum(len(work.items) for work in works), sum(work.size_bytes for work in works)

    def held_back(self) -> Work[T] | None:
        """The oldest work that the destination asked time for."""
        return next((work for work in self._works if work.reason), None)

    def _remove(self, at: int) -> Work[T]:
        work = self._works.pop(at)
        self.items -= len(work.items)
        self.size_bytes -= work.size_bytes
        return work
