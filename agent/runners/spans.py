"""Requests that only a span tells of in; which of them can be priced now out.

They come when they are over, mostly after their time was closed. They wait until that is so for all of the minute in
which they ended, and a while longer for others of that minute: those are priced together, and what is priced later gets
of the rest (see `agent.core.cost.reassign`). One whose engine is not known by name waits for it: after a start of the
agent, engines are found one by one.
"""

from collections.abc import Callable, Collection, Container, Iterable

from agent.core.cost.closed import MINUTE_NS
from agent.core.cost.live import Live
from agent.core.cost.reassign import is_due, minutes_of

GRACE_NS = 30 * 1_000_000_000  # what exporters of spans keep back at most, by OpenTelemetry's defaults
UNKNOWN_NS = 120 * 1_000_000_000  # by then an engine is found, or it is none of this node's


class Spans:
    """Those that wait. They are in the ledger as open requests; this is what is known of them while the agent runs."""

    def __init__(self, waiting: Iterable[Live] = ()) -> None:
        self._waiting: dict[str, Live] = {}
        self._came_ns: dict[str, int] = {}
        for live in waiting:
            self.add(live, live.ended_ns or live.started_ns)

    def add(self, live: Live, now_ns: int) -> None:
        """One that has ended; it is told at `now_ns` of the bill's clock."""
        self._waiting[live.id] = live
        self._came_ns[live.id] = now_ns

    def rename_engine(self, resolve: Callable[[str], str]) -> None:
        """Find engines of requests again: an engine became known after its requests."""
        for live in self._waiting.values():
            live.engine = resolve(live.upstream)

    def due(self, through_ns: int | None, engines: Container[str] = ()) -> list[Live]:
        """Those to price when everything before `through_ns` is closed and these engines are known."""
        if through_ns is None:
            return []
        whole = through_ns - GRACE_NS
        whole -= whole % MINUTE_NS
        closed = [live for live in self._waiting.values() if is_due(live, whole)]
        return [live for live in closed if live.engine in engines or self._came_ns[live.id] <= through_ns - UNKNOWN_NS]

    def priced(self, lives: Iterable[Live]) -> None:
        """They are in a settlement step and wait no more."""
        for live in lives:
            del self._waiting[live.id], self._came_ns[live.id]


def minutes_among(lives: Iterable[Live]) -> dict[str, Collection[int]]:
    """Engine -> the minutes (Unix ns of their start) in which any of its requests was in flight."""
    found: dict[str, set[int]] = {}
    for live in lives:
        found.setdefault(live.engine, set()).update(minutes_of(live))
    return {engine: sorted(minutes) for engine, minutes in found.items()}
