"""Ended requests in; how many were retries, and how far they stayed below their limits, by model and tenant, out.

The ledger's entries tell neither. What is kept is bounded: days, and pairs of model and tenant for each day.
"""

from msgspec import Struct

from agent.core.requests import RequestRecord

DAY_NS = 24 * 3600 * 1_000_000_000
MOST_DAYS = 40
MOST_PAIRS = 500  # of a day; names come from clients
OTHER = ("other", "")
FAR_BELOW = 4  # an answer of less than a quarter of its limit


class RequestCounts(Struct, kw_only=True):
    """Of one model and tenant. `limited`: ended well, with a known limit and a known number of output tokens."""

    requests: int = 0
    retries: int = 0  # attempt > 0
    limited: int = 0
    far_below: int = 0  # of `limited`: less than a quarter of the limit was written
    limit_tokens: int = 0
    limited_output_tokens: int = 0

    def add(self, other: "RequestCounts") -> None:
        """Sum up."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Counted(Struct, frozen=True, kw_only=True):
    """Counts by (model, tenant). `since_ns`: what of the window lies before it was not counted; None: nothing was."""

    since_ns: int | None = None
    counts: dict[tuple[str, str], RequestCounts] = {}


NOTHING_COUNTED = Counted()


class RequestTally:
    """Counts of this process, by day of UTC; told of each ended request once."""

    def __init__(self, since_ns: int) -> None:
        self._since_ns = since_ns
        self._days: dict[int, dict[tuple[str, str], RequestCounts]] = {}
        self.overflow = 0  # requests that were counted under `OTHER`

    def add(self, record: RequestRecord) -> None:
        """Count one ended request."""
        counts = self._counts(record.ended_at_ns // DAY_NS, (record.model or "", record.tenant or ""))
        counts.requests += 1
        counts.retries += record.attempt > 0
        limit, output = record.max_output_tokens, record.usage.output_tokens
        if record.outcome == "ok" and limit and output is not None:
            counts.limited += 1
            counts.far_below += FAR_BELOW * output < limit
            counts.limit_tokens += limit
            counts.limited_output_tokens += output

    def counted(self, start_ns: int, end_ns: int) -> Counted:
        """Counts of the days that the window touches, whole days."""
        found: dict[tuple[str, str], RequestCounts] = {}
        for day, pairs in self._days.items():
            if start_ns // DAY_NS <= day <= end_ns // DAY_NS:
                for pair, counts in pairs.items():
                    found.setdefault(pair, RequestCounts()).add(counts)
        return Counted(since_ns=max(start_ns, self._since_ns), counts=found)

    def _counts(self, day: int, pair: tuple[str, str]) -> RequestCounts:
        pairs = self._days.get(day)
        if pairs is None:
            pairs = self._days[day] = {}
            if len(self._days) > MOST_DAYS:
                del self._days[min(self._days)]
        found = pairs.get(pair)
        if found is None:
            if len(pairs) >= MOST_PAIRS:
                self.overflow += 1
                pair = OTHER
            found = pairs.setdefault(pair, RequestCounts())
        return found
