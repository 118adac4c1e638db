"""What the writer remembers of table `requests`: whose each is and what was told of it, so that nothing is asked twice.

There is one writer, so what it remembers is what is there. When a transaction is taken back all of it is forgotten, and
read again.
"""

from typing import NamedTuple

from sqlalchemy import Connection, LargeBinary, select, type_coerce

from agent.core.requests import Witness
from agent.ledger.ids import from_key
from agent.ledger.tables import requests, settled_requests

_r = requests.c
_OTHER = b"\xff"


class Told(NamedTuple):
    """Of an open request. `key`: its id on disk."""

    key: bytes
    sidecar: str
    sender: str
    outcome: str | None
    started_ns: int
    ended_ns: int | None
    input_tokens: int | None
    input_cached_tokens: int | None
    output_tokens: int | None
    max_output_tokens: int | None
    input_estimate: int | None
    attempt: int
    seen_by: Witness


_COLUMNS = tuple(_r[name] for name in Told._fields[1:])


class OpenRequests:
    """Rows of `requests` by id; and up to which UUIDv7 there may be settled ones."""

    def __init__(self) -> None:
        self._rows: dict[str, Told] | None = None
        self._highest = b""

    def rows(self, connection: Connection) -> dict[str, Told]:
        """All of them. Whoever changes the table changes them, too."""
        if self._rows is None:
            found = connection.execute(select(type_coerce(_r.id, LargeBinary), *_COLUMNS))
            self._rows = {from_key(row[0]): Told(*row) for row in found}
            key = type_coerce(settled_requests.c.id, LargeBinary)
            highest = select(key).where(key < _OTHER).order_by(key.desc()).limit(1)
            self._highest = connection.execute(highest).scalar() or b""
        return self._rows

    def may_be_settled(self, key: bytes) -> bool:
        """False for a request that is newer than all that are settled."""
        return key <= self._highest or key[:1] == _OTHER

    def settled(self, keys: list[bytes]) -> None:
        """These were moved, in the order of their keys."""
        for key in reversed(keys):
            if key[:1] != _OTHER:
                self._highest = max(self._highest, key)
                break

    def drop(self) -> None:
        """A transaction was taken back."""
        self._rows = None
