"""Proxied requests of an engine in; how many tokens they had, and how many were open, at any instant of late, out.

The same as `Live.tokens_at` of each, for thousands at once. Events that contradict their request's end are left out.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from agent.core.cost.exact import Ints
from agent.core.cost.live import Live

OPEN = 1 << 62  # as an end: not known yet
REVISED = "lost"  # outcome of a request whose end may still be told otherwise


class Ended(NamedTuple):
    """Requests that are over: when, how long they took, how many tokens they wrote."""

    ended_ns: Ints
    in_flight_ns: Ints
    tokens: Ints


class Counted:
    """What is known of requests: one row each, and the straight lines between what was told of their tokens."""

    __slots__ = ("_began", "_ended", "_first_silent", "_lines", "_tokens")

    def __init__(self, requests: Iterable[Live] = ()) -> None:
        began: list[int] = []
        ended: list[int] = []
        totals: list[int] = []
        counts: list[int] = []  # marks of each request: its first token, events, its end
        marks_at: list[int] = []
        marks: list[int] = []
        first_silent = OPEN
        for request in requests:  # all at once: each look at one of so many costs a miss of the cache
            start, end, points = request.started_ns, request.ended_ns, request.points
            tokens = points[-1][1] if points else 0
            began.append(start)
            marks_at.append(request.first_token_ns or start)
            marks.append(0)
            count = len(points) + 1
            if points and (end is None or points[-1][0] < end):
                marks_at += [point[0] for point in points]
                marks += [point[1] for point in points]
            elif points:
                told = [point for point in points if end is None or point[0] < end]
                marks_at += [point[0] for point in told]
                marks += [point[1] for point in told]
                count = len(told) + 1
            if end is None:
                ended.append(OPEN)
                if not points and start < first_silent:
                    first_silent = start
            else:
                tokens = request.usage.output_tokens or tokens
                ended.append(end)
                marks_at.append(end)
                marks.append(tokens)
                count += 1
            counts.append(count)
            totals.append(tokens)
        self._first_silent = first_silent
        self._began, self._ended, self._tokens = _array(began), _array(ended), _array(totals)
        self._lines = _lines(_array(counts), _array(marks_at), _array(marks), self._ended)

    def and_(self, other: "Counted") -> "Counted":
        """All requests of both."""
        both = Counted.__new__(Counted)
        both._first_silent = min(self._first_silent, other._first_silent)
        both._began = np.concatenate([self._began, other._began])
        both._ended = np.concatenate([self._ended, other._ended])
        both._tokens = np.concatenate([self._tokens, other._tokens])
        both._lines = np.concatenate([self._lines, other._lines], axis=1)
        return both

    def parted(self, until_ns: int) -> tuple[Ended, "Counted"]:
        """Those that ended by `until_ns`, and the others."""
        over = self._ended <= until_ns
        ended = Ended(self._ended[over], (self._ended - self._began)[over], self._tokens[over])
        others = Counted.__new__(Counted)
        others._first_silent = self._first_silent
        others._began, others._ended, others._tokens = self._began[~over], self._ended[~over], self._tokens[~over]
        others._lines = self._lines[:, self._lines[4] > until_ns]
        return ended, others

    def is_silent(self, at_ns: int) -> bool:
        """True if of any it is unknown how many tokens it had."""
        return self._first_silent < at_ns

    def in_flight(self, at_ns: int) -> int:
        """Requests that were under way."""
        return int(((self._began <= at_ns) & (self._ended > at_ns)).sum())

    def was_quiet(self, from_ns: int, until_ns: int) -> bool:
        """True if none was under way since `from_ns`, before `until_ns`."""
        return not bool(((self._began < until_ns) & (self._ended > from_ns)).any())

    def tokens(self, at_ns: int, ended_after_ns: int) -> int:
        """Output tokens by `at_ns` of those that are open, or ended after `ended_after_ns`."""
        begin, until, before, after, ended = self._lines
        counts = ended > ended_after_ns
        over = until <= at_ns
        under_way = counts & ~over & (begin < at_ns)
        begin, until, low, high = begin[under_way], until[under_way], before[under_way], after[under_way]
        over &= counts
        whole = int(after[over].sum() - before[over].sum())
        return whole + int(((high - low) * (at_ns - begin) // (until - begin)).sum())


class Told:
    """All requests of one engine that may still matter; looks again only at those whose end is not known."""

    def __init__(self, requests: Iterable[Live] = ()) -> None:
        self._open = {request.id: request for request in requests}
        self._ended = Counted()

    def add(self, request: Live) -> None:
        """It began."""
        self._open[request.id] = request

    def remove(self, request: Live) -> None:
        """It is another engine's."""
        self._open.pop(request.id, None)

    def counted(self, through_ns: int) -> Counted:
        """All of them, as told so far; `through_ns`: up to there everything is closed and stays as it is."""
        open_, ended = [], []
        for request in self._open.values():
            end = request.ended_ns
            if end is None or (request.outcome == REVISED and end > through_ns):
                open_.append(request)
            else:
                ended.append(request)
        if ended:
            self._ended = self._ended.and_(Counted(ended))
            for request in ended:
                del self._open[request.id]
        return self._ended.and_(Counted(open_))

    def take_ended(self, until_ns: int) -> Ended:
        """Those that ended by `until_ns`; they are forgotten here."""
        ended, self._ended = self._ended.parted(until_ns)
        return ended


def _lines(counts: Ints, at: Ints, tokens: Ints, ended: Ints) -> Ints:
    """Rows: from, until, tokens before and after, and the end of the line's request."""
    of = np.repeat(np.arange(len(counts)), counts)
    same = of[1:] == of[:-1]
    columns = (at[:-1], at[1:], tokens[:-1], tokens[1:], ended[of[1:]])
    return np.array([column[same] for column in columns], dtype=np.int64)


def _array(values: Sequence[int]) -> Ints:
    return np.array(values, dtype=np.int64)
