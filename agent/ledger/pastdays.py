"""Days that are over, summed over their GPUs: long reports read a few hundred rows a day in place of thousands.

The sums lie in a temporary table of the reading connection (SQLite; PostgreSQL sums quickly enough without), made from
the rows of whole days by `fill`. They say what those rows said; when a step changes such a day after all (a request
that ran over midnight ends), its sums are thrown away, and reports read the rows until the next `fill`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    and_,
    delete,
    func,
    insert,
    select,
)
from sqlalchemy.schema import CreateTable

from agent.ledger.dialects import SQLITE
from agent.ledger.kept import read_kept
from agent.ledger.rollup import AMOUNTS
from agent.ledger.tables import DAY, accounts, entries, places
from agent.ledger.windows import Kept

COLUMNS = ("tenant", "model", "state", "outcome", "engine", "engine_group", "namespace")
"""Of a place: what the sums can be asked for."""
MOST_DAYS = 100  # about 6 MB of memory for a busy node

past_days = Table(
    "past_days",
    MetaData(),
    Column("day", Integer, primary_key=True, autoincrement=False),  # its first minute
    Column("currency", String, primary_key=True),  # '': no price
    *(Column(name, String, primary_key=True) for name in COLUMNS),
    *(Column(name, BigInteger, nullable=False) for name in AMOUNTS),
    prefixes=["TEMPORARY"],
    sqlite_with_rowid=False,
)


class Look(NamedTuple):
    """What was going on when a transaction began."""

    changes: int
    changing_from: int | None  # this minute and later ones are being written


class PastDays:
    """Which days are summed up. One reading connection uses it; whoever writes tells it, from any thread.

    A transaction that reads takes a `look` before anything else. Days that changed since, or that are being changed,
    are not known to it, so that it sees either all of a change or nothing of it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._changes = 0
        self._changing: list[int] = []
        self._days: dict[int, int] = {}  # first minute of a day whose sums are right -> of the day after

    @contextmanager
    def changing(self, minute: int) -> Iterator[None]:
        """Hold this while rows of this minute or later ones are written, until that is committed or given up."""
        with self._lock:
            self._changing.append(minute)
        try:
            yield
        finally:
            with self._lock:
                self._changing.remove(minute)
                self._changes += 1
                self._days = {day: end for day, end in self._days.items() if end <= minute}

    def look(self) -> Look:
        """To be taken before a transaction reads anything."""
        with self._lock:
            return Look(self._changes, min(self._changing, default=None))

    def known(self, look: Look) -> list[tuple[int, int]]:
        """[first minute, end) of the days whose sums hold what this transaction sees, ascending."""
        with self._lock:
            if look.changes != self._changes:
                return []
            limits = [*self._changing, *([look.changing_from] if look.changing_from is not None else [])]
            limit = min(limits, default=None)
            return sorted((day, end) for day, end in self._days.items() if limit is None or end <= limit)

    def fill(self, connection: Connection, most_days: int = MOST_DAYS) -> dict[int, int]:
        """Sum up the newest days that are over and not summed up yet. Give the answer to `keep` after the commit."""
        if connection.dialect.name != SQLITE:
            return {}
        connection.execute(CreateTable(past_days, if_not_exists=True))
        with self._lock:
            right = set(self._days)
        wanted = _days_before(read_kept(connection), most_days)
        connection.execute(delete(past_days).where(past_days.c.day.not_in(right.intersection(wanted))))
        made = {day: end for day, end in wanted.items() if day not in right}
        for day in made:
            _sum_up(connection, day)
        return made

    def keep(self, look: Look, made: Mapping[int, int]) -> None:
        """What `fill` made is committed. `look` was taken before that transaction read anything."""
        with self._lock:
            if look.changes == self._changes:
                self._days |= made


def _days_before(kept: Kept, most: int) -> dict[int, int]:
    """The newest days that are rolled up wholly: first minute -> that of the day after."""
    found: dict[int, int] = {}
    day = kept.bounds(DAY, min(kept.rolled, kept.end))[0]
    while day > kept.first and len(found) < most:
        day, end = kept.bounds(DAY, day - 1)
        found[day] = end
    return found


def _sum_up(connection: Connection, day: int) -> None:
    e, p, a = entries.c, places.c, accounts.c
    currency = func.coalesce(a.currency, "")
    names = [p[name] for name in COLUMNS]
    joined = entries.join(places, p.id == e.place).outerjoin(accounts, and_(a.gpu == p.gpu, a.from_ns == p.account_ns))
    sums = select(e.minute, currency, *names, *(func.sum(e[name]) for name in AMOUNTS)).select_from(joined)
    sums = sums.where(e.grain == DAY, e.minute == day).group_by(e.minute, currency, *names)
    connection.execute(insert(past_days).from_select([column.name for column in past_days.c], sums))
