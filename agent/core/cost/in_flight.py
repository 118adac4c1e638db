"""What is booked of requests while nobody knows how they end, in columns; moved to their outcomes when they do, out.

A row for each request, a table for each slot and minute. What is older than `KEPT_NS` goes to the request itself
(`Live.provisional`): few run so long, and the tables stay small.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from agent.core.cost.closed import IN_FLIGHT, Closed
from agent.core.cost.exact import Ints
from agent.core.cost.live import Booking, Live, Parts

KEPT_NS = 180 * 1_000_000_000
QUANTITIES = len(Parts._fields)
_FIRST_ROWS = 64


class InFlight:
    """The open requests of one engine. A table's key is their `Booking` without model and tenant."""

    def __init__(self) -> None:
        self._requests: list[Live | None] = []  # by row
        self._free: list[int] = []
        self._tables: dict[Booking, NDArray[np.int64]] = {}

    def rows(self, requests: Iterable[Live]) -> Ints:
        """The rows of requests, new ones for those that have none."""
        found = []
        for request in requests:
            if request.row < 0:
                request.row = self._free.pop() if self._free else len(self._requests)
                if request.row == len(self._requests):
                    self._requests.append(request)
                else:
                    self._requests[request.row] = request
            found.append(request.row)
        return np.array(found, dtype=np.int64)

    def add(self, where: Booking, rows: Ints, amounts: Sequence[Ints]) -> None:
        """Book `amounts` (in the order of `Parts`) of the requests in `rows`, each of them once."""
        table = self._tables.get(where)
        if table is None or table.shape[1] < len(self._requests):
            wider = np.zeros((QUANTITIES, max(_FIRST_ROWS, 2 * len(self._requests))), dtype=np.int64)
            if table is not None:
                wider[:, : table.shape[1]] = table
            table = self._tables[where] = wider
        for quantity, amount in zip(table, amounts, strict=True):
            quantity[rows] += amount

    def move(self, closed: Closed, requests: Sequence[Live]) -> None:
        """Book what these requests have here under their outcomes instead. Their rows are free then."""
        moved = [request for request in requests if request.row >= 0]
        if not moved:
            return
        places: dict[tuple[str, str, str], int] = {}
        keys = [(r.model, r.tenant, r.outcome or "error") for r in moved]
        place = np.array([places.setdefault(key, len(places)) for key in keys], dtype=np.int64)
        order = np.argsort(place, kind="stable")
        rows = np.array([request.row for request in moved], dtype=np.int64)[order]
        starts = np.flatnonzero(np.diff(place[order], prepend=-1))
        for where, table in self._tables.items():
            known = rows < table.shape[1]
            of_rows = table[:, rows] if known.all() else table[:, np.where(known, rows, 0)] * known
            sums = np.add.reduceat(of_rows, starts, axis=1).T.tolist()
            for (model, tenant, outcome), parts in zip(places, sums, strict=True):
                if any(parts):
                    closed.move(where._replace(model=model, tenant=tenant), outcome, Parts(*parts))
        self._release(moved)

    def spill(self, request: Live) -> None:
        """Give a request what is booked of it here to take along."""
        if request.row < 0:
            return
        for where, table in self._tables.items():
            if request.row < table.shape[1]:
                _take_along(request, where, table[:, request.row].tolist())
        self._release([request])

    def forget_before(self, at_ns: int) -> None:
        """Give what was booked `KEPT_NS` before `at_ns` to the requests themselves."""
        for where in [where for where in self._tables if where.bucket_ns < at_ns - KEPT_NS]:
            table = self._tables.pop(where)
            for row in np.flatnonzero(table.any(axis=0)).tolist():
                request = self._requests[row]
                if request is not None:
                    _take_along(request, where, table[:, row].tolist())

    def _release(self, requests: Sequence[Live]) -> None:
        rows = [request.row for request in requests]
        for request in requests:
            self._requests[request.row] = None
            request.row = -1
        if len(self._free) + len(rows) == len(self._requests):
            self._requests, self._free, self._tables = [], [], {}
            return
        self._free += rows
        freed = np.array(rows, dtype=np.int64)
        for table in self._tables.values():
            table[:, freed[freed < table.shape[1]]] = 0


def _take_along(request: Live, where: Booking, amounts: Sequence[int]) -> None:
    if not any(amounts):
        return
    booking = where._replace(model=request.model, tenant=request.tenant, outcome=IN_FLIGHT)
    before = request.provisional.get(booking, (0,) * QUANTITIES)
    request.provisional[booking] = Parts(*[a + b for a, b in zip(before, amounts, strict=True)])
