"""Every item of a stream to one destination, until it is proven stored, there already, or refused for good.

Batches are read from the stream, sent through an `Exporter` and settled by what the destination says of each item.
What was not answered stays in the spool. The rules are in `pacing` and `work`; this file does the waiting.
"""

import random
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import anyio
import structlog
from anyio.abc import TaskGroup
from msgspec import Struct

from agent.clock import NS, boot_ns
from agent.core.ports import Exporter, Paused, Rejected, Stored, TooLarge, TryLater, Verdict
from agent.delivery.burial import Burial
from agent.delivery.deadletters import DeadLetters, Refused
from agent.delivery.drain import Drain
from agent.delivery.pacing import BatchSize, Pacing, QueueLimits, Refusals
from agent.delivery.verdicts import Answer, not_one_each, sorted_out
from agent.delivery.work import Pool, Work
from agent.spool.batch import Batch

log = structlog.get_logger()

T = TypeVar("T")

HELD_WORKS = 256  # pieces that wait; with more nothing is read


class ItemStream(Protocol):
    """What delivery needs of a stream (`agent.spool.stream.Stream`)."""

    name: str

    async def read(self, max_items: int, max_bytes: int) -> Batch: ...
    def settle(self, sequences: Sequence[int], result: str) -> None: ...


class QueueState(Struct, frozen=True, kw_only=True):
    """How one destination is doing. Counters run since the start of the process; items are counted by the stream."""

    destination: str
    ok: bool | None  # None: nothing has been answered yet
    reason: str  # why nothing goes out, or why some items wait; empty when all is well
    paused: bool  # somebody has to mend something
    in_flight: int  # requests
    concurrency: int  # requests that may be under way now
    batch_bytes: int  # of one request at most, as learned
    held: int  # items read from the stream and not settled
    attempts: int  # requests begun
    retries: int  # requests after which all or some of their items had to be sent again
    last_confirmed_boot_ns: int | None


class _Cut(Exception):
    """The program ends before the destination has answered."""


class QueueDelivery(Generic[T]):
    """One stream to one destination. `decode` raises `ValueError` for bytes it cannot read.

    Order: with `max_concurrency=1` requests follow the stream strictly, and what must be sent again blocks what comes
    after it; items that the destination itself puts off or refuses are the exception.
    """

    def __init__(
        self,
        stream: ItemStream,
        exporter: Exporter[T],
        decode: Callable[[bytes], T],
        dead_letters: DeadLetters,
        limits: QueueLimits | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._stream = stream
        self._exporter = exporter
        self._decode = decode
        self._limits = limits = limits or QueueLimits()
        self._ordered = limits.max_concurrency == 1
        self._pacing = Pacing(limits, jitter)
        self._size = BatchSize(limits.max_bytes)
        self._refusals = Refusals(limits.refused_in_a_row)
        self._pool = Pool[T]()
        self._drain = Drain()
        self._burial = Burial(dead_letters, self._settle, self._drain)
        self._held = self._held_bytes = 0
        self._ok: bool | None = None
        self._reason = ""
        self._paused = False
        self._attempts = self._retries = 0
        self._last_confirmed_boot_ns: int | None = None
        self._changed = anyio.Event()

    async def run(self) -> None:
        """Deliver until cancelled; requests under way then get `drain_seconds` for their answers."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._read)
            group.start_soon(self._burial.run, self._notify)
            try:
                await self._pump(group)
            finally:
                self._drain.begin(self._limits.drain_seconds)

    def state(self) -> QueueState:
        """This instant's numbers."""
        back = self._pool.held_back()
        trouble = self._burial.trouble
        return QueueState(
            destination=self._exporter.name,
            ok=False if trouble else self._ok,
            reason=trouble or self._reason or (back.reason if back else ""),
            paused=bool(trouble) or self._paused or (back is not None and back.paused),
            in_flight=self._pacing.in_flight,
            concurrency=self._pacing.concurrency,
            batch_bytes=self._size.bytes,
            held=self._held,
            attempts=self._attempts,
            retries=self._retries,
            last_confirmed_boot_ns=self._last_confirmed_boot_ns,
        )

    # In

    async def _read(self) -> None:
        while True:
            while self._has_enough():
                await self._changed.wait()
            self._accept(await self._stream.read(self._limits.max_items, self._size.bytes))
            self._notify()

    def _has_enough(self) -> bool:
        limits, batches = self._limits, self._limits.max_concurrency + 2
        items, size = self._pool.fresh()
        return (
            items >= limits.max_items
            or size >= self._size.bytes
            or self._held >= batches * limits.max_items
            or self._held_bytes >= batches * limits.max_bytes
            or len(self._pool) >= HELD_WORKS
        )

    def _accept(self, batch: Batch) -> None:
        size = sum(map(len, batch.items))
        self._held += len(batch.items)
        self._held_bytes += size
        try:
            values = list(map(self._decode, batch.items))
        except ValueError:
            self._accept_readable(batch)
        else:
            self._pool.put(Work(batch.sequences, batch.items, values, size))

    def _accept_readable(self, batch: Batch) -> None:
        sequences, items, values = [], [], []
        for sequence, item in zip(batch.sequences, batch.items, strict=True):
            try:
                value = self._decode(item)
            except ValueError as error:
                self._burial.add([Refused(sequence, item, f"cannot be read: {error}")])
            else:
                sequences.append(sequence)
                items.append(item)
                values.append(value)
        if items:
            self._pool.put(Work(sequences, items, values, sum(map(len, items))))

    # Out

    async def _pump(self, group: TaskGroup) -> None:
        while True:
            now_ns = boot_ns()
            work = self._next(now_ns)
            if work is None:
                wait_ns = self._wait_ns(now_ns)
                with anyio.move_on_after(None if wait_ns is None else wait_ns / NS):
                    await self._changed.wait()
            else:
                group.start_soon(self._deliver, work, self._pacing.started())
                self._notify()

    def _blocked(self) -> bool:
        return bool(self._burial.trouble) or len(self._burial) >= self._limits.max_items

    def _next(self, now_ns: int) -> Work[T] | None:
        if self._blocked() or not self._pacing.may_start(now_ns):
            return None
        items = 1 if self._refusals.tripped else self._limits.max_items
        return self._pool.take(now_ns, items, self._size.bytes, ordered=self._ordered)

    def _wait_ns(self, now_ns: int) -> int | None:
        """Until something may be sent by the clock alone; None: an event will say."""
        gate = self._pacing.wait_ns(now_ns)
        due_ns = self._pool.next_due_ns(ordered=self._ordered)
        return None if self._blocked() or gate is None or due_ns is None else max(gate, due_ns - now_ns, 0)

    def _notify(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def _deliver(self, work: Work[T], token: int) -> None:
        try:
            self._judge(work, token, await self._ask(work))
        except _Cut:
            self._pool.put(work)
        finally:
            self._pacing.ended()
            self._notify()

    async def _ask(self, work: Work[T]) -> Answer:
        """What the destination says, its errors included."""
        if self._drain.begun:
            raise _Cut
        self._attempts += 1
        seconds = self._limits.send_seconds
        answer: Answer = TryLater(f"no answer within {seconds:g} s")
        with self._drain.scope(seconds) as scope:
            try:
                answer = await self._exporter.send(work.values)
            except (TryLater, TooLarge, Rejected) as error:
                answer = error
        if scope.cancelled_caught and self._drain.begun:
            raise _Cut
        return answer

    # Answers

    def _judge(self, work: Work[T], token: int, answer: Answer) -> None:
        if isinstance(answer, TryLater):
            self._again(work, token, answer)
        elif isinstance(answer, TooLarge):
            self._smaller(work, token, answer)
        elif isinstance(answer, Rejected):
            self._refused(work, token, answer)
        elif answer is None:
            self._all_stored(work, token, "delivered")
        elif len(answer) != len(work.items):
            self._again(work, token, not_one_each(len(answer), len(work.items)))
        elif isinstance(answer[0], str) and answer.count(answer[0]) == len(answer):
            self._all_stored(work, token, answer[0])
        else:
            self._by_item(work, token, answer)

    def _all_stored(self, work: Work[T], token: int, result: Stored) -> None:
        self._stored(work, result)
        self._size.worked(work.size_bytes)
        if self._pacing.worked(token):
            self._show()

    def _by_item(self, work: Work[T], token: int, verdicts: Sequence[Verdict]) -> None:
        stored, refused, later, asks = sorted_out(verdicts)
        for result, numbers in stored.items():
            self._stored(work.pick(numbers), result)
        if stored:
            self._size.worked(work.size_bytes)
            self._give_up(work, refused)
            if asks is not None:
                self._put_off(work.pick(later), token, asks)
            elif self._pacing.worked(token):
                self._show()
            return
        given_up = self._refusals.refused(len(refused)) if refused else 0
        self._give_up(work, refused[:given_up])
        kept = sorted(later + [number for number, _ in refused[given_up:]])
        if asks is not None:
            self._again(work.pick(kept), token, asks)
            return
        if kept:
            self._retries += 1
            self._pool.put(work.pick(kept))
        self._after_refusal(token, refused[-1][1].reason)

    def _refused(self, work: Work[T], token: int, error: Rejected) -> None:
        """Of a batch: look for the bad ones by halving."""
        if len(work.items) > 1:
            self._split(work, token, alone=True)
            return
        self._refusals.refused(1)
        self._give_up(work, [(0, error)])
        self._after_refusal(token, error.reason)

    def _smaller(self, work: Work[T], token: int, error: TooLarge) -> None:
        if len(work.items) > 1:
            self._size.too_large(work.size_bytes)
            self._split(work, token, alone=False)
            return
        self._refused(work, token, Rejected(f"too large even alone ({work.size_bytes} bytes): {error.reason}"))

    def _split(self, work: Work[T], token: int, *, alone: bool) -> None:
        for half in work.halves(alone=alone):
            self._pool.put(half)
        self._retries += 1
        if self._pacing.answered(token):
            self._show()

    def _again(self, work: Work[T], token: int, error: TryLater) -> None:
        """Nothing can go out now."""
        self._retries += 1
        self._pool.put(work)
        paused = isinstance(error, Paused)
        self._pacing.shut(token, boot_ns(), error.after_seconds, paused=paused)
        self._show(error.reason, paused=paused)

    def _put_off(self, work: Work[T], token: int, error: TryLater) -> None:
        """The destination takes others, and wants these later."""
        self._retries += 1
        paused = isinstance(error, Paused)
        if paused and not work.paused:
            log.error("items_paused", destination=self._exporter.name, items=len(work.items), reason=error.reason)
        work.due_ns = boot_ns() + self._pacing.delay_ns(work.attempts, error.after_seconds, paused=paused)
        work.attempts += 1
        work.reason, work.paused = error.reason, paused
        self._pool.put(work)
        if self._pacing.busy(token):
            self._show()

    def _after_refusal(self, token: int, reason: str) -> None:
        """An answer of refusals only: go on, unless there are too many in a row."""
        if self._refusals.tripped:
            self._pacing.shut(token, boot_ns(), None, paused=True)
            self._show(f"{self._refusals.in_a_row} items in a row were refused, the last: {reason}", paused=True)
        elif self._pacing.answered(token):
            self._show()

    def _stored(self, work: Work[T], result: Stored) -> None:
        self._settle(work.sequences, result, work.size_bytes)
        self._refusals.stored()
        self._last_confirmed_boot_ns = boot_ns()

    def _settle(self, sequences: Sequence[int], result: str, size_bytes: int) -> None:
        self._stream.settle(sequences, result)
        self._held -= len(sequences)
        self._held_bytes -= size_bytes

    def _give_up(self, work: Work[T], refused: Sequence[tuple[int, Rejected]]) -> None:
        self._burial.add([Refused(work.sequences[n], work.items[n], error.reason) for n, error in refused])

    def _show(self, reason: str = "", *, paused: bool = False) -> None:
        """Keep what the last answer that counted says of the destination; log changes."""
        was_ok, was_paused = self._ok, self._paused
        self._ok, self._reason, self._paused = not reason, reason, paused
        if paused and not was_paused:
            log.error("delivery_paused", destination=self._exporter.name, reason=reason)
        elif reason and not paused and (was_paused or was_ok is not False):
            log.warning("destination_unreachable", destination=self._exporter.name, reason=reason)
        elif not reason and was_ok is False:
            log.info("destination_recovered", destination=self._exporter.name)
