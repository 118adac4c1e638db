"""Settlement steps and sidecar batches in, rows out. Every function here runs inside one transaction of its caller."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert

from agent.core.cost.accounts import Account
from agent.core.cost.closed import Closed
from agent.core.cost.live import Live
from agent.core.requests import (
    RecordBatch,
    RecordReceipt,
    RequestEnded,
    RequestProgressed,
    RequestRecord,
    RequestStarted,
)
from agent.ledger.tables import accounts, entries, node_state, price_segments, requests, sidecars

LOST = "lost"  # outcome of a request whose sidecar started anew, or fell silent, without telling its end
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


def accept(connection: Connection, batch: RecordBatch, skew_ns: int) -> Accepted:
    """Store what is new in `batch`; instants are moved by `skew_ns` to the bill's clock."""
    mark = connection.execute(
        select(sidecars.c.accepted_through).where(sidecars.c.sidecar == batch.sidecar, sidecars.c.epoch == batch.epoch)
    ).scalar()
    fresh = [event for event in batch.events if mark is None or event.sequence > mark]
    through = max([event.sequence for event in batch.events], default=0)
    through = max(through, mark or 0)
    accepted = Accepted(RecordReceipt(accepted_through=through, repeated=len(batch.events) - len(fresh)))
    if mark is None:
        accepted.lost = _lose_older(connection, batch)
    known = _outcomes(connection, {_id(event) for event in fresh})
    last_progress: dict[str, RequestProgressed] = {}
    for event in fresh:
        if isinstance(event, RequestStarted):
            if event.id not in known:
                known[event.id] = None
                accepted.started.append(event)
        elif isinstance(event, RequestProgressed):
            accepted.progressed.append(event)
            last_progress[event.id] = event
        elif known.get(event.record.id) in (None, LOST):
            if known.get(event.record.id) == LOST:
                accepted.revised.add(event.record.id)
            known[event.record.id] = event.record.outcome
            accepted.ended.append(event.record)
    _write_events(connection, batch, accepted, last_progress, skew_ns)
    stored = insert(sidecars).values(
        sidecar=batch.sidecar, epoch=batch.epoch, accepted_through=through, heard_ns=batch.sent_at_ns + skew_ns
    )
    connection.execute(
        stored.on_conflict_do_update(
            index_elements=["sidecar", "epoch"],
            set_={"accepted_through": stored.excluded.accepted_through, "heard_ns": stored.excluded.heard_ns},
        )
    )
    return accepted


def _id(event: RequestStarted | RequestProgressed | RequestEnded) -> str:
    return event.record.id if isinstance(event, RequestEnded) else event.id


def _outcomes(connection: Connection, ids: set[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    ordered = sorted(ids)
    for at in range(0, len(ordered), _CHUNK):
        chunk = ordered[at : at + _CHUNK]
        rows = connection.execute(select(requests.c.id, requests.c.outcome).where(requests.c.id.in_(chunk)))
        found.update({row.id: row.outcome for row in rows})
    return found


def _lose_older(connection: Connection, batch: RecordBatch) -> dict[str, int]:
    """Open requests of earlier starts of this sidecar: they ended, unseen, when it was last heard."""
    rows = connection.execute(
        select(requests.c.id, requests.c.started_ns, sidecars.c.heard_ns)
        .join(sidecars, (sidecars.c.sidecar == requests.c.sidecar) & (sidecars.c.epoch == requests.c.epoch))
        .where(
            requests.c.settled.is_(False),
            requests.c.outcome.is_(None),
            requests.c.sidecar == batch.sidecar,
            requests.c.epoch < batch.epoch,
        )
    )
    return _mark_lost(connection, {row.id: max(row.started_ns, row.heard_ns) for row in rows})


def lose(connection: Connection, sidecar: str, epoch: int, at_ns: int) -> dict[str, int]:
    """Give up the open requests of a sidecar that fell silent at `at_ns`: request id -> end. A later end revises it."""
    rows = connection.execute(
        select(requests.c.id, requests.c.started_ns).where(
            requests.c.settled.is_(False),
            requests.c.outcome.is_(None),
            requests.c.sidecar == sidecar,
            requests.c.epoch == epoch,
        )
    )
    return _mark_lost(connection, {row.id: max(row.started_ns, at_ns) for row in rows})


def _mark_lost(connection: Connection, lost: dict[str, int]) -> dict[str, int]:
    if lost:
        statement = update(requests).where(requests.c.id == bindparam("key"))
        statement = statement.values(ended_ns=bindparam("at"), outcome=LOST)
        connection.execute(statement, [{"key": key, "at": at} for key, at in lost.items()])
    return lost


def _write_events(
    connection: Connection,
    batch: RecordBatch,
    accepted: Accepted,
    last_progress: Mapping[str, RequestProgressed],
    skew_ns: int,
) -> None:
    common = {"sidecar": batch.sidecar, "epoch": batch.epoch, "gpu_ns": 0, "nano": 0, "seen_ns": 0}
    common |= {"unpriced": False, "settled": False}
    if accepted.started:
        rows = [
            common
            | {"id": e.id, "upstream": e.upstream, "engine": e.upstream, "model": e.model, "tenant": e.tenant}
            | {"started_ns": e.started_at_ns + skew_ns}
            for e in accepted.started
        ]
        connection.execute(insert(requests).on_conflict_do_nothing(), rows)
    if last_progress:
        statement = update(requests).where(requests.c.id == bindparam("key"), requests.c.outcome.is_(None))
        statement = statement.values(progress_ns=bindparam("at"), progress_tokens=bindparam("tokens"))
        connection.execute(
            statement,
            [{"key": e.id, "at": e.at_ns + skew_ns, "tokens": e.output_tokens} for e in last_progress.values()],
        )
    if accepted.ended:
        ended = insert(requests)
        names = ("first_token_ns", "outcome", "input_tokens", "input_cached_tokens", "output_tokens")
        changes: dict[str, Any] = {name: ended.excluded[name] for name in names}
        # What was told first stays; and by a better known skew an end must not come before its start.
        changes |= {name: func.coalesce(requests.c[name], ended.excluded[name]) for name in ("model", "tenant")}
        changes["ended_ns"] = func.max(requests.c.started_ns, ended.excluded.ended_ns)
        connection.execute(
            ended.on_conflict_do_update(index_elements=["id"], set_=changes),
            [common | _record_row(record, skew_ns) for record in accepted.ended],
        )


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


def settle(connection: Connection, closed: Closed) -> None:
    """Write one settlement step. A step that is there already (its answer was lost) is left as it is."""
    moved = connection.execute(
        update(node_state)
        .where(node_state.c.step == closed.number - 1)
        .values(step=closed.number, through_ns=closed.through_ns)
    )
    if moved.rowcount != 1:
        step = connection.execute(select(node_state.c.step)).scalar()
        if step == closed.number:
            return
        raise RuntimeError(f"the ledger is at settlement step {step}, this process at {closed.number}: two writers?")
    for account in closed.changed_accounts:
        _write_account(connection, account)
    _write_through(connection, closed)
    _write_entries(connection, closed)
    _write_requests(connection, closed.requests.values(), set(closed.settled))


def _write_account(connection: Connection, account: Account) -> None:
    connection.execute(
        update(accounts)
        .where(accounts.c.gpu == account.gpu, accounts.c.from_ns < account.from_ns)
        .values(is_open=False)
    )
    row = {
        "gpu": account.gpu,
        "from_ns": account.from_ns,
        "gpu_model": account.gpu_model,
        "currency": account.currency,
        "through_ns": account.from_ns,
        "is_open": True,
    }
    # There already: priced anew, or another currency took over before anything was booked.
    opened = insert(accounts)
    opened = opened.on_conflict_do_update(
        index_elements=["gpu", "from_ns"], set_={"currency": opened.excluded.currency}
    )
    connection.execute(opened, [row])
    connection.execute(
        delete(price_segments).where(
            price_segments.c.gpu == account.gpu, price_segments.c.account_ns == account.from_ns
        )
    )
    if account.line is not None:
        connection.execute(
            insert(price_segments),
            [
                {
                    "gpu": account.gpu,
                    "account_ns": account.from_ns,
                    "at_ns": at_ns,
                    "numerator": str(price.numerator),
                    "denominator": str(price.denominator),
                }
                for at_ns, price in account.line.segments
            ],
        )


def _write_through(connection: Connection, closed: Closed) -> None:
    which = (accounts.c.gpu == bindparam("key")) & (accounts.c.from_ns == bindparam("begin"))
    if closed.accounts_through:
        connection.execute(
            update(accounts).where(which).values(through_ns=bindparam("through")),
            [{"key": gpu, "begin": at, "through": to} for (gpu, at), to in closed.accounts_through.items()],
        )
    if closed.retired:
        connection.execute(
            update(accounts).where(which).values(is_open=False),
            [{"key": gpu, "begin": at} for gpu, at in closed.retired],
        )


_new_entry = insert(entries)
_add_entry = _new_entry.on_conflict_do_update(
    index_elements=["bucket_ns", "gpu", "account_ns", "state", "engine", "model", "tenant", "outcome"],
    set_={
        name: entries.c[name] + _new_entry.excluded[name]
        for name in ("gpu_ns", "nano", "requests", "input_tokens", "output_tokens")
    },
)


def _write_entries(connection: Connection, closed: Closed) -> None:
    rows = [
        booking._asdict()
        | {
            "gpu_ns": amount.gpu_ns,
            "nano": amount.nano,
            "requests": amount.requests,
            "input_tokens": amount.input_tokens,
            "output_tokens": amount.output_tokens,
        }
        for booking, amount in closed.entries.items()
    ]
    if rows:
        connection.execute(_add_entry, rows)


def _write_requests(connection: Connection, changed: Iterable[Live], settled: set[str]) -> None:
    rows = [
        {
            "key": request.id,
            "engine_name": request.engine,
            "ns": request.gpu_ns,
            "money": request.nano,
            "seen": request.seen_ns,
            "in_currency": request.currency,
            "no_price": request.unpriced,
            "is_settled": request.id in settled,
        }
        for request in changed
    ]
    if not rows:
        return
    statement = update(requests).where(requests.c.id == bindparam("key"))
    connection.execute(
        statement.values(
            engine=bindparam("engine_name"),
            gpu_ns=bindparam("ns"),
            nano=bindparam("money"),
            seen_ns=bindparam("seen"),
            currency=bindparam("in_currency"),
            unpriced=bindparam("no_price"),
            settled=bindparam("is_settled"),
        ),
        rows,
    )
