"""Requests that wait for room: in by priority and arrival, out when they fit, when their time is over, or at once."""

from bisect import insort
from collections.abc import Sequence

import anyio

from agent.core.quotas.book import Book, Short
from agent.core.quotas.reservations import Asked, Reservation
from agent.core.quotas.shares import Bucket


class Waiter:
    """One request that waits. `next_ns`: when it may fit by the passing of time alone."""

    __slots__ = ("buckets", "changed", "deadline_ns", "next_ns", "order", "reservation", "short", "wish")

    def __init__(
        self, wish: Asked, buckets: Sequence[Bucket], order: tuple[int, int], deadline_ns: int, short: Sequence[Short]
    ) -> None:
        self.wish = wish
        self.buckets = buckets
        self.order = order  # rank of its class, number of arrival
        self.deadline_ns = deadline_ns
        self.next_ns = deadline_ns
        self.short = short
        self.reservation: Reservation | None = None
        self.changed = anyio.Event()

    def __lt__(self, other: "Waiter") -> bool:
        return self.order < other.order


class WaitingRoom:
    """All waiters of one sidecar. Nobody is served before somebody who came earlier, or goes first, for the same."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self.waiters: list[Waiter] = []
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self.waiters)

    def number(self) -> int:
        """The next number of arrival."""
        self._arrivals += 1
        return self._arrivals

    def enter(self, waiter: Waiter) -> None:
        """Take a place."""
        insort(self.waiters, waiter)
        for bucket in waiter.buckets:
            bucket.waiting += 1

    def leave(self, waiter: Waiter) -> None:
        """Give the place up, served or not; harmless when it was."""
        if waiter in self.waiters:
            self.waiters.remove(waiter)
            for bucket in waiter.buckets:
                bucket.waiting -= 1

    def serve(self, now_ns: int, *, note: bool = False) -> None:
        """Admit who fits now. `note`: say with the next claim what all of them want."""
        blocked: set[Bucket] = set()
        for waiter in list(self.waiters):
            if note:
                self._book.want(waiter.wish, now_ns)
            if not blocked.isdisjoint(waiter.buckets):
                waiter.next_ns = waiter.deadline_ns
                continue
            verdict = self._book.judge(waiter.wish, now_ns)
            if verdict.reservation is None:
                blocked.update(one.bucket for one in verdict.short)
                waiter.short = verdict.short
                waiter.next_ns = self._next(waiter, now_ns)
                continue
            waiter.reservation = verdict.reservation
            self.leave(waiter)
            waiter.changed.set()

    def _next(self, waiter: Waiter, now_ns: int) -> int:
        """When the last of what is short may fit by itself."""
        latest = now_ns
        for one in waiter.short:
            wait = one.share.wait_ns(one.used + one.amount - one.ceiling, now_ns)
            if wait is None:
                return waiter.deadline_ns
            latest = max(latest, now_ns + wait)
        return min(waiter.deadline_ns, max(latest, now_ns + 1_000_000))
