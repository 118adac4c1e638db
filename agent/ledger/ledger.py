"""The ledger file: sidecar batches and settlement steps in, durably; costs, reports and proofs out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import anyio.to_thread
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError, OperationalError

from agent.clock import BillClock, boot_id, boot_ns, unix_ns
from agent.core.cost.accounts import Account
from agent.core.cost.closed import Closed
from agent.core.cost.live import Live
from agent.core.cost.reports import Reconciliation, Report, ReportQuery, RequestCost
from agent.core.ports import ConfigError, TryLater
from agent.core.requests import RecordBatch, RefusedEvent, Usage
from agent.ledger import reading, receiving, writing
from agent.ledger.numbering import Numbers
from agent.ledger.receiving import Accepted
from agent.ledger.schema import KEY, connect, migrate
from agent.ledger.tables import entries, node_state, requests, sidecars

T = TypeVar("T")
CostKey = tuple[str, str, str, str]  # state, tenant, model, currency
SenderKey = tuple[str, str, int]  # sender, sidecar, epoch


@dataclass(slots=True)
class Opened:
    """Where the ledger ends: what a settlement goes on from."""

    accounts: list[Account] = field(default_factory=list)
    through_ns: int | None = None
    step: int = 0
    live: list[Live] = field(default_factory=list)
    senders: list[SenderKey] = field(default_factory=list)  # those that have open requests
    missing: dict[SenderKey, int] = field(default_factory=dict)  # event numbers that never came
    ended: int = 0  # requests whose end is known
    cost_nano: dict[CostKey, int] = field(default_factory=dict)
    slot_ns: dict[tuple[str, str], int] = field(default_factory=dict)  # (gpu, state)


class Ledger:
    """One SQLite file, one writing and one reading connection, each used by one thread at a time.

    Writing raises `TryLater` while the disk is full or the file cannot be written; nothing of that call is kept then.
    """

    def __init__(self, path: Path, node: str, writer: Engine, reader: Engine, clock: BillClock) -> None:
        self.path = path
        self.node = node
        self.clock = clock
        self._writer = writer
        self._reader = reader
        self._write_limit = anyio.CapacityLimiter(1)
        self._read_limit = anyio.CapacityLimiter(1)

        self.opened = self._load()

    @classmethod
    async def open(
        cls,
        path: Path,
        node: str,
        *,
        unix: Callable[[], int] = unix_ns,
        boot: Callable[[], int] = boot_ns,
        boot_name: Callable[[], str] = boot_id,
    ) -> "Ledger":
        """Open or make the ledger, bring its schema up to date, and go on with the bill's clock.

        Raises `ConfigError` for a file that is newer than this program, damaged or not writable.
        """
        return await anyio.to_thread.run_sync(cls._open, path, node, unix(), boot(), boot_name())

    @classmethod
    def _open(cls, path: Path, node: str, unix: int, boot: int, boot_name: str) -> "Ledger":
        writer = connect(path)
        try:
            migrate(writer, path)
            with writer.begin() as connection:
                clock = _clock(connection, node, unix, boot, boot_name)
        except DatabaseError as error:
            writer.dispose()
            raise ConfigError(KEY, f"{path} cannot be written: {error.orig}; make room or fix its rights") from error
        except ConfigError:
            writer.dispose()
            raise
        return cls(path, node, writer, connect(path, read_only=True), clock)

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
            lambda connection: receiving.accept(connection, batch, skew_ns, sender, refused, ends_older=ends_older)
        )

    async def lose(self, sidecar: str, epoch: int, at_ns: int, sender: str = "") -> dict[str, int]:
        """Give up the open requests of a silent sidecar; request id -> the end it is given."""
        return await self._write(lambda connection: receiving.lose(connection, sidecar, epoch, at_ns, sender))

    async def settle(self, closed: Closed) -> None:
        """Write one settlement step in one transaction. Calling it again with the same step is harmless."""
        await self._write(lambda connection: writing.settle(connection, closed))

    async def prune_requests(self, ended_before_ns: int) -> int:
        """Forget settled requests that ended before (their entries stay); the number of rows."""

        def prune(connection: Connection) -> int:
            old = requests.c.settled.is_(True) & (requests.c.ended_ns < ended_before_ns)
            return connection.execute(requests.delete().where(old)).rowcount

        return await self._write(prune)

    async def report(self, query: ReportQuery) -> Report:
        """GPU time and money of a window, grouped."""
        return await self._read(lambda connection: reading.report(connection, query, self.node))

    async def reconcile(self) -> Reconciliation:
        """The proof that parts equal price x time, for each GPU."""
        return await self._read(lambda connection: reading.reconcile(connection, self.node))

    async def request_cost(self, request_id: str) -> RequestCost | None:
        """What one request cost so far, or None when it is unknown."""
        return await self._read(lambda connection: reading.request_cost(connection, request_id))

    def _load(self) -> Opened:
        with self._reader.begin() as connection:
            state = connection.execute(select(node_state)).one()
            found = Opened(through_ns=state.through_ns, step=state.step)
            for account, _, is_open in reading.read_accounts(connection):
                if is_open:
                    found.accounts.append(account)
            found.live = _open_requests(connection)
            senders = select(requests.c.sender, requests.c.sidecar, requests.c.epoch)
            senders = senders.where(requests.c.outcome.is_(None)).distinct()
            found.senders = [(row.sender, row.sidecar, row.epoch) for row in connection.execute(senders)]
            for row in connection.execute(select(sidecars).where(sidecars.c.holes.is_not(None))):
                missing = Numbers(row.accepted_through, row.holes).missing
                found.missing[row.sender, row.sidecar, row.epoch] = missing
            ended = select(func.count()).select_from(requests).where(requests.c.ended_ns.is_not(None))
            found.ended = connection.execute(ended).scalar_one()
            _totals(connection, found)
        return found

    async def _write(self, work: Callable[[Connection], T]) -> T:
        def run() -> T:
            with self._writer.begin() as connection:
                return work(connection)

        try:
            return await anyio.to_thread.run_sync(run, limiter=self._write_limit)
        except OperationalError as error:
            raise TryLater(
                f"the ledger {self.path} cannot be written ({error.orig}); nothing is lost: "
                "make room on its disk or fix its rights, and it goes on by itself"
            ) from error

    async def _read(self, work: Callable[[Connection], T]) -> T:
        def run() -> T:
            with self._reader.begin() as connection:
                return work(connection)

        return await anyio.to_thread.run_sync(run, limiter=self._read_limit)


def _clock(connection: Connection, node: str, unix: int, boot: int, boot_name: str) -> BillClock:
    """The clock of this boot goes on exactly; after a reboot the wall clock, never before what is booked."""
    state = connection.execute(select(node_state)).one_or_none()
    if state is not None and state.boot_id == boot_name:
        return BillClock(state.anchor_unix_ns, state.anchor_boot_ns)
    anchor = unix if state is None or state.through_ns is None else max(unix, state.through_ns)
    row = {"id": 1, "node": node, "boot_id": boot_name, "anchor_unix_ns": anchor, "anchor_boot_ns": boot}
    changes = {name: row[name] for name in ("boot_id", "anchor_unix_ns", "anchor_boot_ns")}
    statement = insert(node_state).on_conflict_do_update(index_elements=["id"], set_=changes)
    connection.execute(statement, [row | {"step": 0, "through_ns": None}])
    return BillClock(anchor, boot)


def _open_requests(connection: Connection) -> list[Live]:
    rows = connection.execute(select(requests).where(requests.c.settled.is_(False)).order_by(requests.c.id))
    found = []
    for row in rows:
        live = Live(
            id=row.id,
            upstream=row.upstream,
            engine=row.engine,
            started_ns=row.started_ns,
            model=row.model or "",
            tenant=row.tenant or "",
            ended_ns=row.ended_ns,
            outcome=row.outcome,
            first_token_ns=row.first_token_ns,
            usage=Usage(
                input_tokens=row.input_tokens,
                input_cached_tokens=row.input_cached_tokens,
                output_tokens=row.output_tokens,
            ),
            gpu_ns=row.gpu_ns,
            nano=row.nano,
            seen_ns=row.seen_ns,
            currency=row.currency,
            unpriced=row.unpriced,
        )
        if row.progress_ns is not None:
            live.points.append((row.progress_ns, row.progress_tokens))
        found.append(live)
    return found


def _totals(connection: Connection, found: Opened) -> None:
    e = entries.c
    currencies = {(a.gpu, a.from_ns): a.currency for a, _, _ in reading.read_accounts(connection)}
    sums = select(
        e.gpu, e.account_ns, e.state, e.tenant, e.model, func.sum(e.nano).label("nano"), func.sum(e.gpu_ns).label("ns")
    ).group_by(e.gpu, e.account_ns, e.state, e.tenant, e.model)
    for row in connection.execute(sums):
        if not row.gpu:
            continue
        slot = (row.gpu, row.state)
        found.slot_ns[slot] = found.slot_ns.get(slot, 0) + row.ns
        currency = currencies.get((row.gpu, row.account_ns))
        if currency is not None:
            key = (row.state, row.tenant, row.model, currency)
            found.cost_nano[key] = found.cost_nano.get(key, 0) + row.nano
