"""Event numbers of one start of one sidecar in, what is new and what never came out. Pure.

Numbers may come again, in any order, with holes. A hole is remembered: what fills it later is new, not repeated.
"""

from bisect import bisect_left

import msgspec

MAX_GAPS = 256
"""Holes remembered. Of more, the lowest is given up for lost: what comes of it later is taken for repeated."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(list[int])


class Numbers:
    """Which numbers from 1 on have come. `through` is the highest of them, 0 before the first."""

    __slots__ = ("_gaps", "given_up", "through")

    def __init__(self, through: int = 0, holes: str | None = None) -> None:
        self.through = through
        self.given_up = 0
        self._gaps: list[tuple[int, int]] = []  # ascending, disjoint, both ends belong to it
        if holes is not None:
            self.given_up, *ends = _decoder.decode(holes)
            self._gaps = list(zip(ends[::2], ends[1::2], strict=True))

    @property
    def holes(self) -> str | None:
        """What the constructor takes; None when nothing is missing."""
        if not self._gaps and not self.given_up:
            return None
        return _encoder.encode([self.given_up, *(end for gap in self._gaps for end in gap)]).decode()

    @property
    def missing(self) -> int:
        """How many numbers did not come although later ones did.

        Those before the very first that came are not counted: this ledger, or this sender's name, is younger than they.
        """
        return self.given_up + sum(last - first + 1 for first, last in self._gaps if first > 1)

    def add(self, number: int) -> bool:
        """True when `number` (at least 1) comes for the first time."""
        if number > self.through:
            if number > self.through + 1:
                self._gaps.append((self.through + 1, number - 1))
                if len(self._gaps) > MAX_GAPS:
                    self._give_up()
            self.through = number
            return True
        return self._fill(number) if self._gaps else False

    def _fill(self, number: int) -> bool:
        at = bisect_left(self._gaps, (number + 1,)) - 1
        if at < 0 or self._gaps[at][1] < number:
            return False
        first, last = self._gaps[at]
        self._gaps[at : at + 1] = [part for part in ((first, number - 1), (number + 1, last)) if part[0] <= part[1]]
        if len(self._gaps) > MAX_GAPS:
            self._give_up()
        return True

    def _give_up(self) -> None:
        first, last = self._gaps.pop(0)
        if first > 1:
            self.given_up += last - first + 1
