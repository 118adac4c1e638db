"""A window and its edges in; which buckets of which grain hold it, and what it really covers, out. Pure.

Days are read before hours, and hours before minutes. A minute belongs where it begins. Where minutes are no longer kept
the window grows to whole hours, where hours are not kept to whole days; a bucket that an edge cuts belongs to the step
in which it begins.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from agent.core.cost.calendar import MINUTE_NS
from agent.ledger.rollup import Eras
from agent.ledger.tables import DAY, HOUR, MINUTE

GRAIN_NAMES = {MINUTE: "minutes", HOUR: "hours", DAY: "days"}


class Range(NamedTuple):
    """Buckets of one grain that begin in [first, end), Unix minutes, all of step number `step`."""

    step: int
    grain: int
    first: int
    end: int


class Kept(NamedTuple):
    """What the ledger holds, in Unix minutes."""

    first: int  # nothing was booked before
    end: int  # nothing was booked from here on
    rolled: int  # before it, hours and days hold everything, too; from it on only minutes do
    minutes_from: int  # minutes before it were forgotten
    hours_from: int
    eras: Eras

    def bounds(self, grain: int, minute: int) -> tuple[int, int]:
        """The bucket of a grain that holds a minute."""
        if grain == MINUTE:
            return minute, minute + 1
        return self.eras.hour(minute) if grain == HOUR else self.eras.day(minute)

    def finest(self, minute: int) -> int:
        """The finest grain that the time around a minute can be cut by: of a day, hours are kept all or not at all."""
        if minute >= self.rolled:
            return MINUTE
        if self.bounds(DAY, minute)[0] < self.hours_from:
            return DAY
        return MINUTE if self.bounds(HOUR, minute)[0] >= self.minutes_from else HOUR

    def bucket(self, minute: int) -> tuple[int, int]:
        """The finest bucket that is kept and holds a minute."""
        start, end = self.bounds(self.finest(minute), minute)
        return start, (end if minute >= self.rolled else min(end, self.rolled))


class Window(NamedTuple):
    """What a question is answered from."""

    start_ns: int
    end_ns: int
    steps: tuple[tuple[int, int], ...]  # [start, end) of each, as shown
    ranges: tuple[Range, ...]
    widened: tuple[int, ...]  # grains to which an end or an edge was moved


def cover(start_ns: int, end_ns: int, edges: Sequence[int], kept: Kept) -> Window:
    """Ranges that hold every bucket of the window once, and the steps between its edges."""
    widened: list[int] = []
    marks: list[tuple[int, int]] = []  # (first minute, instant that is shown)
    for place, at_ns in enumerate((start_ns, *sorted(edges), end_ns)):
        minute = -(-at_ns // MINUTE_NS)
        moved = _aligned(minute, at_ns, kept, down=place == 0)
        if moved is None:
            marks.append((minute, at_ns))
        else:
            widened.append(kept.finest(at_ns // MINUTE_NS))
            marks.append((moved, moved * MINUTE_NS))
    first, last = marks[0], max(marks[-1], marks[0])
    cuts = [first, *sorted({mark for mark in marks[1:-1] if first[1] < mark[1] < last[1]}), last]
    steps = [(a[1], b[1]) for a, b in pairwise(cuts)]
    ranges: list[Range] = []
    for number, (a, b) in enumerate(pairwise(cuts)):
        begin, end = max(a[0], kept.first), min(b[0], kept.end)
        if begin < end:
            _fill(ranges, number, DAY, begin, end, kept)
    return Window(first[1], last[1], tuple(steps), tuple(ranges), tuple(sorted(set(widened))))


def whole(kept: Kept, finest: int) -> list[Range]:
    """Ranges that hold everything once, with buckets of grain `finest` as far back as they are kept."""
    rolled = min(max(kept.rolled, kept.first), kept.end)
    marks = [kept.first]  # where each grain takes over from the one before
    for grain, kept_from in ((HOUR, kept.hours_from), (MINUTE, kept.minutes_from)):
        if finest > grain:
            marks.append(rolled)
        else:
            start, end = kept.bounds(grain + 1, max(kept_from, marks[-1]))
            marks.append(min(rolled, start if start == max(kept_from, marks[-1]) else end))
    marks.append(kept.end)
    found = [Range(0, grain, a, b) for grain, (a, b) in zip((DAY, HOUR, MINUTE), pairwise(marks), strict=True)]
    return [piece for piece in found if piece.first < piece.end]


def _aligned(minute: int, at_ns: int, kept: Kept, *, down: bool) -> int | None:
    """Where a mark has to be because a coarser bucket holds it; None: where it is, give or take a minute."""
    inside = at_ns // MINUTE_NS
    if not kept.first <= inside < min(kept.end, kept.rolled):
        return None
    start, end = kept.bucket(inside)
    if minute in (start, end):
        return None
    return start if down else end


def _fill(ranges: list[Range], step: int, grain: int, begin: int, end: int, kept: Kept) -> None:
    """Cover [begin, end) by whole buckets of a grain, and what is left at both ends by finer ones."""
    if begin >= end:
        return
    if grain == MINUTE:
        ranges.append(Range(step, MINUTE, begin, end))
        return
    start, after = kept.bounds(grain, begin)
    first = begin if start == begin else after
    # A bucket that is not over yet holds what is rolled of it.
    last = kept.rolled if end >= kept.rolled else kept.bounds(grain, end)[0]
    if first >= last:
        _fill(ranges, step, grain - 1, begin, end, kept)
        return
    _fill(ranges, step, grain - 1, begin, first, kept)
    ranges.append(Range(step, grain, first, last))
    _fill(ranges, step, grain - 1, last, end, kept)
