"""Reports of the ledger beside the settlement's counters: what was booked until a report, and what since."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from agent.core.cost.reports import Report, ReportQuery
from agent.ledger.ledger import CostKey

TRIES = 3


class Reports(Protocol):
    """The part of the ledger that is asked."""

    async def report(self, query: ReportQuery, /) -> Report: ...


class Snapshot(NamedTuple):
    """A report, and the counters of then."""

    report: Report
    counters: Mapping[CostKey, int]


async def read(ledger: Reports, cost_nano: Mapping[CostKey, int], query: ReportQuery) -> Snapshot:
    """Ask the ledger. Raises `TryLater` as it does.

    The counters are of an instant before the answer. When something is booked in between, it is asked again; if that
    happens each time, what was booked meanwhile counts twice until the next reading, rather than never.
    """
    for _ in range(TRIES):
        counters = dict(cost_nano)
        report = await ledger.report(query)
        if counters == cost_nano:
            break
    return Snapshot(report, counters)


def grown(before: Mapping[CostKey, int], now: Mapping[CostKey, int]) -> Iterator[tuple[CostKey, int]]:
    """What was booked since `before`, in nano-units of the key's currency, where it is not 0."""
    for key, nano in now.items():
        past = before.get(key, 0)
        if nano != past:
            yield key, nano - past
