"""Under what is booked, as a number: each place is written down once, and remembered here by the one who writes."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from agent.core.cost.live import Booking
from agent.ledger.dialects import Many, insert
from agent.ledger.tables import places, tellers

Key = tuple[str, int, str, str, str, str, str, str, str, str, str, str]
COLUMNS = (
    "gpu", "account_ns", "state", "engine", "model", "tenant", "outcome", "slot", "reason", "engine_group",
    "namespace", "pod",
)  # fmt: skip
"""In the order of a `Booking` without its time, so that a key is a slice of one."""
MOST = 50_000  # remembered; beyond it, those that come again are asked for

_by_key = select(places.c.id).where(*(places.c[name] == bindparam(name) for name in COLUMNS))
_new = Many(("id", *COLUMNS), lambda name: insert(name, places).values({c.name: bindparam(c.name) for c in places.c}))


def key_of(booking: Booking, outcome: str | None = None) -> Key:
    """The place of a booking, under another outcome if one is given."""
    key = booking[1:]
    return key if outcome is None else (*key[:6], outcome, *key[7:])


class Places:
    """Numbers of places. What a transaction has added counts when `keep` is called after it, not after `drop`."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._ids: dict[Key, int] = {}
        self._fresh: dict[Key, int] = {}
        self._next: int | None = None
        self._complete = True  # all places of the ledger are in `_ids`
        self._tellers: dict[tuple[str, str], int] = {}
        self._fresh_tellers: dict[tuple[str, str], int] = {}

    def ids(self, connection: Connection, keys: Iterable[Key]) -> dict[Key, int]:
        """The number of each key; what is new is written."""
        if self._next is None:
            self._load(connection)
        known, found, missing = self._ids, {}, []
        for key in keys:
            number = known.get(key) or self._fresh.get(key)  # from 1 on
            if number is None:
                missing.append(key)
            else:
                found[key] = number
        if missing:
            found |= self._add(connection, dict.fromkeys(missing))
        return found

    def _add(self, connection: Connection, missing: Iterable[Key]) -> dict[Key, int]:
        found, rows = {}, []
        for key in missing:
            number = (
                None if self._complete else connection.execute(_by_key, dict(zip(COLUMNS, key, strict=True))).scalar()
            )
            if number is None:
                assert self._next is not None
                number = self._next
                self._next += 1
                rows.append((number, *key))
            found[key] = number
        _new.run(connection, rows)
        self._fresh |= found
        return found

    def _load(self, connection: Connection) -> None:
        self._next = 1 + (connection.execute(select(func.max(places.c.id))).scalar() or 0)
        columns: list[Any] = [places.c[name] for name in COLUMNS]
        newest = select(places.c.id, *columns).order_by(places.c.id.desc()).limit(self._most + 1)
        rows = [tuple(row) for row in connection.execute(newest)]
        self._complete = len(rows) <= self._most
        self._ids = {row[1:]: row[0] for row in rows[: self._most]}

    def teller(self, connection: Connection, sidecar: str, sender: str) -> int:
        """The number of who told a request."""
        if not self._tellers and not self._fresh_tellers:
            rows = connection.execute(select(tellers))
            self._tellers = {(row.sidecar, row.sender): row.id for row in rows}
        number = self._tellers.get((sidecar, sender))
        if number is None:
            number = self._fresh_tellers.get((sidecar, sender))
        if number is None:
            number = 1 + max([*self._tellers.values(), *self._fresh_tellers.values()], default=-1)
            connection.execute(insert(connection, tellers), {"id": number, "sidecar": sidecar, "sender": sender})
            self._fresh_tellers[sidecar, sender] = number
        return number

    def who(self, connection: Connection, teller: int) -> tuple[str, str]:
        """Sidecar and sender of a number. Of one that is not written down (a damaged file) nobody is."""
        row = connection.execute(
            select(tellers.c.sidecar, tellers.c.sender).where(tellers.c.id == teller)
        ).one_or_none()
        return ("", "") if row is None else (row.sidecar, row.sender)

    def keep(self) -> None:
        """The transaction is on disk."""
        self._ids |= self._fresh
        self._tellers |= self._fresh_tellers
        self._fresh, self._fresh_tellers = {}, {}
        if len(self._ids) > self._most:
            self._ids, self._complete = {}, False

    def drop(self) -> None:
        """The transaction was taken back."""
        self._fresh, self._fresh_tellers, self._next = {}, {}, None
        self._ids, self._tellers = {}, {}
