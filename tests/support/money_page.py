"""A node with money to be saved: a ledger that answers the page's questions from made-up rows, budgets, sources."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from agent.api.cost_view import CostReader
from agent.api.page import Page
from agent.api.savings_sources import SavingsSources, TallyStatistics
from agent.api.services import NodeServices
from agent.core.cost.engine_days import Observed
from agent.core.cost.fitting_hardware import LEAST_SEEN_NS
from agent.core.cost.reports import Report, ReportQuery, ReportRow
from agent.core.cost.request_statistics import RequestTally
from agent.core.cost.savings import HOURS, PLACES, REQUESTS
from agent.core.cost.work import Constants
from agent.core.requests import RequestRecord
from tests.support.api import NOW_NS, CannedLedger, node
from tests.support.savings import HOUR_NS, hour, outcome, place, priced, row

START_NS = NOW_NS - NOW_NS % (24 * HOUR_NS) - 30 * 24 * HOUR_NS


class RichLedger(CannedLedger):
    """Thirty days of eight GPUs."""

    def __init__(self) -> None:
        super().__init__()
        self.places = [
            *(place("request", 500, gpu=f"GPU-{n}", requests=60_000) for n in range(2)),
            *(place("loaded_idle", 200, gpu=f"GPU-{n}") for n in range(2)),
            *(place("warmup", 20, gpu=f"GPU-{n}") for n in range(2)),
            *(place("request", 690, gpu=f"GPU-{n}", engine="rag", model="bge-m3", requests=9000) for n in (2, 3)),
            *(place("gap", 30, gpu=f"GPU-{n}", reason="not_watched") for n in (2, 3)),
            place("allocated_idle", 720, gpu="GPU-4", namespace="lab", pod="notebook-anna-0", reason="held_no_process"),
            place("other_workload", 720, gpu="GPU-5", namespace="research", pod="train-llama-7b-0"),
            place("unallocated", 720, gpu="GPU-6", reason="free"),
            place("broken", 720, gpu="GPU-7", reason="reset_required"),
        ]
        self.requests = [
            outcome("ok", 700, 110_000, (9 * 10**9, 10**9, 10**8), tenant="acme"),
            outcome("ok", 150, 5000, (10**9, 9 * 10**8, 10**8), tenant="zeta"),
            outcome("client_abort", 90, 4000, (10**8, 0, 10**6), tenant="acme"),
            outcome("error", 60, 1000, (10**7, 0, 10**5), tenant="<script>alert(1)</script>"),
            outcome("ok", 1380, 18_000, (10**8, 0, 10**6), engine="rag", model="bge-m3", tenant=""),
        ]
        self.hours = [
            replace(each, start_ns=START_NS + at * HOUR_NS, end_ns=START_NS + (at + 1) * HOUR_NS)
            for at in range(16 * 24, 30 * 24)
            for each in (
                [hour(at, "loaded_idle")] if at % 24 in (0, 1, 2, 3, 4, 5, 22, 23) else
                [hour(at, "request", 0.2, tokens=(10**8, 8 * 10**7), requests=200), hour(at, "loaded_idle", 0.8)]
            )
        ]  # fmt: skip

    async def report(self, query: ReportQuery, /) -> Report:
        self.asked.append(query)
        rows = self._rows(query)
        if rows is None:
            return await super().report(query)
        known = [each.cost_nano for each in rows if each.cost_nano is not None]
        return Report(
            query=query,
            currency="CNY",
            rows=tuple(rows),
            total_gpu_ns=sum(each.gpu_ns for each in rows),
            total_cost_nano=sum(known) if known else None,
            notes=("The first day is kept as a whole only.",) if query.aggregate == PLACES else (),
        )

    def _rows(self, query: ReportQuery) -> list[ReportRow] | None:
        if query.aggregate == PLACES:
            return self.places
        if query.aggregate == REQUESTS:
            return self.requests
        if query.aggregate == HOURS:
            return self.hours
        if query.aggregate == ("state", "tenant", "model", "outcome"):
            day = [
                replace(each, gpu_ns=each.gpu_ns // 30, cost_nano=(each.cost_nano or 0) // 30) for each in self.requests
            ]
            day = [replace(each, energy_uj=each.gpu_ns * 6 // 10, requests=each.requests // 30) for each in day]
            others = {"tenant": "", "model": "", "outcome": ""}
            return [*day, row(others | {"state": "loaded_idle"}, 13), row(others | {"state": "unallocated"}, 24)]
        return None


@dataclass
class Standing:
    """One budget."""

    name: str
    period: str
    limit_nano: int
    spent_nano: int | None
    forecast_nano: int | None
    currency: str = "CNY"
    notes: tuple[str, ...] = ()


def budgets() -> Sequence[Standing]:
    """One that is over, one that will be, one that is well, one of which nothing is known."""
    unit = 10**12
    return (
        Standing("team-search", "month", 10 * unit, 3 * unit, 7 * unit),
        Standing("everything", "month", 50 * unit, 43 * unit, 61 * unit),
        Standing("acme", "day", unit, 1_270_000_000_000, 2 * unit),
        Standing("new", "week", unit, None, None, notes=("the history is too short for a forecast",)),
    )


def sources() -> SavingsSources:
    """Statistics of some requests, an engine that hardly uses its GPU, a price book with smaller ones."""
    tally = RequestTally(START_NS)
    record = RequestRecord(
        id="r", upstream="e:1", path="/v1", started_at_ns=NOW_NS, ended_at_ns=NOW_NS, outcome="ok", model="qwen",
        tenant="acme", attempt=1,
    )  # fmt: skip
    for _ in range(3000):
        tally.add(record)
    seen = Observed(seen_ns=LEAST_SEEN_NS, gpu_memory_bytes=18 << 30, gpus=2, preemptions=12_000)
    return SavingsSources(
        statistics=TallyStatistics(tally),
        observed=lambda _start, _end: {"chat": seen},
        constants_of=lambda _engine, _model: Constants(30_000.0, 0.5),
        price_of=priced(H100=10.8, L40S=4.1, L4=1.9),
    )


def rich_node(**changes: Any) -> NodeServices:
    """The node of `tests.support.api` with this ledger."""
    return node(**{"ledger": RichLedger(), **changes})


def rich_page(services: NodeServices | None = None) -> Page:
    """Its page, with budgets and findings."""
    services = services or rich_node()
    page = Page(services)
    page.cost = CostReader(services, budgets, sources())
    return page
