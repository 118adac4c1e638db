"""One stream of the spool, for the event loop: items in, batches out, each settled once.

What is put is gathered, made durable as a group, and handed to the reader from memory; only a reader that is behind
costs a read from the disk. All blocking work runs in a thread, one piece at a time.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import TypeVar

import anyio
import anyio.to_thread
import structlog

from agent.clock import NS, unix_ns
from agent.spool.acks import Acks, runs
from agent.spool.batch import Batch, StreamState
from agent.spool.log import Log, NoRoom, Piece, Written
from agent.spool.marks import Marks
from agent.spool.settings import StreamLimits
from agent.spool.shelf import Shelf

log = structlog.get_logger()

T = TypeVar("T")

RETRY_SECONDS = 1.0  # between attempts to write while there is no room
READ_BYTES = 1 << 20
MEMORY_BYTES = 8 << 20  # of items that were made durable and not yet read
READ_ATTEMPTS = 30  # of what the disk cannot read, before it counts as damaged
AGE_STEP_NS = NS  # frames that were written within this time share one age
ITEM_BYTES = 5  # that an item may take on the disk beside its own bytes
UNKNOWN = "unknown"


class ItemTooLarge(ValueError):
    """An item is larger than a segment can hold; whoever made it has to cut it."""


class Stream:
    """Items numbered from 1, each handed out once per process and settled once, for ever.

    `run` must be running for anything to become durable. Use from one event loop.
    """

    def __init__(self, files: Log, limits: StreamLimits, limit_bytes: int) -> None:
        self.name = files.name
        self._log = files
        self._limits = limits
        self._limit_bytes = limit_bytes
        self._thread = anyio.CapacityLimiter(1)
        found = files.recovered
        self._committed = files.committed  # what the loop knows; the log may be ahead while its thread works
        self._acks = Acks(found.marks.through, found.marks.ranges)
        self._results = dict(found.marks.results)
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._group_bytes = min(limits.group_bytes, files.max_item_bytes)
        self._blocked = ""
        self._unreadable = ""
        self._unsaved = ""
        self._shelf = Shelf()
        self._handed_out: deque[tuple[int, int]] = deque()  # (last number, written at) of frames that were read
        self._read_through = self._acks.through
        self._position = files.start(self._acks.through + 1)
        self._gaps_are_lost_from = 1 if found.gaps_are_lost else found.committed + 1
        self._oldest_unread_ns = files.oldest_at_ns()
        # Something was written or settled since the marks were saved; after damage they are to be whole again soon.
        self._changed = not found.gaps_are_lost
        self._wake_writer = anyio.Event()
        self._wake_reader = anyio.Event()
        self._wake_producers = anyio.Event()
        self._room = anyio.Event()  # something was settled for good, so there may be room again
        self._urgent = False
        self._fill_results()
        for lost in found.lost:
            self._settle_lost(lost.first, lost.last, lost.reason)
        for note in found.notes:
            log.warning("spool_found", stream=self.name, note=note)

    def _fill_results(self) -> None:
        """Where the marks went back to an older copy, results are missing for what was settled before."""
        missing = self._acks.settled() - sum(self._results.values())
        if missing:
            self._results[UNKNOWN] = self._results.get(UNKNOWN, 0) + missing

    # In

    def put(self, items: Sequence[bytes]) -> bool:
        """Take items to make them durable soon. False: no room, nothing taken. Raises `ItemTooLarge`. Never waits."""
        size = sum(map(len, items))
        if size > self._log.max_item_bytes:
            self._check(items)
        size += ITEM_BYTES * len(items)
        if self._pending and self._pending_bytes + size > self._limits.pending_bytes:
            return False
        is_first = not self._pending
        self._pending.extend(items)
        self._pending_bytes += size
        if self._pending_bytes >= self._group_bytes:
            self._urgent = True
        if is_first or self._urgent:  # waking the writer for every item would cost more than all else about it
            self._wake_writer.set()
        return True

    @property
    def put_through(self) -> int:
        """Number of the last item that was put."""
        return self._committed + len(self._pending)

    @property
    def durable_through(self) -> int:
        """Every item up to this number is durable; what comes later may be lost with this process."""
        return self._committed

    @property
    def blocked(self) -> str:
        """Why nothing can be written now; empty when all is well."""
        return self._blocked

    async def append(self, items: Sequence[bytes]) -> None:
        """Return when the items are durable. Waits for room as long as it takes. Raises `ItemTooLarge`."""
        if not items:
            return
        while not self.put(items):
            await self._wake_producers.wait()
        await self.flush()

    async def flush(self) -> None:
        """Return when everything that was put so far is durable. What is put meanwhile shares the next sync."""
        through = self._committed + len(self._pending)
        if self._pending:
            self._urgent = True
            self._wake_writer.set()
        while self._committed < through:
            await self._wake_producers.wait()

    def _check(self, items: Sequence[bytes]) -> None:
        largest = max(map(len, items))
        if largest > self._log.max_item_bytes:
            raise ItemTooLarge(
                f"an item of {largest} bytes does not fit into stream {self.name}, which takes "
                f"{self._log.max_item_bytes}; cut it, or raise the spool's segment size"
            )

    async def run(self) -> None:
        """Make durable what is put and save what is settled, until cancelled; then once more for the rest."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._write_groups)
                group.start_soon(self._save_marks)
        finally:
            with anyio.CancelScope(shield=True):
                await self._finish()

    async def _finish(self) -> None:
        while self._pending and await self._write_group():
            pass
        if self._pending:
            log.error("spool_items_not_written", stream=self.name, items=len(self._pending), reason=self._blocked)
        await self._save()
        await self._in_thread(self._log.close)

    async def _write_groups(self) -> None:
        while True:
            while not self._pending:
                self._wake_writer = anyio.Event()
                await self._wake_writer.wait()
            await self._gather()
            if not await self._write_group():
                self._room = anyio.Event()
                with anyio.move_on_after(RETRY_SECONDS):
                    await self._room.wait()

    async def _gather(self) -> None:
        """Wait a moment for more items to share the sync with."""
        with anyio.move_on_after(self._limits.group_seconds):
            while not self._urgent:
                self._wake_writer = anyio.Event()
                await self._wake_writer.wait()
        self._urgent = False

    async def _write_group(self) -> bool:
        """One frame of what is pending. False when there is no room now."""
        items, size = self._next_group()
        at_ns = unix_ns()
        try:
            written = await self._in_thread(partial(self._log.write, items, at_ns))
        except NoRoom as error:
            if self._blocked != error.reason:
                log.error("spool_blocked", stream=self.name, reason=error.reason)
            self._blocked = error.reason
            return False
        if self._blocked:
            log.info("spool_unblocked", stream=self.name)
            self._blocked = ""
        self._committed = written.last
        self._changed = True
        del self._pending[: len(items)]
        self._pending_bytes -= size
        self._hand_over(written, at_ns, items, size)
        self._wake_producers.set()
        self._wake_producers = anyio.Event()
        if self._pending_bytes >= self._group_bytes:
            self._urgent = True
        return True

    def _next_group(self) -> tuple[list[bytes], int]:
        if self._pending_bytes <= self._group_bytes:
            return self._pending[:], self._pending_bytes
        size = count = 0
        for item in self._pending:
            if count and size + len(item) + ITEM_BYTES > self._group_bytes:
                break
            size += len(item) + ITEM_BYTES
            count += 1
        return self._pending[:count], size

    def _hand_over(self, written: Written, at_ns: int, items: list[bytes], size: int) -> None:
        """Give the reader what was just written, if it has read everything before; else it finds it on the disk."""
        if self._read_through == written.first - 1 and self._shelf.size_bytes + size <= MEMORY_BYTES:
            self._take_in(Piece(written.first, at_ns, items), size - ITEM_BYTES * len(items))
            self._read_through = written.last
            self._position = written.after
        self._wake_reader.set()

    def _take_in(self, piece: Piece, size: int) -> None:
        last = piece.first + len(piece.items) - 1
        for first, until in self._acks.unsettled(piece.first, last):
            if until - first + 1 == len(piece.items):
                self._shelf.add(range(first, until + 1), piece.items, size)
            else:
                items = piece.items[first - piece.first : until - piece.first + 1]
                self._shelf.add(range(first, until + 1), items, sum(map(len, items)))
        if self._handed_out and abs(piece.at_ns - self._handed_out[-1][1]) < AGE_STEP_NS:
            self._handed_out[-1] = (last, self._handed_out[-1][1])
        else:
            self._handed_out.append((last, piece.at_ns))

    # Out

    async def read(self, max_items: int, max_bytes: int) -> Batch:
        """The next items, at least one; waits until there is one. More than `max_bytes` only for a single item.

        For one reader: whoever reads owns the items until it has settled them.
        """
        while True:
            if self._shelf:
                return self._shelf.take(max_items, max_bytes)
            if self._read_through < self._committed:
                await self._read_from_disk()
                continue
            self._wake_reader = anyio.Event()
            await self._wake_reader.wait()

    async def look(self, first: int, max_bytes: int) -> tuple[Batch, int]:
        """Unsettled items from number `first` on, read from the disk and not handed out; and where to go on.

        About `max_bytes` of them; none at the end of the stream. For streams that are looked through, not delivered.
        """
        first = max(first, self._acks.through + 1)
        if first > self._committed:
            return Batch((), ()), first
        call = partial(self._log.read, self._log.start(first), first, max_bytes, through=self._committed)
        pieces, _, _, following = await self._in_thread(call)
        sequences: list[int] = []
        items: list[bytes] = []
        for piece in pieces:
            for begin, end in self._acks.unsettled(piece.first, piece.first + len(piece.items) - 1):
                sequences.extend(range(begin, end + 1))
                items.extend(piece.items[begin - piece.first : end - piece.first + 1])
        return Batch(sequences, items), following

    def read_now(self, max_items: int, max_bytes: int) -> Batch | None:
        """What `read` would return at once; None when it would have to wait, be it only for the disk."""
        return self._shelf.take(max_items, max_bytes) if self._shelf else None

    async def _read_from_disk(self) -> None:
        for attempt in count(1):
            read = partial(
                self._log.read,
                self._position,
                self._read_through + 1,
                READ_BYTES,
                through=self._committed,
                salvage=attempt > READ_ATTEMPTS,
            )
            try:
                pieces, lost, position, following = await self._in_thread(read)
                break
            except OSError as error:
                self._tell_unreadable(error.strerror or "unknown error")
                await anyio.sleep(RETRY_SECONDS)
        self._tell_unreadable("")
        self._position = position
        self._read_through = following - 1
        for piece in pieces:
            self._take_in(piece, sum(map(len, piece.items)))
        if pieces:
            self._oldest_unread_ns = pieces[-1].at_ns
        for gap in lost:
            self._settle_lost(gap.first, gap.last, gap.reason)

    def _tell_unreadable(self, reason: str) -> None:
        if reason and reason != self._unreadable:
            log.error("spool_unreadable", stream=self.name, reason=reason)
        elif self._unreadable and not reason:
            log.info("spool_readable", stream=self.name)
        self._unreadable = reason

    def settle(self, sequences: Sequence[int], result: str) -> None:
        """These items, in ascending order, are done with: delivered, duplicate, refused_kept, dead or dropped:<reason>.

        Raises ValueError when one of them was settled before: two owners of an item would be a bug.
        """
        for first, last in runs(sequences):
            self._acks.add(first, last)
        self._results[result] = self._results.get(result, 0) + len(sequences)
        self._changed = True

    def _settle_lost(self, first: int, last: int, reason: str) -> None:
        items = 0
        for begin, end in list(self._acks.unsettled(first, last)):
            known = end >= self._gaps_are_lost_from and reason != UNKNOWN
            self.settle(range(begin, end + 1), f"dropped:{reason}" if known else UNKNOWN)
            items += end - begin + 1
        if items:
            log.error("spool_items_lost", stream=self.name, first=first, last=last, items=items, reason=reason)

    async def _save_marks(self) -> None:
        while True:
            await anyio.sleep(self._limits.save_seconds)
            if self._changed:
                await self._save()
            else:
                await self._in_thread(self._log.trim)

    async def _save(self) -> None:
        self._changed = False
        marks = Marks(
            stream=self._log.stream,
            committed=self._committed,
            through=self._acks.through,
            ranges=tuple(self._acks.ranges()),
            results=dict(self._results),
        )
        trouble = ""
        try:
            if not await self._in_thread(partial(self._log.save, marks)):
                trouble = "too many holes; they close as the older items are settled"
        except OSError as error:
            trouble = error.strerror or "unknown error"
        if trouble:
            self._changed = True
            if trouble != self._unsaved:
                log.error("spool_marks_not_saved", stream=self.name, reason=trouble)
        self._unsaved = trouble
        self._room.set()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(call, limiter=self._thread)

    # Numbers

    def state(self) -> StreamState:
        """This instant's numbers."""
        while self._handed_out and self._handed_out[0][0] <= self._acks.through:
            self._handed_out.popleft()
        waiting = self._committed - self._acks.settled()
        oldest = None
        if waiting:
            oldest = self._handed_out[0][1] if self._handed_out else self._oldest_unread_ns
        return StreamState(
            name=self.name,
            accepted=self._committed,
            waiting=waiting,
            pending=len(self._pending),
            results=dict(self._results),
            used_bytes=self._log.used_bytes,
            limit_bytes=self._limit_bytes,
            oldest_at_ns=oldest,
            blocked=self._blocked or (self._unreadable and f"cannot be read: {self._unreadable}"),
            sync_seconds=self._log.sync_seconds,
            syncs=self._log.syncs,
            damaged_frames=self._log.damaged_frames,
            retired_segments=self._log.retired_segments,
        )


def age_seconds(state: StreamState, now_ns: int) -> float:
    """How long the oldest waiting item has waited; 0 when nothing waits."""
    return 0.0 if state.oldest_at_ns is None else max(0.0, (now_ns - state.oldest_at_ns) / NS)
