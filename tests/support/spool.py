"""A stream of the spool without its event loop: what `Stream` does with a `Log`, one call after the other."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from agent.spool.acks import Acks, runs
from agent.spool.bounds import Bounds
from agent.spool.files import Files
from agent.spool.log import Log, Written
from agent.spool.marks import Marks

NAME = "records"
AT_NS = 1_800_000_000_000_000_000


def open_log(
    folder: Path,
    files: Files | None = None,
    *,
    segment_bytes: int = 1024,
    max_segments: int = 6,
    max_bytes: int = 1 << 40,
    min_free_bytes: int = 0,
) -> Log:
    """A log with bounds of its own."""
    files = files or Files()
    bounds = Bounds(folder, files, max_bytes=max_bytes, min_free_bytes=min_free_bytes, weights={NAME: 1.0})
    return Log(folder, NAME, bounds, files, segment_bytes=segment_bytes, max_segments=max_segments)


def everything(log: Log, first: int = 1) -> dict[int, bytes]:
    """All items from `first` on that can be read, settled or not."""
    found: dict[int, bytes] = {}
    position, sequence = log.start(first), first
    while sequence <= log.committed:
        pieces, _, position, following = log.read(position, sequence, 1 << 20)
        assert following > sequence, "reading must go on"
        sequence = following
        for piece in pieces:
            found.update((piece.first + at, item) for at, item in enumerate(piece.items))
    return found


class Desk:
    """One life of a stream: from one opening to the next."""

    def __init__(self, log: Log) -> None:
        self.log = log
        found = log.recovered
        self.acks = Acks(found.marks.through, found.marks.ranges)
        self.results = Counter(found.marks.results)
        self.lost: set[int] = set()
        missing = self.acks.settled() - self.results.total()
        if missing:
            self.results["unknown"] += missing
        for lost in found.lost:
            self._lose(lost.first, lost.last, lost.reason if found.gaps_are_lost else "unknown")
        self.sequence = self.acks.through + 1
        self.position = log.start(self.sequence)

    @property
    def accepted(self) -> int:
        return self.log.committed

    @property
    def waiting(self) -> int:
        return self.accepted - self.acks.settled()

    def write(self, items: Sequence[bytes]) -> Written:
        return self.log.write(items, AT_NS)

    def read(self, max_bytes: int = 1, *, salvage: bool = True) -> dict[int, bytes]:
        """The next unsettled items, in order. Raises `OSError`, with nothing taken."""
        found: dict[int, bytes] = {}
        while not found and self.sequence <= self.log.committed:
            pieces, lost, self.position, self.sequence = self.log.read(
                self.position, self.sequence, max_bytes, salvage=salvage
            )
            for piece in pieces:
                for first, last in self.acks.unsettled(piece.first, piece.first + len(piece.items) - 1):
                    found.update((number, piece.items[number - piece.first]) for number in range(first, last + 1))
            for gap in lost:
                self._lose(gap.first, gap.last, gap.reason)
        return found

    def read_all(self) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        while self.sequence <= self.log.committed:
            more = self.read(1 << 20)
            assert not more or not found or min(more) > max(found), "out of order"
            found |= more
        return found

    def settle(self, numbers: Iterable[int], result: str = "delivered") -> None:
        numbers = sorted(numbers)
        for first, last in runs(numbers):
            self.acks.add(first, last)
        self.results[result] += len(numbers)

    def _lose(self, first: int, last: int, reason: str) -> None:
        for begin, end in list(self.acks.unsettled(first, last)):
            self.acks.add(begin, end)
            self.results[reason if reason == "unknown" else f"dropped:{reason}"] += end - begin + 1
            self.lost.update(range(begin, end + 1))

    def marks(self) -> Marks:
        return Marks(
            stream=self.log.stream,
            committed=self.log.committed,
            through=self.acks.through,
            ranges=tuple(self.acks.ranges()),
            results=dict(self.results),
        )

    def save(self) -> bool:
        return self.log.save(self.marks())

    def close(self) -> None:
        """A clean stop."""
        self.save()
        self.log.close()

    def check(self) -> None:
        """The identity of the numbers."""
        assert self.waiting >= 0
        assert self.accepted == self.waiting + self.results.total(), (self.accepted, self.waiting, self.results)
