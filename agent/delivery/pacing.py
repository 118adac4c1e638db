"""When to send, how much and how many at once: instants and answers in, decisions out. No clock, no IO.

Instants are boot-clock nanoseconds given as `now_ns`. One object of each kind belongs to one destination.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec import Struct

NS = 1_000_000_000
GROWTH = 16  # a batch size that worked grows by this part of itself
TRIES_UNDER_THE_CEILING = 64  # so many good batches before a size that was refused once is asked for again


class QueueLimits(Struct, frozen=True, kw_only=True):
    """How one queue is delivered. Sizes are those of the items as they lie in the spool."""

    max_items: int = 1000  # of one request
    max_bytes: int = 1 << 20  # of one request; an item larger than this goes alone
    max_concurrency: int = (
        8  # requests at once; 1 keeps the order strictly, a batch that must wait then blocks the rest
    )
    send_seconds: float = 90.0  # a net under the exporter's own timeout
    backoff_seconds: float = 1.0
    backoff_max_seconds: float = 60.0
    retry_after_max_seconds: float = 300.0  # a destination that asks for more is asked again anyway
    paused_seconds: float = 30.0
    refused_in_a_row: int = 100  # then it is not the items: pause
    drain_seconds: float = 3.0  # at the end, for answers that are under way


@dataclass(slots=True)
class Pacing:
    """The gate of one destination and the number of requests that may be under way.

    `started` gives a token that its answer is judged by: of requests that were under way together only the first
    failure counts, and none of their successes opens a gate that was shut after they began. Order of calls for each
    request: `may_start`, `started`, one of `worked`, `answered`, `busy`, `shut`, then `ended`. The first three say
    whether the answer counted.
    """

    limits: QueueLimits
    jitter: Callable[[], float] = random.random
    in_flight: int = 0
    _window: float = 1.0
    _attempts: int = 0
    _opens_ns: int = 0
    _probing: bool = False
    _round: int = 0

    @property
    def concurrency(self) -> int:
        """How many requests may be under way: 1 to `max_concurrency`; after a shut gate one alone."""
        return 1 if self._probing else int(self._window)

    def wait_ns(self, now_ns: int) -> int | None:
        """Nanoseconds until a request may start; 0: now. None: not before one that is under way has ended."""
        if self.in_flight >= self.concurrency:
            return None
        return max(0, self._opens_ns - now_ns)

    def may_start(self, now_ns: int) -> bool:
        return self.wait_ns(now_ns) == 0

    def started(self) -> int:
        self.in_flight += 1
        return self._round

    def ended(self) -> None:
        self.in_flight -= 1

    def worked(self, token: int) -> bool:
        """Everything was stored: one more at once for every full round of these."""
        if token != self._round:
            return False
        full = self.in_flight >= self.concurrency
        self._well()
        if full:
            self._window = min(float(self.limits.max_concurrency), self._window + 1.0 / int(self._window))
        return True

    def answered(self, token: int) -> bool:
        """The destination works and refused something: no reason to wait, none to speed up."""
        if token != self._round:
            return False
        self._well()
        return True

    def busy(self, token: int) -> bool:
        """It took some and asks for time with the others: half as many at once."""
        if token != self._round:
            return False
        self._well()
        self._slow_down()
        return True

    def shut(self, token: int, now_ns: int, after_seconds: float | None, *, paused: bool) -> None:
        """It cannot take anything now. The gate stays shut for a while; then one request goes alone."""
        if token == self._round:
            self._slow_down()
            self._opens_ns = max(self._opens_ns, now_ns + self.delay_ns(self._attempts, after_seconds, paused=paused))
            self._attempts += 1
        else:
            self._opens_ns = max(self._opens_ns, now_ns + self._asked_ns(after_seconds))
        self._probing = True

    def delay_ns(self, attempts: int, after_seconds: float | None, *, paused: bool) -> int:
        """Full jitter up to a ceiling that doubles with each attempt; at least what the destination asked for.

        A pause is `paused_seconds`, give or take a quarter, so that nodes do not ask in step.
        """
        limits = self.limits
        if paused:
            seconds = limits.paused_seconds * (0.75 + self.jitter() / 2)
        else:
            ceiling = min(limits.backoff_max_seconds, limits.backoff_seconds * 2.0 ** min(attempts, 32))
            seconds = self.jitter() * ceiling
        return max(int(seconds * NS), self._asked_ns(after_seconds))

    def _asked_ns(self, after_seconds: float | None) -> int:
        return int(min(max(after_seconds or 0.0, 0.0), self.limits.retry_after_max_seconds) * NS)

    def _well(self) -> None:
        self._attempts = 0
        self._probing = False

    def _slow_down(self) -> None:
        self._window = max(1.0, self._window / 2)
        self._round += 1


@dataclass(slots=True)
class BatchSize:
    """How many bytes one request may carry, learned from what was too large and what was not."""

    max_bytes: int
    bytes: int = field(init=False)
    _ceiling: int = field(init=False)  # under the smallest size that was refused
    _worked: int = 0
    _good: int = 0

    def __post_init__(self) -> None:
        self.bytes = self._ceiling = self.max_bytes

    def too_large(self, size_bytes: int) -> None:
        """So much was refused: go back to the largest size that worked, else to half."""
        if self._worked >= size_bytes:
            self._worked = 0  # the other side has become stricter
        self._good = 0
        self._ceiling = max(1, min(self._ceiling, size_bytes - 1))
        self.bytes = max(1, min(self.bytes, max(self._worked, size_bytes // 2)))

    def worked(self, size_bytes: int) -> None:
        """So much was taken. Sizes near the border let it grow, in small steps, and past a refusal only rarely."""
        self._worked = max(self._worked, size_bytes)
        if self.bytes >= self.max_bytes or size_bytes < self.bytes // 2:
            return
        grown = self.bytes + max(1, self.bytes // GROWTH)
        if grown <= self._ceiling:
            self.bytes = grown
            return
        self._good += 1
        if self._good >= TRIES_UNDER_THE_CEILING:
            self._good = 0
            self._ceiling = min(self.max_bytes, self._ceiling + max(2, self._ceiling // GROWTH * 2))


@dataclass(slots=True)
class Refusals:
    """Items refused one after the other with none stored between: after `limit` of them it is not the items."""

    limit: int
    in_a_row: int = 0

    @property
    def tripped(self) -> bool:
        return self.in_a_row >= self.limit

    def stored(self) -> None:
        self.in_a_row = 0

    def refused(self, count: int) -> int:
        """How many of `count` refused ones are to be given up; at least one, so that no bad item blocks for ever."""
        given_up = min(count, max(1, self.limit - self.in_a_row))
        self.in_a_row += given_up
        return given_up
