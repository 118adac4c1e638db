"""What was told of requests in, rows of table `requests` out, and what the writer remembers of them kept in step."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Executable, bindparam, false, func, literal_column, update

from agent.core.requests import RequestProgressed, RequestRecord, RequestStarted
from agent.ledger.dialects import Many, greatest, insert
from agent.ledger.ids import to_key
from agent.ledger.memory import Memory
from agent.ledger.open_requests import Told
from agent.ledger.tables import requests

LOST = "lost"  # outcome of a request whose sidecar started anew, or fell silent, without telling its end

_TOLD = (
    "id", "sidecar", "epoch", "sender", "upstream", "engine", "model", "tenant", "started_ns", "first_token_ns",
    "ended_ns", "outcome", "input_tokens", "input_cached_tokens", "output_tokens", "seen_by", "attempt",
    "max_output_tokens", "input_estimate", "progress_ns", "progress_tokens",
)  # fmt: skip
_START = ("id", "sidecar", "epoch", "sender", "upstream", "engine", "model", "tenant", "started_ns", "input_estimate")
_END = (
    "first_token_ns", "ended_ns", "outcome", "input_tokens", "input_cached_tokens", "output_tokens", "seen_by",
    "attempt", "max_output_tokens", "model", "tenant", "input_estimate",
)  # fmt: skip
_ZERO = ("gpu_ns", "nano", "work_ns", "energy_uj", "metered_ns", "seen_ns")


def _new_row(name: str) -> Any:
    values: dict[str, Any] = {column: bindparam(column) for column in _TOLD} | dict.fromkeys(_ZERO, literal_column("0"))
    return insert(name, requests).values(values | {"unpriced": false()})


def _insert_ended(name: str) -> Executable:
    statement = _new_row(name)
    new, old = statement.excluded, requests.c
    names = (
        "first_token_ns", "outcome", "input_tokens", "input_cached_tokens", "output_tokens", "seen_by", "attempt",
        "max_output_tokens",
    )  # fmt: skip
    changes: dict[str, Any] = {name: new[name] for name in names}
    # What was told first stays; and by a better known skew an end must not come before its start.
    changes |= {name: func.coalesce(old[name], new[name]) for name in ("model", "tenant", "input_estimate")}
    changes["ended_ns"] = greatest(name, old.started_ns, new.ended_ns)
    return statement.on_conflict_do_update(index_elements=["id"], set_=changes)  # type: ignore[no-any-return]


def _update_progress(_: str) -> Executable:
    at, outcome = requests.c.progress_ns, requests.c.outcome
    statement = update(requests).where(
        requests.c.id == bindparam("key"),
        outcome.is_(None) | (outcome == bindparam("lost")),
        at.is_(None) | (at < bindparam("before")),  # told again, it must not take back what is known better
    )
    return statement.values(progress_ns=bindparam("at"), progress_tokens=bindparam("tokens"))


_ended = Many(_TOLD, _insert_ended)


def _insert_started(name: str) -> Executable:
    """Nothing but what a start tells: what is bound costs, even if it is None."""
    values: dict[str, Any] = {column: bindparam(column) for column in _START}
    values |= dict.fromkeys(_ZERO, literal_column("0")) | {"attempt": literal_column("0"), "unpriced": false()}
    values["seen_by"] = literal_column("'sidecar'")
    return insert(name, requests).values(values).on_conflict_do_nothing()


def _update_ended(name: str) -> Executable:
    """As `_insert_ended`, for a request that has a row."""
    old = requests.c
    changes: dict[str, Any] = {column: bindparam(f"new_{column}") for column in _END}
    kept = {column: func.coalesce(old[column], changes[column]) for column in ("model", "tenant", "input_estimate")}
    changes |= kept | {"ended_ns": greatest(name, old.started_ns, changes["ended_ns"])}
    return update(requests).where(old.id == bindparam("key")).values(changes)


_started = Many(_START, _insert_started)
_over = Many((*(f"new_{column}" for column in _END), "key"), _update_ended)
_progressed = Many(("at", "tokens", "key", "lost", "before"), _update_progress)


Teller = tuple[str, int, str]  # sidecar, epoch, sender


def store(
    connection: Connection,
    memory: Memory,
    teller: Teller,
    skew_ns: int,
    started: Sequence[RequestStarted],
    progressed: Mapping[str, RequestProgressed],
    ended: Sequence[RequestRecord],
) -> None:
    """Write what is new of a batch. A request whose start and end are both in it is written once, as one row.

    `progressed`: the last of each request.
    """
    told, starts, progress = memory.requests.rows(connection), {event.id: event for event in started}, dict(progressed)
    whole, over = [], []
    for record in ended:
        start = starts.pop(record.id, None)
        if start is None and record.id in told:
            over.append(_over_row(record, skew_ns, told))
            continue
        last = progress.pop(record.id, None) if start is not None else None
        whole.append(_ended_row(record, teller, start, last, skew_ns, told))
    _started.run(connection, [_started_row(event, teller, skew_ns, told) for event in starts.values()])
    late = []
    for event in progress.values():
        row, at = told.get(event.id), event.at_ns + skew_ns
        if row is not None:  # of others there is no row
            late.append((at, event.output_tokens, row.key, LOST, at))
    _progressed.run(connection, late)
    _ended.run(connection, whole)
    _over.run(connection, over)


def _started_row(event: RequestStarted, teller: Teller, skew_ns: int, told: dict[str, Told]) -> tuple[Any, ...]:
    key, started, estimate = to_key(event.id), event.started_at_ns + skew_ns, event.input_tokens_estimate
    told[event.id] = Told(
        key, teller[0], teller[2], None, started, None, None, None, None, None, estimate, 0, "sidecar"
    )
    return (key, *teller, event.upstream, event.upstream, event.model, event.tenant, started, estimate)


def _over_row(record: RequestRecord, skew_ns: int, told: dict[str, Told]) -> tuple[Any, ...]:
    """The end of a request that has a row; what its start told goes first."""
    first, usage, before = record.first_token_at_ns, record.usage, told[record.id]
    begin, estimate = before.started_ns, record.input_tokens_estimate
    ended = max(record.started_at_ns, record.ended_at_ns) + skew_ns
    tokens = (usage.input_tokens, usage.input_cached_tokens, usage.output_tokens)
    most, attempt, seen_by = record.max_output_tokens, record.attempt, record.seen_by
    guess = estimate if before.input_estimate is None else before.input_estimate
    told[record.id] = Told(
        *before[:3], record.outcome, begin, max(begin, ended), *tokens, most, guess, attempt, seen_by
    )
    return (
        None if first is None else first + skew_ns, ended, record.outcome, *tokens, seen_by, attempt, most,
        record.model, record.tenant, estimate, before.key,
    )  # fmt: skip


def _ended_row(
    record: RequestRecord,
    teller: Teller,
    start: RequestStarted | None,
    progress: RequestProgressed | None,
    skew_ns: int,
    told: dict[str, Told],
) -> tuple[Any, ...]:
    """`start`: told in the same batch, before the end; what it tells goes first."""
    key, first, usage = to_key(record.id), record.first_token_at_ns, record.usage
    model, tenant, estimate = record.model, record.tenant, record.input_tokens_estimate
    upstream, started = record.upstream, record.started_at_ns
    ended = max(started, record.ended_at_ns) + skew_ns
    if start is not None:
        upstream, started = start.upstream, start.started_at_ns
        model = model if start.model is None else start.model
        tenant = tenant if start.tenant is None else start.tenant
        estimate = estimate if start.input_tokens_estimate is None else start.input_tokens_estimate
    started += skew_ns
    ended = max(started, ended)
    tokens = (usage.input_tokens, usage.input_cached_tokens, usage.output_tokens)
    most, attempt, seen_by = record.max_output_tokens, record.attempt, record.seen_by
    told[record.id] = Told(
        key, teller[0], teller[2], record.outcome, started, ended, *tokens, most, estimate, attempt, seen_by
    )
    return (
        key, *teller, upstream, upstream, model, tenant, started, None if first is None else first + skew_ns, ended,
        record.outcome, *tokens, seen_by, attempt, most, estimate,
        None if progress is None else progress.at_ns + skew_ns, None if progress is None else progress.output_tokens,
    )  # fmt: skip


_lost = Many(
    ("at", "lost", "key"),
    lambda _: (
        update(requests)
        .where(requests.c.id == bindparam("key"))
        .values(ended_ns=bindparam("at"), outcome=bindparam("lost"))
    ),
)


def mark_lost(connection: Connection, memory: Memory, lost: dict[str, int]) -> dict[str, int]:
    """Give requests up: request id -> the end it is given."""
    told, rows = memory.requests.rows(connection), []
    for request_id, at in lost.items():
        told[request_id] = told[request_id]._replace(outcome=LOST, ended_ns=at)
        rows.append((at, LOST, told[request_id].key))
    _lost.run(connection, rows)
    return lost
