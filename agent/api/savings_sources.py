"""What the findings about money need beside the ledger and the board, as Protocols and plain values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from agent.core.cost.engine_days import Observed
from agent.core.cost.reports import GpuPrice
from agent.core.cost.request_statistics import NOTHING_COUNTED, Counted, RequestTally
from agent.core.cost.shapes import ModelShape
from agent.core.cost.work import Constants


class RequestStatistics(Protocol):
    """What entries of the ledger cannot tell of requests: retries, and limits that were not reached."""

    async def counted(self, start_ns: int, end_ns: int, /) -> Counted:
        """Counts of a window. Raises `TryLater`."""
        ...


@dataclass(frozen=True, slots=True)
class TallyStatistics:
    """`RequestStatistics` of what this process has counted."""

    tally: RequestTally

    async def counted(self, start_ns: int, end_ns: int, /) -> Counted:
        return self.tally.counted(start_ns, end_ns)


@dataclass(frozen=True, slots=True)
class _NoStatistics:
    async def counted(self, _start_ns: int, _end_ns: int, /) -> Counted:
        return NOTHING_COUNTED


def _nothing_observed(_start_ns: int, _end_ns: int) -> Mapping[str, Observed]:
    return {}


def _unknown(*_names: str) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SavingsSources:
    """What findings need beside ledger and board; without a source there are no findings of its kind."""

    statistics: RequestStatistics = _NoStatistics()
    observed: Callable[[int, int], Mapping[str, Observed]] = _nothing_observed
    constants_of: Callable[[str, str], Constants | None] = _unknown
    shape_of: Callable[[str, str], ModelShape | None] = _unknown
    price_of: Callable[[str], GpuPrice | None] = _unknown
