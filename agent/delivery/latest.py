"""Latest-state delivery: of each item only its newest state goes out, to every destination on its own account.

Items come in by `offer`; they leave through an `Exporter` per destination. What is open (an alert that fires) is
repeated, what is closed (a resolved one) is kept until the destination has confirmed it and repeated for a while after.
A queue would be wrong here: a late retry of an old state undoes a newer one.
"""

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import anyio
import structlog

from agent.clock import NS, boot_ns
from agent.core.ports import Exporter, Rejected, TooLarge, TryLater, Verdict
from agent.delivery.verdicts import Answer, not_one_each, sorted_out

log = structlog.get_logger()

T = TypeVar("T")

BATCH_ITEMS = 64
BACKOFF_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 30.0
RETRY_AFTER_MAX_SECONDS = 300.0  # a destination that asks for more is asked again anyway
CLOSED_REPEATED_NS = 5 * 60 * NS  # after the confirmation: Alertmanager's clients are asked to do so
CLOSED_KEPT_NS = 24 * 3600 * NS  # without a confirmation
DRAIN_SECONDS = 3.0
REFUSED_RESENDS = 10  # a refused item is offered again after so many resend intervals, or when its state changes


@dataclass(slots=True)
class DeliveryCounts:
    """What happened at one destination since the start, in items; `retried` counts requests."""

    delivered: int = 0
    rejected: int = 0
    retried: int = 0
    expired: int = 0  # closed, never confirmed within 24 h
    dropped: int = 0  # no room
    failing: str = ""  # why the destination cannot be reached; empty when the last request went well
    last_confirmed_boot_ns: int | None = None


@dataclass(slots=True)
class _Entry(Generic[T]):
    item: T
    state: Hashable
    closed_ns: int | None  # boot clock; None while open
    due_ns: int
    confirmed: bool = False  # the destination has confirmed `state`
    confirmed_ns: int | None = None


@dataclass(slots=True)
class Outbox(Generic[T]):
    """What one destination has still to be told. No clock and no IO; instants are boot-clock nanoseconds."""

    resend_ns: int
    max_items: int = 10_000
    jitter: Callable[[], float] = random.random
    counts: DeliveryCounts = field(default_factory=DeliveryCounts)
    _entries: dict[str, _Entry[T]] = field(default_factory=dict)
    _attempts: int = 0
    _not_before_ns: int = 0

    def offer(self, key: str, item: T, state: Hashable, closed: bool, now_ns: int) -> None:
        """The newest state of `key`. It is sent at once when `state` changed, else at the next repeat."""
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= self.max_items:
                self.counts.dropped += 1
                return
            self._entries[key] = _Entry(item, state, now_ns if closed else None, now_ns)
            return
        entry.item = item
        if entry.state != state:
            self._entries[key] = _Entry(item, state, now_ns if closed else None, now_ns)

    def pending(self) -> int:
        """Items whose newest state the destination has not confirmed."""
        return sum(not entry.confirmed for entry in self._entries.values())

    def next_due_ns(self) -> int | None:
        """When there is something to send; None when there is nothing at all."""
        if not self._entries:
            return None
        return max(self._not_before_ns, min(entry.due_ns for entry in self._entries.values()))

    def take(self, now_ns: int, *, unconfirmed_only: bool = False) -> list[tuple[str, _Entry[T]]]:
        """Up to 64 due items, those the destination knows nothing of first."""
        self._forget(now_ns)
        if now_ns < self._not_before_ns:
            return []
        due = [
            (k, e) for k, e in self._entries.items() if e.due_ns <= now_ns and not (unconfirmed_only and e.confirmed)
        ]
        due.sort(key=lambda pair: (pair[1].confirmed, pair[1].due_ns))
        return due[:BATCH_ITEMS]

    def confirm(self, batch: Sequence[tuple[str, _Entry[T]]], now_ns: int) -> None:
        """The destination has these. An entry replaced while it was under way stays due."""
        self._attempts = 0
        self._not_before_ns = 0
        self.counts.delivered += len(batch)
        self.counts.last_confirmed_boot_ns = now_ns
        for _, entry in batch:
            entry.due_ns = now_ns + self.resend_ns
            if not entry.confirmed:
                entry.confirmed, entry.confirmed_ns = True, now_ns

    def refuse(self, key: str, entry: _Entry[T], now_ns: int) -> None:
        """The destination will not take this item in this state."""
        self.counts.rejected += 1
        if entry.closed_ns is not None and self._entries.get(key) is entry:
            del self._entries[key]  # there is no later state to hope for
        entry.due_ns = now_ns + REFUSED_RESENDS * self.resend_ns

    def postpone(self, after_seconds: float | None, now_ns: int) -> None:
        """The destination cannot answer: back off, doubling, with full jitter, or as long as it asks for."""
        self.counts.retried += 1
        ceiling = min(BACKOFF_MAX_SECONDS, BACKOFF_SECONDS * 2.0 ** min(self._attempts, 16))
        self._attempts += 1
        delay = max(self.jitter() * ceiling, min(after_seconds or 0.0, RETRY_AFTER_MAX_SECONDS))
        self._not_before_ns = now_ns + int(delay * NS)

    def _forget(self, now_ns: int) -> None:
        for key, entry in list(self._entries.items()):
            if entry.closed_ns is None:
                continue
            if entry.confirmed_ns is not None:
                if now_ns - entry.confirmed_ns > CLOSED_REPEATED_NS:
                    del self._entries[key]
            elif now_ns - entry.closed_ns > CLOSED_KEPT_NS:
                self.counts.expired += 1
                del self._entries[key]


@dataclass(slots=True)
class _Lane(Generic[T]):
    exporter: Exporter[T]
    outbox: Outbox[T]
    wake: anyio.Event


class LatestDelivery(Generic[T]):
    """Keeps every destination at the latest state of every item.

    `state_of` names what has to be sent at once when it changes; `is_closed` says that an item has reached its end.
    `resend_seconds` is the interval of repeats. Run `run()` in the task group of the program.
    """

    def __init__(
        self,
        destinations: Sequence[Exporter[T]],
        *,
        state_of: Callable[[T], Hashable],
        is_closed: Callable[[T], bool],
        resend_seconds: float = 30.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._state_of = state_of
        self._is_closed = is_closed
        self._lanes = [
            _Lane(exporter, Outbox[T](int(resend_seconds * NS), jitter=jitter), anyio.Event())
            for exporter in destinations
        ]

    def offer(self, item_key: str, item: T) -> None:
        """The newest state of an item, for all destinations. Never waits."""
        state, closed, now = self._state_of(item), self._is_closed(item), boot_ns()
        for lane in self._lanes:
            lane.outbox.offer(item_key, item, state, closed, now)
            lane.wake.set()

    def counts(self) -> dict[str, DeliveryCounts]:
        """Counters of each destination, by its name."""
        return {lane.exporter.name: lane.outbox.counts for lane in self._lanes}

    def pending(self) -> dict[str, int]:
        """Items not yet confirmed in their newest state, by destination."""
        return {lane.exporter.name: lane.outbox.pending() for lane in self._lanes}

    async def run(self) -> None:
        """Deliver until cancelled; then try once more, for at most three seconds, to hand over what is unconfirmed."""
        async with anyio.create_task_group() as group:
            for lane in self._lanes:
                group.start_soon(self._serve, lane)

    async def _serve(self, lane: _Lane[T]) -> None:
        try:
            while True:
                await self._wait(lane)
                if batch := lane.outbox.take(boot_ns()):
                    await self._send(lane, batch)
        finally:
            with anyio.move_on_after(DRAIN_SECONDS, shield=True):
                await self._drain(lane)

    async def _wait(self, lane: _Lane[T]) -> None:
        while True:
            due, now = lane.outbox.next_due_ns(), boot_ns()
            if due is not None and due <= now:
                return
            lane.wake = anyio.Event()
            with anyio.move_on_after(None if due is None else (due - now) / NS):
                await lane.wake.wait()

    async def _drain(self, lane: _Lane[T]) -> None:
        while batch := lane.outbox.take(boot_ns(), unconfirmed_only=True):
            if not await self._send(lane, batch):
                return

    async def _send(self, lane: _Lane[T], batch: Sequence[tuple[str, _Entry[T]]]) -> bool:
        """Send a batch, halving it where the destination refuses it. False when the destination cannot be reached."""
        answer: Answer
        try:
            answer = await lane.exporter.send([entry.item for _, entry in batch])
        except (TryLater, TooLarge, Rejected) as error:
            answer = error
        if isinstance(answer, TooLarge | Rejected):
            if len(batch) > 1:
                middle = len(batch) // 2
                return await self._send(lane, batch[:middle]) and await self._send(lane, batch[middle:])
            self._refuse(lane, *batch[0], answer.reason)
            self._show(lane, "")
            return True
        if answer is not None and not isinstance(answer, TryLater):
            if len(answer) == len(batch):
                return self._by_item(lane, batch, answer)
            answer = not_one_each(len(answer), len(batch))
        if answer is not None:
            lane.outbox.postpone(answer.after_seconds, boot_ns())
            self._show(lane, answer.reason)
            return False
        lane.outbox.confirm(batch, boot_ns())
        self._show(lane, "")
        return True

    def _by_item(self, lane: _Lane[T], batch: Sequence[tuple[str, _Entry[T]]], verdicts: Sequence[Verdict]) -> bool:
        stored, refused, _, asks = sorted_out(verdicts)
        for numbers in stored.values():
            lane.outbox.confirm([batch[number] for number in numbers], boot_ns())
        for number, refusal in refused:
            self._refuse(lane, *batch[number], refusal.reason)
        if asks is not None:
            lane.outbox.postpone(asks.after_seconds, boot_ns())
        self._show(lane, "" if asks is None else asks.reason)
        return asks is None

    def _refuse(self, lane: _Lane[T], key: str, entry: _Entry[T], reason: str) -> None:
        log.error("item_rejected", destination=lane.exporter.name, key=key, reason=reason)
        lane.outbox.refuse(key, entry, boot_ns())

    def _show(self, lane: _Lane[T], failing: str) -> None:
        counts = lane.outbox.counts
        if failing and not counts.failing:
            log.warning("destination_unreachable", destination=lane.exporter.name, reason=failing)
        elif counts.failing and not failing:
            log.info("destination_recovered", destination=lane.exporter.name)
        counts.failing = failing
