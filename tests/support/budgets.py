"""Budgets, and a ledger in memory that answers what budgets ask of it: for tests without SQL."""

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agent.core.cost.budgets import Budget
from agent.core.cost.reports import Report, ReportQuery, ReportRow, Term

NS = 1_000_000_000
MINUTE_NS = 60 * NS
HOUR_NS = 3600 * NS
CostKey = tuple[str, str, str, str]


def ns(text: str) -> int:
    """Unix ns of an ISO 8601 instant with its offset."""
    return int(datetime.fromisoformat(text).timestamp()) * NS


def term(dimension: Any, *values: str, op: Any = "is") -> Term:
    return Term(dimension, op, values)


def budget(**changes: Any) -> Budget:
    values: dict[str, Any] = {"name": "b", "nano": 1000, "currency": "CNY", "period": "day"}
    return Budget(**(values | changes))


@dataclass
class FakeLedger:
    """Entries by minute. `cost_nano` grows as the settlement's counter does."""

    currency: str | None = "CNY"
    entries: list[tuple[int, dict[str, str], int, int | None]] = field(default_factory=list)
    cost_nano: dict[CostKey, int] = field(default_factory=dict)
    asked: list[ReportQuery] = field(default_factory=list)
    fail: Exception | None = None

    def book(
        self, at_ns: int, nano: int | None, *, gpu_ns: int = MINUTE_NS, state: str = "request", **labels: str
    ) -> None:
        names = {"state": state, "tenant": "acme", "model": "m", **labels}
        insort(self.entries, (at_ns - at_ns % MINUTE_NS, names, gpu_ns, nano), key=_at)
        if nano is not None and self.currency is not None:
            key = (state, names["tenant"], names["model"], self.currency)
            self.cost_nano[key] = self.cost_nano.get(key, 0) + nano

    async def report(self, query: ReportQuery, /) -> Report:
        self.asked.append(query)
        if self.fail is not None:
            raise self.fail
        bounds = (query.start_ns, *query.edges, query.end_ns)
        assert list(bounds) == sorted(set(bounds))
        sums: dict[tuple[int, tuple[str, ...]], list[Any]] = {}
        first, last = (bisect_left(self.entries, bound, key=_at) for bound in (query.start_ns, query.end_ns))
        for at, names, gpu_ns, nano in self.entries[first:last]:
            piece = bisect_right(bounds, at) - 1
            key = (piece, tuple(names.get(dimension, "") for dimension in query.aggregate))
            found = sums.setdefault(key, [0, None])
            found[0] += gpu_ns
            if nano is not None:
                found[1] = (found[1] or 0) + nano
        rows = tuple(
            ReportRow(
                start_ns=bounds[piece],
                end_ns=bounds[piece + 1],
                group=dict(zip(query.aggregate, names, strict=True)),
                gpu_ns=gpu_ns,
                cost_nano=nano,
            )
            for (piece, names), (gpu_ns, nano) in sorted(sums.items())
        )
        costs = [row.cost_nano for row in rows if row.cost_nano is not None]
        return Report(
            query=query,
            currency=self.currency,
            rows=rows,
            total_gpu_ns=sum(row.gpu_ns for row in rows),
            total_cost_nano=sum(costs) if costs else None,
            start_ns=query.start_ns,
            end_ns=query.end_ns,
        )


def _at(entry: tuple[int, dict[str, str], int, int | None]) -> int:
    return entry[0]


class Clock:
    """The bill's clock, turned by hand."""

    def __init__(self, at_ns: int) -> None:
        self.at_ns = at_ns

    def __call__(self) -> int:
        return self.at_ns
