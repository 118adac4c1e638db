"""Complete minutes in, the same in hours and days of the report's time zone out; so that long reports read days."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

from sqlalchemy import (
    Connection,
    Executable,
    Integer,
    SmallInteger,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    update,
)

from agent.core.cost.calendar import MINUTE_NS, Bounds, Calendar
from agent.ledger.dialects import Insert, Many, insert
from agent.ledger.tables import DAY, HOUR, MINUTE, calendars, entries, node_state

AMOUNTS = tuple(column.name for column in entries.c if not column.primary_key)


class Eras:
    """Which time zone holds from which minute on. All times here are Unix minutes.

    A bucket that a change of the zone cuts ends there, and another begins there; so hours lie within days always.
    """

    def __init__(self, zones: Sequence[tuple[int, str]]) -> None:
        """`zones`: (first minute, IANA name), ascending; what is before the first is of the first, too."""
        self.zones = tuple(zones) or ((0, "UTC"),)
        self._starts = [start for start, _ in self.zones]
        self._calendars = [Calendar(zone) for _, zone in self.zones]

    def hour(self, minute: int) -> Bounds:
        """First minute of the hour that holds `minute`, and of the next one."""
        return self._bounds(minute, lambda calendar: calendar.hour_bounds)

    def day(self, minute: int) -> Bounds:
        """First minute of the day that holds `minute`, and of the next one."""
        return self._bounds(minute, lambda calendar: calendar.day_bounds)

    def _bounds(self, minute: int, which: Callable[[Calendar], Callable[[int], Bounds]]) -> Bounds:
        era = max(0, bisect_right(self._starts, minute) - 1)
        start, end = (at // MINUTE_NS for at in which(self._calendars[era])(minute * MINUTE_NS))
        if era:
            start = max(start, self._starts[era])
        if era + 1 < len(self._starts):
            end = min(end, self._starts[era + 1])
        return start, end


def read_eras(connection: Connection) -> Eras:
    """The time zones of the ledger."""
    rows = connection.execute(select(calendars).order_by(calendars.c.from_minute))
    return Eras([(row.from_minute, row.time_zone) for row in rows])


def set_zone(connection: Connection, zone: str) -> None:
    """Hours and days that are not rolled up yet are of `zone` from now on; what is rolled up stays as it is."""
    eras = read_eras(connection)
    rolled = connection.execute(select(node_state.c.rolled_minute)).scalar() or 0
    if eras.zones[-1][1] == zone and connection.execute(select(calendars.c.from_minute)).first() is not None:
        return
    row = {"from_minute": rolled, "time_zone": zone}
    statement = insert(connection, calendars).on_conflict_do_update(
        index_elements=["from_minute"], set_={"time_zone": zone}
    )
    connection.execute(statement, [row])


def _add(name: str) -> Executable:
    return _adding(insert(name, entries).values({column.name: bindparam(column.name) for column in entries.c}))


def _adding(new: Insert) -> Executable:
    return new.on_conflict_do_update(
        index_elements=list(entries.primary_key.columns),
        set_={amount: entries.c[amount] + new.excluded[amount] for amount in AMOUNTS},
    )


add_entries = Many([column.name for column in entries.c], _add)
"""Adds to entries, which may be there already."""


def roll(connection: Connection, eras: Eras, rolled: int, to: int) -> None:
    """Add the minutes of [rolled, to) to their hours and days. Once for each minute: the caller keeps `rolled_minute`.

    `to` is written there.
    """
    within = (entries.c.grain == MINUTE) & (entries.c.minute >= rolled) & (entries.c.minute < to)
    minutes = connection.execute(select(entries.c.minute).where(within).distinct().order_by(entries.c.minute))
    booked = [int(row.minute) for row in minutes]
    add_sums(connection, HOUR, MINUTE, _buckets(booked, eras.hour, rolled, to))
    add_sums(connection, DAY, MINUTE, _buckets(booked, eras.day, rolled, to))
    connection.execute(update(node_state).values(rolled_minute=to))


def _buckets(minutes: Iterable[int], of: Callable[[int], Bounds], rolled: int, to: int) -> list[tuple[int, int, int]]:
    """(start of the bucket, first and end of its minutes in [rolled, to)) of the buckets that hold `minutes`."""
    found: list[tuple[int, int, int]] = []
    for minute in minutes:
        if not found or minute >= found[-1][2]:
            start, end = of(minute)
            found.append((start, max(start, rolled), min(end, to)))
    return found


def _sum_up(name: str) -> Executable:
    """Sums by place. What was booked and taken back wholly leaves no trace above minutes."""
    sums = [func.sum(entries.c[amount]).label(amount) for amount in AMOUNTS]
    source = (entries.c.grain == bindparam("source")) & (entries.c.minute >= bindparam("first"))
    within = select(entries.c.place, *sums).where(source, entries.c.minute < bindparam("end")).group_by(entries.c.place)
    summed = within.subquery()
    grain, start = bindparam("to_grain", type_=SmallInteger), bindparam("start", type_=Integer)
    rows = select(grain, start, summed.c.place, *(summed.c[amount] for amount in AMOUNTS))
    rows = rows.where(or_(*(summed.c[amount] != literal_column("0") for amount in AMOUNTS)))
    new = insert(name, entries).from_select([column.name for column in entries.c], rows)
    return _adding(new)


_sums = Many(("to_grain", "start", "source", "first", "end"), _sum_up)


def add_sums(connection: Connection, grain: int, source: int, buckets: Iterable[tuple[int, int, int]]) -> None:
    """Add the rows of grain `source` that begin in [first, end) to the bucket of `grain` that begins at `start`."""
    _sums.run(connection, [(grain, start, source, first, end) for start, first, end in buckets])
