"""What is old in, less of it out: minutes, then hours, and rows of settled requests. Days are for ever.

What is forgotten is said first (`node_state.minutes_from`), then deleted in pieces that take some milliseconds each:
steps are written in between, and nobody reads half of a day. Bounds are those of local days.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from sqlalchemy import Connection, LargeBinary, bindparam, delete, func, select, type_coerce, update

from agent.core.cost.calendar import MINUTE_NS
from agent.ledger.dialects import Many
from agent.ledger.ids import first_key
from agent.ledger.rollup import Eras
from agent.ledger.settled import unpack
from agent.ledger.tables import HOUR, MINUTE, entries, node_state, settled_requests

DAY_NS = 24 * 60 * MINUTE_NS
ROWS = 2000  # deleted in one transaction, or one minute's

Work = Callable[[Connection], int | None]
"""One transaction's worth: rows deleted, None when there is nothing left to do."""


class Retention(NamedTuple):
    """How many days of each are kept."""

    minutes_days: int = 3
    hours_days: int = 100
    requests_days: int = 14


class Kept(NamedTuple):
    """In Unix minutes. Before `rolled_minute` every grain holds what is kept of it, after it there are minutes only."""

    minutes_from: int
    hours_from: int
    rolled_minute: int | None


def kept(connection: Connection) -> Kept:
    """What the ledger holds."""
    state = connection.execute(select(node_state)).one()
    return Kept(state.minutes_from, state.hours_from, state.rolled_minute)


def works(now_ns: int, keep: Retention, eras: Eras) -> Iterator[Work]:
    """What to do, one after the other, each until it answers None."""
    minute = now_ns // MINUTE_NS

    def floor(days: int) -> int:
        return eras.day(max(0, minute - days * 24 * 60))[0]

    minutes, hours = floor(keep.minutes_days), floor(keep.hours_days)
    yield _Raise(minutes, min(minutes, hours), eras)
    yield lambda connection: _delete_entries(connection, MINUTE)
    yield lambda connection: _delete_entries(connection, HOUR)
    yield Requests(now_ns - keep.requests_days * DAY_NS)


class _Raise:
    """Says what is forgotten from now on: never what is not rolled up, and never less than before."""

    def __init__(self, minutes_from: int, hours_from: int, eras: Eras) -> None:
        self._wanted = (minutes_from, hours_from)
        self._eras = eras

    def __call__(self, connection: Connection) -> None:
        state = connection.execute(select(node_state)).one()
        if state.rolled_minute is None:
            return
        wanted = [self._eras.day(min(at, state.rolled_minute))[0] for at in self._wanted]
        values = {"minutes_from": max(state.minutes_from, wanted[0]), "hours_from": max(state.hours_from, wanted[1])}
        connection.execute(update(node_state).values(values))


def _delete_entries(connection: Connection, grain: int) -> int | None:
    state = kept(connection)
    end = state.minutes_from if grain == MINUTE else state.hours_from
    of_grain = (entries.c.grain == grain) & (entries.c.minute < end)
    oldest = select(entries.c.minute).where(of_grain).order_by(entries.c.minute)
    last = connection.execute(oldest.offset(ROWS).limit(1)).scalar()
    if last is None:
        return connection.execute(delete(entries).where(of_grain)).rowcount or None
    first = connection.execute(select(func.min(entries.c.minute)).where(of_grain)).scalar_one()
    return connection.execute(delete(entries).where(of_grain, entries.c.minute < max(last, first + 1))).rowcount


_key = type_coerce(settled_requests.c.id, LargeBinary)
_forget = Many(("key",), lambda _: delete(settled_requests).where(settled_requests.c.id == bindparam("key")))


class Requests:
    """Forgets settled requests that ended before an instant. Keys are in order of time, but for odd ids."""

    def __init__(self, before_ns: int) -> None:
        self._before_ns = before_ns
        # UUIDv7 up to that time; then the odd ones, whatever their age.
        at_ms = max(0, before_ns // 1_000_000)
        self._ranges = [(b"", first_key(at_ms)), (b"\xff", None)]

    def __call__(self, connection: Connection) -> int | None:
        """Look at some rows, from where the last call ended."""
        if not self._ranges:
            return None
        after, end = self._ranges[0]
        s = settled_requests.c
        question = select(_key, s.gpu_ns, s.figures).where(_key > after).order_by(_key).limit(ROWS)
        rows = connection.execute(question if end is None else question.where(_key < end)).all()
        if len(rows) < ROWS:
            self._ranges.pop(0)
        else:
            self._ranges[0] = (rows[-1][0], end)
        old = [(key,) for key, gpu_ns, figures in rows if self._is_old(key, gpu_ns, figures)]
        _forget.run(connection, old)
        return len(old)

    def _is_old(self, key: bytes, gpu_ns: int, figures: bytes) -> bool:
        try:
            return unpack(key, gpu_ns, figures).ended_ns < self._before_ns
        except ValueError:
            return False  # damaged: `engineroom ledger check` tells of it
