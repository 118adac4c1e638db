"""Requests whose cost is final: out of `requests`, into `settled_requests`. And what is told of them after that."""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, LargeBinary, bindparam, delete, select, type_coerce, update

from agent.core.cost.closed import MINUTE_NS
from agent.core.cost.live import Booking, Live
from agent.core.requests import RequestRecord
from agent.ledger.dialects import Lookup, Many, insert
from agent.ledger.ids import to_key
from agent.ledger.memory import Memory
from agent.ledger.places import COLUMNS, Key, Places, key_of
from agent.ledger.settled import Figures, pack, unpack
from agent.ledger.tables import places as places_table
from agent.ledger.tables import requests, settled_requests

_r, _s = requests.c, settled_requests.c
_settled_key = type_coerce(_s.id, LargeBinary)
_forget = Lookup(lambda keys: delete(requests).where(type_coerce(_r.id, LargeBinary).in_(keys)))
_SETTLED = [column.name for column in settled_requests.c]
_move = Many(_SETTLED, lambda name: insert(name, settled_requests).values({name: bindparam(name) for name in _SETTLED}))


def settle(connection: Connection, settled: Sequence[Live], memory: Memory) -> None:
    """Move requests. What they cost says the tariff, what was told of them the row: it may have changed since.

    One without a row was never told by anybody: it has its entries, and nobody asks for it.
    """
    rows, places = memory.requests.rows(connection), memory.places
    found = []
    for live in settled:
        told = rows.pop(live.id, None)
        if told is not None:
            found.append((live, told, _place_of(live, told.outcome or "error")))
    numbers = places.ids(connection, [place for *_, place in found])
    moved = []
    for live, told, place in found:
        key, sidecar, sender, _, started, ended, inputs, cached, output, most, guess, attempt, seen_by = told
        figures = Figures(
            started, started if ended is None else ended, places.teller(connection, sidecar, sender), inputs, cached,
            output, most, guess, attempt, seen_by, live.work_ns, live.energy_uj, live.metered_ns, live.seen_ns,
            live.currency is not None, live.unpriced,
        )  # fmt: skip
        moved.append((key, numbers[place], live.gpu_ns, live.nano, pack(key, live.gpu_ns, figures)))
    moved.sort()  # neighbours are written together, and pages become fuller
    _move.run(connection, moved)
    keys = [row[0] for row in moved]
    _forget.run(connection, keys)
    memory.requests.settled(keys)


def _place_of(live: Live, outcome: str) -> Key:
    booking = live.last_booking
    if booking is None:
        end = live.ended_ns or live.started_ns
        booking = Booking(end - end % MINUTE_NS, "", 0, "request", live.engine, live.model, live.tenant, outcome)
    return booking[1:] if booking.outcome == outcome else key_of(booking, outcome)


_known = Lookup(
    lambda keys: (
        select(_settled_key, _s.gpu_ns, _s.figures, places_table.c.outcome)
        .join_from(settled_requests, places_table, _s.place == places_table.c.id)
        .where(_settled_key.in_(keys))
    )
)


def known(connection: Connection, keys: Sequence[bytes]) -> Iterable[tuple[bytes, str, Figures]]:
    """Those of `keys` that are settled, with their outcome."""
    for key, gpu_ns, figures, outcome in _known.rows(connection, keys):
        yield key, outcome, unpack(key, gpu_ns, figures)


def revise(connection: Connection, record: RequestRecord, skew_ns: int, places: Places) -> None:
    """The true end of a request that was settled as lost: outcome and tokens. What it cost stays."""
    key = to_key(record.id)
    columns = [places_table.c[name] for name in COLUMNS]
    question = select(_s.gpu_ns, _s.figures, *columns).join_from(
        settled_requests, places_table, _s.place == places_table.c.id
    )
    gpu_ns, figures, *place = connection.execute(question.where(_s.id == record.id)).one()
    before = unpack(key, gpu_ns, figures)
    now = before._replace(
        ended_ns=max(before.started_ns, record.ended_at_ns + skew_ns),
        input_tokens=record.usage.input_tokens,
        input_cached_tokens=record.usage.input_cached_tokens,
        output_tokens=record.usage.output_tokens,
        max_output_tokens=record.max_output_tokens,
        attempt=record.attempt,
    )
    ended = key_of(Booking(0, *place), record.outcome)
    values = {"place": places.ids(connection, [ended])[ended], "figures": pack(key, gpu_ns, now)}
    connection.execute(update(settled_requests).where(_s.id == record.id).values(values))
