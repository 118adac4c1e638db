"""The ledger: sidecar batches and settlement steps in, durably; costs, reports and proofs out."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import anyio.to_thread
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DatabaseError, DBAPIError

from agent.clock import BillClock, boot_id, boot_ns, unix_ns
from agent.core.cost.allocating import Owner
from agent.core.cost.closed import MINUTE_NS, Closed
from agent.core.cost.invoices import BilledDay
from agent.core.cost.reports import Reconciliation, Report, ReportQuery, RequestCost
from agent.core.ports import ConfigError
from agent.core.requests import RecordBatch, RefusedEvent
from agent.ledger import postgresql, receiving, retention, writing
from agent.ledger.explaining import request_cost
from agent.ledger.invoices import read_days
from agent.ledger.loading import CostKey, Opened, SenderKey, go_on, load
from agent.ledger.memory import Memory
from agent.ledger.pastdays import PastDays
from agent.ledger.postgresql import OtherWriter
from agent.ledger.receiving import Accepted
from agent.ledger.reconciling import reconcile
from agent.ledger.reporting import report
from agent.ledger.retention import Kept, Retention
from agent.ledger.rollup import Eras, read_eras, set_zone
from agent.ledger.schema import KEY, LOCK_SECONDS, Where, connect, migrate, shown
from agent.ledger.tables import accounts
from agent.ledger.troubles import try_later
from agent.ledger.unattributed import Unattributed, read_unattributed

__all__ = ["CostKey", "Ledger", "Opened", "SenderKey"]

T = TypeVar("T")


class Ledger:
    """One database, one writing and one reading connection, each used by one thread at a time.

    Writing raises `TryLater` while the disk is full or the database cannot be written; nothing of that call is kept
    then. Reading raises it while the database cannot be read.
    """

    def __init__(
        self, where: Where, node: str, writer: Engine, reader: Engine, clock: BillClock, owners: Sequence[Owner] = ()
    ) -> None:
        self.where = where
        self.name = shown(where)
        self.node = node
        self.clock = clock
        self._writer = writer
        self._reader = reader
        self._write_limit = anyio.CapacityLimiter(1)
        self._read_limit = anyio.CapacityLimiter(1)
        self._memory = Memory()
        self._owners = tuple(owners)
        self._past = PastDays()
        with reader.begin() as connection:
            self.opened: Opened = load(connection)
            self.eras: Eras = read_eras(connection)

    @property
    def path(self) -> Path:
        """The file; only of a ledger in SQLite."""
        assert isinstance(self.where, Path)
        return self.where

    @classmethod
    async def open(
        cls,
        where: Where,
        node: str,
        *,
        time_zone: str = "UTC",
        owners: Sequence[Owner] = (),
        lock_seconds: float = LOCK_SECONDS,
        unix: Callable[[], int] = unix_ns,
        boot: Callable[[], int] = boot_ns,
        boot_name: Callable[[], str] = boot_id,
    ) -> "Ledger":
        """Open or make the ledger, bring its schema up to date, and go on with the bill's clock.

        `time_zone`: of hours and days that are not rolled up yet; `owners`: who pays for what is idle, where a report
        asks for that. Raises `ConfigError` for a ledger that is newer than
        this program, damaged, not writable, or (in PostgreSQL) another node's or open in another process.
        """
        at = (unix(), boot(), boot_name())
        return await anyio.to_thread.run_sync(lambda: cls._open(where, node, time_zone, lock_seconds, at, owners))

    @classmethod
    def _open(
        cls,
        where: Where,
        node: str,
        time_zone: str,
        lock_seconds: float,
        at: tuple[int, int, str],
        owners: Sequence[Owner],
    ) -> "Ledger":
        key = KEY if isinstance(where, Path) else postgresql.KEY
        writer = connect(where, lock_seconds=lock_seconds)
        reader: Engine | None = None
        try:
            migrate(writer, where)
            with writer.begin() as connection:
                if not isinstance(where, Path):
                    postgresql.refuse_other_node(connection, node)
                clock = go_on(connection, node, *at)
                set_zone(connection, time_zone)
            reader = connect(where, read_only=True, lock_seconds=lock_seconds)
            return cls(where, node, writer, reader, clock, owners)
        except (DBAPIError, OtherWriter, ConfigError) as error:
            writer.dispose()
            if reader is not None:
                reader.dispose()
            if isinstance(error, ConfigError):
                raise
            if isinstance(error, OtherWriter):
                raise ConfigError(key, f"{shown(where)}: {error}") from error
            advice = "`engineroom ledger repair` keeps what can be read"
            if type(error) is not DatabaseError:
                advice = "make room or fix its rights"
            raise ConfigError(key, f"{shown(where)} cannot be written: {error.orig}; {advice}") from error

    def close(self) -> None:
        """Close both connections."""
        self._reader.dispose()
        self._writer.dispose()

    async def __aenter__(self) -> "Ledger":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def accept(
        self,
        batch: RecordBatch,
        skew_ns: int = 0,
        sender: str = "",
        refused: Sequence[RefusedEvent] = (),
        *,
        ends_older: bool = True,
    ) -> Accepted:
        """Store a sidecar's events; they are on disk when this returns. Repeats (by number or id) are left out.

        `sender` is who the doors say is telling them, '' when they do not ask; `refused` was sorted out before;
        without `ends_older`, the open requests of earlier starts of the sidecar are left alone.
        """
        return await self._write(
            lambda connection: receiving.accept(
                connection, batch, skew_ns, self._memory, sender, refused, ends_older=ends_older
            )
        )

    async def lose(self, sidecar: str, epoch: int, at_ns: int, sender: str = "") -> dict[str, int]:
        """Give up the open requests of a silent sidecar; request id -> the end it is given."""
        return await self._write(
            lambda connection: receiving.lose(connection, sidecar, epoch, at_ns, self._memory, sender)
        )

    async def settle(self, closed: Closed) -> None:
        """Write one settlement step in one transaction. Calling it again with the same step is harmless."""
        first = min((booking.bucket_ns for booking in closed.entries), default=closed.from_ns) // MINUTE_NS
        with self._past.changing(first):
            await self._write(lambda connection: writing.settle(connection, closed, self._memory, self.eras))

    async def retain(self, now_ns: int, keep: Retention) -> int:
        """Forget minutes, hours and settled requests that are older than `keep` says; the number of rows.

        In many short transactions, between which steps are written. Days stay for ever, and what is in no day yet.
        """
        forgotten = 0
        for work in retention.works(now_ns, keep, self.eras):
            while True:
                count = await self._write(work)
                if count is None:
                    break
                forgotten += count
        return forgotten

    async def kept(self) -> Kept:
        """Since when minutes and hours are kept, and up to where they are rolled up."""
        return await self._read(retention.kept)

    async def report(self, query: ReportQuery) -> Report:
        """GPU time and money of a window, grouped."""
        return await self._read(lambda connection: report(connection, query, self.node, self._owners, self._past))

    async def remember_days(self) -> None:
        """Sum up days that are over, so that reports of weeks are quick. Once after the start, then every hour."""
        look = self._past.look()
        self._past.keep(look, await self._read(self._past.fill))

    async def reconcile(self) -> Reconciliation:
        """The proof that parts equal price x time, for each GPU."""
        return await self._read(lambda connection: reconcile(connection, self.node))

    async def unattributed(self, minutes: Mapping[str, Collection[int]]) -> Unattributed:
        """What was booked past the sidecar: engine -> starts of minutes (Unix ns)."""
        return await self._read(lambda connection: read_unattributed(connection, minutes))

    async def invoiced(self, first_day: str, last_day: str) -> list[BilledDay]:
        """What imported invoices ask for these local days (2026-01-31), both included."""
        return await self._read(lambda connection: read_days(connection, first_day, last_day))

    async def begins_ns(self) -> int | None:
        """From when on there is a bill; None before the first GPU."""
        return await self._read(lambda connection: connection.execute(select(func.min(accounts.c.from_ns))).scalar())

    async def request_cost(self, request_id: str) -> RequestCost | None:
        """What one request cost so far, or None when it is unknown."""
        return await self._read(lambda connection: request_cost(connection, request_id))

    async def _write(self, work: Callable[[Connection], T]) -> T:
        def run() -> T:
            stored = False
            try:
                with self._writer.begin() as connection:
                    done = work(connection)
                stored = True
            finally:
                if stored:
                    self._memory.keep()
                else:
                    self._memory.drop()
            return done

        return await self._told(run, self._write_limit, writing=True)

    async def _read(self, work: Callable[[Connection], T]) -> T:
        def run() -> T:
            with self._reader.begin() as connection:
                return work(connection)

        return await self._told(run, self._read_limit, writing=False)

    async def _told(self, run: Callable[[], T], limit: anyio.CapacityLimiter, *, writing: bool) -> T:
        try:
            return await anyio.to_thread.run_sync(run, limiter=limit)
        except (DBAPIError, OtherWriter) as error:
            later = try_later(self.name, error, writing=writing)
            if later is None:
                raise
            raise later from error
