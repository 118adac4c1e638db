"""Items that a reader can have at once: chunks in, in order, batches of the size asked for out. Pure."""

from collections import deque
from collections.abc import Sequence

from agent.spool.batch import Batch

ITEM_BYTES = 48  # of memory that an item takes beside its own bytes (sys.getsizeof, and its place in a list)


class Shelf:
    """What was made durable or read from the disk and not yet taken. `size_bytes` is the memory it takes."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[range, list[bytes], int]] = deque()  # the last is the sum of the items' lengths
        self.size_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def add(self, sequences: range, items: list[bytes], size: int) -> None:
        """Items with their numbers, `size` bytes in all; higher numbers than any before. The list is kept."""
        self._chunks.append((sequences, items, size))
        self.size_bytes += size + ITEM_BYTES * len(items)

    def take(self, max_items: int, max_bytes: int) -> Batch:
        """The first items: at least one, else within the bounds."""
        numbers, items, size = self._next(max_items, max_bytes, 1)
        ranges = [numbers]
        own = False  # whether the list is ours to extend
        while self._chunks and len(items) < max_items and size < max_bytes:
            numbers, more, taken = self._next(max_items - len(items), max_bytes - size, 0)
            if not more:
                break
            if not own:
                items, own = list(items), True
            items.extend(more)
            size += taken
            if numbers.start == ranges[-1].stop:
                ranges[-1] = range(ranges[-1].start, numbers.stop)
            else:
                ranges.append(numbers)
        sequences: Sequence[int] = ranges[0] if len(ranges) == 1 else [n for numbers in ranges for n in numbers]
        return Batch(sequences, items)

    def _next(self, max_items: int, max_bytes: int, least: int) -> tuple[range, list[bytes], int]:
        """Off the first chunk, with the bytes taken: `least` items, more within the bounds."""
        sequences, items, whole = self._chunks[0]
        if len(items) <= max_items and whole <= max_bytes:
            self._chunks.popleft()
            self.size_bytes -= whole + ITEM_BYTES * len(items)
            return sequences, items, whole
        count = size = 0
        for item in items[:max_items]:
            if count >= least and size + len(item) > max_bytes:
                break
            size += len(item)
            count += 1
        if count == len(items):
            self._chunks.popleft()
        else:
            self._chunks[0] = (sequences[count:], items[count:], whole - size)
        self.size_bytes -= size + ITEM_BYTES * count
        return sequences[:count], items[:count], size
