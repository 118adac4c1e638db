"""Sidecar batches in, rows of requests out. Every function here runs inside one transaction of its caller."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Table, Update, bindparam, func, select, true, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import Insert, insert

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
from agent.ledger.numbering import Numbers
from agent.ledger.tables import requests, sidecars

LOST = "lost"  # outcome of a request whose sidecar started anew, or fell silent, without telling its end
FOREIGN = "its id is that of a request of another sender"
_CHUNK = 500


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
    known = _known(connection, {_id(event) for event in batch.events})
    taken = _Sorted(known, batch.sidecar, sender)
    for event, new in zip(batch.events, is_new, strict=True):
        taken.take(event, new)
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
    _write_events(connection, batch, accepted, taken.last_progress, skew_ns, sender)
    heard = max(_instants(batch), default=batch.sent_at_ns) + skew_ns
    stored = insert(sidecars).values(
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
        accepted.lost = _lose_older(connection, batch.sidecar, batch.epoch, sender)
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
        self.last_progress: dict[str, RequestProgressed] = {}
        self.foreign: set[int] = set()  # their numbers

    @property
    def count(self) -> int:
        return len(self.started) + len(self.progressed) + len(self.ended) + len(self.foreign)

    def take(self, event: RequestEvent, new: bool) -> None:
        """`new`: its number did not come before."""
        found = self._known.get(_id(event))
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


def _id(event: RequestEvent) -> str:
    return event.record.id if isinstance(event, RequestEnded) else event.id


def _known(connection: Connection, ids: set[str]) -> dict[str, _Known]:
    found: dict[str, _Known] = {}
    ordered = sorted(ids)
    columns = (requests.c.id, requests.c.outcome, requests.c.sidecar, requests.c.sender)
    for at in range(0, len(ordered), _CHUNK):
        chunk = ordered[at : at + _CHUNK]
        for row in connection.execute(select(*columns).where(requests.c.id.in_(chunk))):
            found[row.id] = _Known(row.outcome, row.sidecar, row.sender)
    return found


def _lose_older(connection: Connection, sidecar: str, epoch: int, sender: str) -> dict[str, int]:
    """Open requests of starts of a sidecar before `epoch`: they ended, unseen, when that start was last heard.

    A late batch of an old start may show that it was heard longer: what is not settled yet is corrected.
    """
    marks = sidecars.c
    end = func.max(requests.c.started_ns, marks.heard_ns).label("end_ns")
    same = (marks.sidecar == requests.c.sidecar) & (marks.epoch == requests.c.epoch)
    rows = connection.execute(
        select(requests.c.id, end)
        .join(sidecars, same & (marks.sender == requests.c.sender))
        .where(
            requests.c.settled.is_(False),
            requests.c.outcome.is_(None) | ((requests.c.outcome == LOST) & (requests.c.ended_ns < end)),
            requests.c.sidecar == sidecar,
            requests.c.epoch < epoch,
            _is_theirs(requests, sender),
        )
    )
    return _mark_lost(connection, {row.id: row.end_ns for row in rows})


def lose(connection: Connection, sidecar: str, epoch: int, at_ns: int, sender: str = "") -> dict[str, int]:
    """Give up the open requests of a sidecar that fell silent at `at_ns`: request id -> end. A later end revises it."""
    rows = connection.execute(
        select(requests.c.id, requests.c.started_ns).where(
            requests.c.settled.is_(False),
            requests.c.outcome.is_(None),
            requests.c.sidecar == sidecar,
            requests.c.epoch == epoch,
            requests.c.sender == sender,
        )
    )
    return _mark_lost(connection, {row.id: max(row.started_ns, at_ns) for row in rows})


def _mark_lost(connection: Connection, lost: dict[str, int]) -> dict[str, int]:
    if lost:
        statement = update(requests).where(requests.c.id == bindparam("key"))
        statement = statement.values(ended_ns=bindparam("at"), outcome=LOST)
        connection.execute(statement, [{"key": key, "at": at} for key, at in lost.items()])
    return lost


class _Many:
    """A statement for many rows, compiled once. SQLAlchemy works out the parameters of each row: half of the time."""

    def __init__(self, statement: Insert | Update) -> None:
        compiled = statement.compile(dialect=sqlite.dialect())
        self._sql = str(compiled)
        self._in_order = itemgetter(*(compiled.positiontup or ()))

    def run(self, connection: Connection, rows: Iterable[dict[str, Any]]) -> None:
        connection.exec_driver_sql(self._sql, [self._in_order(row) for row in rows])


def _insert_ended() -> Insert:
    statement = insert(requests).values({name: bindparam(name) for name in _TOLD})
    new, old = statement.excluded, requests.c
    names = ("first_token_ns", "outcome", "input_tokens", "input_cached_tokens", "output_tokens")
    changes: dict[str, Any] = {name: new[name] for name in names}
    # What was told first stays; and by a better known skew an end must not come before its start.
    changes |= {name: func.coalesce(old[name], new[name]) for name in ("model", "tenant")}
    changes["ended_ns"] = func.max(old.started_ns, new.ended_ns)
    return statement.on_conflict_do_update(index_elements=["id"], set_=changes)


def _update_progress() -> Update:
    at, outcome = requests.c.progress_ns, requests.c.outcome
    statement = update(requests).where(
        requests.c.id == bindparam("key"),
        outcome.is_(None) | (outcome == bindparam("lost")),
        at.is_(None) | (at < bindparam("at")),  # told again, it must not take back what is known better
    )
    return statement.values(progress_ns=bindparam("at"), progress_tokens=bindparam("tokens"))


_TOLD = tuple(c.name for c in requests.c if c.name not in ("progress_ns", "progress_tokens", "currency"))
_ended = _Many(_insert_ended())
_started = _Many(insert(requests).values({name: bindparam(name) for name in _TOLD}).on_conflict_do_nothing())
_progressed = _Many(_update_progress())


def _write_events(
    connection: Connection,
    batch: RecordBatch,
    accepted: Accepted,
    last_progress: Mapping[str, RequestProgressed],
    skew_ns: int,
    sender: str,
) -> None:
    common: dict[str, Any] = dict.fromkeys(_TOLD)
    common |= {"sidecar": batch.sidecar, "epoch": batch.epoch, "sender": sender, "gpu_ns": 0, "nano": 0, "seen_ns": 0}
    common |= {"unpriced": False, "settled": False}
    if accepted.started:
        rows = [
            {**common, "id": e.id, "upstream": e.upstream, "engine": e.upstream, "model": e.model, "tenant": e.tenant}
            | {"started_ns": e.started_at_ns + skew_ns}
            for e in accepted.started
        ]
        _started.run(connection, rows)
    if last_progress:
        told = [
            {"key": e.id, "lost": LOST, "at": e.at_ns + skew_ns, "tokens": e.output_tokens}
            for e in last_progress.values()
        ]
        _progressed.run(connection, told)
    if accepted.ended:
        _ended.run(connection, [common | _record_row(record, skew_ns) for record in accepted.ended])


def _record_row(record: RequestRecord, skew_ns: int) -> dict[str, Any]:
    first = record.first_token_at_ns
    return {
        "id": record.id,
        "upstream": record.upstream,
        "engine": record.upstream,
        "model": record.model,
        "tenant": record.tenant,
        "started_ns": record.started_at_ns + skew_ns,
        "first_token_ns": None if first is None else first + skew_ns,
        "ended_ns": max(record.started_at_ns, record.ended_at_ns) + skew_ns,
        "outcome": record.outcome,
        "input_tokens": record.usage.input_tokens,
        "input_cached_tokens": record.usage.input_cached_tokens,
        "output_tokens": record.usage.output_tokens,
    }
