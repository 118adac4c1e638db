"""Sidecar batches in, rows of requests out. Every function here runs inside one transaction of its caller."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    bindparam,
    select,
    true,
    update,
)

from agent.core.admission import MAX_SEQUENCE
from agent.core.requests import (
    RecordBatch,
    RecordReceipt,
    RefusedEvent,
    RequestEnded,
    RequestEvent,
    RequestProgressed,
    RequestRecord,
    RequestStarted,
)
from agent.ledger import moving
from agent.ledger.dialects import greatest, insert
from agent.ledger.ids import to_key
from agent.ledger.memory import Memory
from agent.ledger.numbering import Numbers
from agent.ledger.storing import LOST as LOST
from agent.ledger.storing import mark_lost, store
from agent.ledger.tables import node_state, requests, sidecars

_count_ended = update(node_state).values(ended=node_state.c.ended + bindparam("more"))
FOREIGN = "its id is that of a request of another sender"


@dataclass(slots=True)
class Accepted:
    """What was new in a batch; repeats are only counted in the receipt."""

    receipt: RecordReceipt
    started: list[RequestStarted] = field(default_factory=list)
    progressed: list[RequestProgressed] = field(default_factory=list)
    ended: list[RequestRecord] = field(default_factory=list)
    revised: set[str] = field(default_factory=set)  # of `ended`: ids whose end was taken for lost until now
    lost: dict[str, int] = field(default_factory=dict)  # request id -> when its sidecar was last heard (bill clock)
    missing: int = 0  # event numbers of this start that never came


def accept(
    connection: Connection,
    batch: RecordBatch,
    skew_ns: int,
    memory: Memory,
    sender: str = "",
    refused: Sequence[RefusedEvent] = (),
    *,
    ends_older: bool = True,
) -> Accepted:
    """Store what is new in `batch`; instants are moved by `skew_ns` to the bill's clock.

    `refused` are the events that were sorted out of it before: their numbers count as come, so that nothing waits for
    them. A request belongs to the sender and sidecar that told it first; what others say of it is refused here.
    With `ends_older`, what earlier starts of this sidecar left open is given up: whoever speaks now is not they. (Not
    what a late batch of an earlier start itself brings: numbers of starts come from clocks, and those step back.)
    """
    numbers, heard_before = _mark_of(connection, batch, sender)
    is_new = [numbers.add(event.sequence) for event in batch.events]
    for sequence in (event.sequence for event in refused):
        if sequence is not None and 1 <= sequence <= MAX_SEQUENCE:
            numbers.add(sequence)
    ids = [event.record.id if isinstance(event, RequestEnded) else event.id for event in batch.events]
    taken = _Sorted(_known(connection, set(ids), memory), batch.sidecar, sender)
    for event, request_id, new in zip(batch.events, ids, is_new, strict=True):
        taken.take(event, request_id, new)
    accepted = Accepted(
        RecordReceipt(
            accepted_through=numbers.through,
            repeated=len(batch.events) - taken.count,
            refused=_in_order(batch, refused, taken.foreign),
        ),
        taken.started,
        taken.progressed,
        taken.ended,
        taken.revised,
        missing=numbers.missing,
    )
    fresh = [record for record in taken.ended if record.id not in taken.settled]
    store(connection, memory, (batch.sidecar, batch.epoch, sender), skew_ns, taken.started, taken.last_progress, fresh)
    for record in taken.ended:
        if record.id in taken.settled:
            moving.revise(connection, record, skew_ns, memory.places)
    if taken.ended:
        connection.execute(_count_ended, {"more": len(taken.ended)})
    heard = max(_instants(batch), default=batch.sent_at_ns) + skew_ns
    stored = insert(connection, sidecars).values(
        sidecar=batch.sidecar,
        epoch=batch.epoch,
        sender=sender,
        accepted_through=numbers.through,
        holes=numbers.holes,
        heard_ns=heard if heard_before is None else max(heard, heard_before),
    )
    changes = {name: stored.excluded[name] for name in ("accepted_through", "holes", "heard_ns")}
    connection.execute(stored.on_conflict_do_update(index_elements=["sidecar", "epoch", "sender"], set_=changes))
    if ends_older:
        accepted.lost = _lose_older(connection, batch.sidecar, batch.epoch, sender, memory)
    return accepted


def _mark_of(connection: Connection, batch: RecordBatch, sender: str) -> tuple[Numbers, int | None]:
    """Which numbers of this start came, and when it was last heard, if ever."""
    key = (sidecars.c.sidecar == batch.sidecar, sidecars.c.epoch == batch.epoch, sidecars.c.sender == sender)
    columns = (sidecars.c.accepted_through, sidecars.c.holes, sidecars.c.heard_ns)
    row = connection.execute(select(*columns).where(*key)).one_or_none()
    return (Numbers(), None) if row is None else (Numbers(row.accepted_through, row.holes), row.heard_ns)


def _is_theirs(table: Table, sender: str) -> ColumnElement[bool]:
    """Rows of the same sender, or of the time when nobody was asked who he is: then names are all there is to go by."""
    return table.c.sender.in_((sender, "")) if sender else true()


class _Known(NamedTuple):
    outcome: str | None
    sidecar: str
    sender: str
    is_settled: bool = False


class _Sorted:
    """The events of a batch by what they are; repeats are in none of the lists."""

    def __init__(self, known: dict[str, _Known], sidecar: str, sender: str) -> None:
        self._known = known
        self._sidecar = sidecar
        self._sender = sender
        self.started: list[RequestStarted] = []
        self.progressed: list[RequestProgressed] = []
        self.ended: list[RequestRecord] = []
        self.revised: set[str] = set()
        self.settled: set[str] = set()  # those of `ended` whose cost is final already
        self.last_progress: dict[str, RequestProgressed] = {}
        self.foreign: set[int] = set()  # their numbers

    @property
    def count(self) -> int:
        return len(self.started) + len(self.progressed) + len(self.ended) + len(self.foreign)

    def take(self, event: RequestEvent, request_id: str, new: bool) -> None:
        """`new`: its number did not come before."""
        found = self._known.get(request_id)
        if found is not None and not self._is_ours(found):
            self.foreign.add(event.sequence)  # also when it comes again: its sender may not have heard it
        elif isinstance(event, RequestProgressed):
            if new:
                self._progress(event)
        # Whether a start or an end is new, its request tells and not its number: an event that was refused has used up
        # its number, and comes again when the cause is mended and its dead letter replayed.
        elif isinstance(event, RequestStarted):
            if found is None:
                self._known[event.id] = self._own(None)
                self.started.append(event)
        elif found is None or found.outcome in (None, LOST):
            if found is not None and found.outcome == LOST:
                self.revised.add(event.record.id)
                if found.is_settled:
                    self.settled.add(event.record.id)
            self._known[event.record.id] = self._own(event.record.outcome)
            self.ended.append(event.record)

    def _progress(self, event: RequestProgressed) -> None:
        self.progressed.append(event)
        before = self.last_progress.get(event.id)
        if before is None or before.at_ns < event.at_ns:
            self.last_progress[event.id] = event

    def _is_ours(self, found: _Known) -> bool:
        same = found.sender == self._sender or not found.sender or not self._sender
        return same and found.sidecar == self._sidecar

    def _own(self, outcome: str | None) -> _Known:
        return _Known(outcome, self._sidecar, self._sender)


def _in_order(batch: RecordBatch, refused: Sequence[RefusedEvent], foreign: set[int]) -> tuple[RefusedEvent, ...]:
    """All refused events, `foreign` numbers among them, by their place in the batch as it was sent."""
    if not foreign:
        return tuple(refused)
    out = {event.index for event in refused}
    places = (index for index in itertools.count() if index not in out)
    told = [
        RefusedEvent(index=index, kind="sender", reason=FOREIGN, sequence=event.sequence)
        for event, index in zip(batch.events, places, strict=False)
        if event.sequence in foreign
    ]
    return tuple(sorted((*refused, *told), key=lambda event: event.index))


def _instants(batch: RecordBatch) -> Iterator[int]:
    for event in batch.events:
        if isinstance(event, RequestEnded):
            yield event.record.ended_at_ns
        else:
            yield event.at_ns if isinstance(event, RequestProgressed) else event.started_at_ns


def _known(connection: Connection, ids: set[str], memory: Memory) -> dict[str, _Known]:
    found: dict[str, _Known] = {}
    rows, asked = memory.requests.rows(connection), {}
    for request_id in ids:
        told = rows.get(request_id)
        if told is not None:
            found[request_id] = _Known(told.outcome, told.sidecar, told.sender)
            continue
        key = to_key(request_id)
        if memory.requests.may_be_settled(key):
            asked[key] = request_id
    for key, outcome, figures in moving.known(connection, sorted(asked)):
        found[asked[key]] = _Known(outcome, *memory.places.who(connection, figures.teller), is_settled=True)
    return found


def _lose_older(connection: Connection, sidecar: str, epoch: int, sender: str, memory: Memory) -> dict[str, int]:
    """Open requests of starts of a sidecar before `epoch`: they ended, unseen, when that start was last heard.

    A late batch of an old start may show that it was heard longer: what is not settled yet is corrected.
    """
    marks = sidecars.c
    end = greatest(connection.dialect.name, requests.c.started_ns, marks.heard_ns).label("end_ns")
    same = (marks.sidecar == requests.c.sidecar) & (marks.epoch == requests.c.epoch)
    rows = connection.execute(
        select(requests.c.id, end)
        .join(sidecars, same & (marks.sender == requests.c.sender))
        .where(
            requests.c.outcome.is_(None) | ((requests.c.outcome == LOST) & (requests.c.ended_ns < end)),
            requests.c.sidecar == sidecar,
            requests.c.epoch < epoch,
            _is_theirs(requests, sender),
        )
    )
    return mark_lost(connection, memory, {row.id: row.end_ns for row in rows})


def lose(
    connection: Connection, sidecar: str, epoch: int, at_ns: int, memory: Memory, sender: str = ""
) -> dict[str, int]:
    """Give up the open requests of a sidecar that fell silent at `at_ns`: request id -> end. A later end revises it."""
    rows = connection.execute(
        select(requests.c.id, requests.c.started_ns).where(
            requests.c.outcome.is_(None),
            requests.c.sidecar == sidecar,
            requests.c.epoch == epoch,
            requests.c.sender == sender,
        )
    )
    return mark_lost(connection, memory, {row.id: max(row.started_ns, at_ns) for row in rows})
