"""Everything about the money of a node: settings and the ledger in; the bill, budgets, limits and reports out.

Part of the composition root: settlement and what work costs each engine, budgets and the leases of limits, reports that
are made by themselves, what is kept for findings, and how long the ledger keeps what.
"""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Protocol

import structlog

from agent.api.cost_tables import BudgetFigures
from agent.api.savings_sources import SavingsSources, TallyStatistics
from agent.clock import boot_ns
from agent.collect.engines.model_config import model_shape
from agent.config import Settings
from agent.core.board import Board
from agent.core.cost.budgets import Budget, remarks
from agent.core.cost.calendar import Calendar
from agent.core.cost.engine_days import EngineDays
from agent.core.cost.prices import PriceBook
from agent.core.cost.report_forms import ReportNews
from agent.core.cost.report_windows import rfc3339
from agent.core.cost.reports import GpuPrice
from agent.core.cost.request_statistics import RequestTally
from agent.core.metrics.samples import Sample
from agent.core.ports import ConfigError, Exporter, TryLater
from agent.core.quotas.budget_rules import with_budgets
from agent.core.requests import RequestRecord
from agent.core.workloads import Feature
from agent.ledger.ledger import Ledger
from agent.ledger.retention import Retention
from agent.runners.budgets import BudgetDesk
from agent.runners.budgets_settings import load_budgets
from agent.runners.invoices import Invoices
from agent.runners.leases import LeaseDesk
from agent.runners.model_shapes import ModelShapes
from agent.runners.report_files import ReportFiles
from agent.runners.settlement import Settlement
from agent.runners.work_constants import work_constants

log = structlog.get_logger()

SETTLE_SECONDS = 1.0
LOOK_SECONDS = 5.0
REPORT_SECONDS = 30.0
HOUR_SECONDS = 3600.0


class Pulse(Protocol):
    """Starts a cycle; `essential`: the node is not ready without it."""

    def __call__(self, name: str, seconds: float, step: Callable[[], Awaitable[None]], *, essential: bool) -> None: ...


def check_money(settings: Settings, prices: PriceBook | None) -> Iterator[str]:
    """What the settings about money lead to, in lines for people. Raises `ConfigError`."""
    yield f"prices: in {prices.currency}" if prices else "prices: none, so GPU time is counted and not priced"
    check_quotas(settings, prices)
    if settings.quotas.rules:
        yield f"quotas: {', '.join(f'{rule.name} ({rule.mode})' for rule in settings.quotas.rules)}"
    for budget in load_budgets(settings.budgets, prices):
        yield f"budget: {budget.name} ({budget.mode})"
        yield from (f"budget: {budget.name}: {remark}" for remark in remarks(budget))
    work_constants(settings.tariff)
    for schedule in settings.reports.schedules:
        yield f"report: {schedule.name} ({schedule.every} at {schedule.at})"


def check_quotas(settings: Settings, prices: PriceBook | None) -> None:
    """Money can be limited only in the currency it is counted in. Raises `ConfigError`."""
    for number, rule in enumerate(settings.quotas.rules):
        if rule.money is not None and (prices is None or rule.money.currency != prices.currency):
            counted = f"prices are in {prices.currency}" if prices else "there are no prices; add them under `prices`"
            raise ConfigError(f"quotas.rules.{number}.money.currency", f"is {rule.money.currency}, but {counted}")


class CostStations:
    """Built once. `on_ended` is told of each request whose end came, after it was stored."""

    def __init__(
        self,
        settings: Settings,
        node: str,
        ledger: Ledger,
        prices: PriceBook | None,
        board: Board,
        data: Path,
        on_ended: Callable[[RequestRecord], None],
        webhooks: dict[str, Exporter[ReportNews]],
    ) -> None:
        """Raises `ConfigError` for what a user can mend."""
        self._node = node
        self._ledger = ledger
        self._board = board
        self._prices = prices
        self._on_ended = on_ended
        self._now_ns = ledger.clock.now_ns
        calendar = Calendar(settings.node.time_zone)
        storage = settings.storage
        self._keep = Retention(storage.ledger_minutes_days, storage.ledger_hours_days, storage.ledger_requests_days)
        self.work = work_constants(settings.tariff)
        self.settlement = Settlement(
            ledger,
            prices,
            node,
            ledger.clock,
            gpu_interval_seconds=settings.gpus.interval_seconds,
            workload_interval_seconds=settings.workloads.interval_seconds,
            on_ended=self._ended,
            work=self.work,
        )
        self.shapes = ModelShapes(self.work, board, lambda pids: model_shape(pids, settings.workloads.proc))
        budgets: tuple[Budget, ...] = load_budgets(settings.budgets, prices)
        self.budgets = BudgetDesk(
            budgets,
            ledger,
            self.settlement.cost_nano,
            self._now_ns,
            through_ns=lambda: self.settlement.settled_through_ns,
            time_zone=settings.node.time_zone,
        )
        policy = with_budgets(settings.quotas.to_policy(), budgets)
        self.quotas = LeaseDesk(policy, ledger, self.settlement.cost_nano, self._now_ns, budgets=self.budgets)
        self.reports = ReportFiles(
            settings.reports,
            ledger,
            data,
            node,
            calendar,
            settled_through_ns=lambda: self.settlement.settled_through_ns,
            unix_ns=self._now_ns,
            boot_ns=boot_ns,
            webhooks=webhooks,
        )
        self.invoices = Invoices(ledger, prices, calendar, lambda: self.settlement.settled_through_ns)
        self._tally = RequestTally(self._now_ns())
        self._days = EngineDays()
        self.savings = SavingsSources(
            statistics=TallyStatistics(self._tally),
            observed=self._days.observed,
            constants_of=self.work.constants_of,
            shape_of=self.work.shape_of,
            price_of=self._price_of,
        )

        self._tell_of_changed_past()

    def start(self, pulse: Pulse) -> None:
        """Start every cycle."""
        pulse("settlement", SETTLE_SECONDS, self.settlement.step, essential=True)
        pulse("budgets", SETTLE_SECONDS, self.budgets.step, essential=False)
        pulse("quotas", SETTLE_SECONDS, self.quotas.step, essential=False)
        pulse("model_shapes", LOOK_SECONDS, self._look, essential=False)
        pulse("reports", REPORT_SECONDS, self.reports.step, essential=False)
        pulse("retention", HOUR_SECONDS, self._retain, essential=False)

    async def book_the_rest(self) -> None:
        """Close the bill up to now. What cannot be written any more is booked as `gap` at the next start."""
        try:
            await self.settlement.drain()
        except TryLater as error:
            log.error("last_seconds_not_booked", reason=error.reason)

    def budget_figures(self) -> list[BudgetFigures]:
        """Budgets, for the page."""
        return [BudgetFigures.of(standing) for standing in self.budgets.standings]

    def samples(self) -> Iterator[Sample]:
        """Budgets, for /metrics and rules."""
        return self.budgets.samples(self._node)

    def features(self) -> Iterator[Feature]:
        """What of this the doctor should name."""
        yield from self.budgets.features()
        yield from self.invoices.unpriced(self._board.gpus, self._now_ns())

    def _tell_of_changed_past(self) -> None:
        """What is booked keeps its price; who edited a row may not expect that."""
        through, changed = self._ledger.opened.through_ns, set()
        if self._prices is None or through is None:
            return
        for account in self._ledger.opened.accounts:
            if account.line is not None and account.currency == self._prices.currency:
                past = self._prices.changed_past(account.gpu, account.gpu_model, account.line.segments, through)
                changed |= {(one.gpu_model, one.from_ns, one.to_ns) for one in past}
        for gpu_model, from_ns, to_ns in sorted(changed):
            log.warning("price_of_the_past_differs", gpu_model=gpu_model, since=rfc3339(from_ns), until=rfc3339(to_ns),
                        consequence="what is booked keeps its price; a new price is a new row")  # fmt: skip

    def _price_of(self, gpu_model: str) -> GpuPrice | None:
        return self._prices.shown(gpu_model, self._now_ns()) if self._prices is not None else None

    def _ended(self, record: RequestRecord) -> None:
        self._tally.add(record)
        self._on_ended(record)

    async def _look(self) -> None:
        self._days.observe(self._now_ns(), self._board.gpus, self._board.engines)
        await self.shapes.step()

    async def _retain(self) -> None:
        await self._ledger.remember_days()
        forgotten = await self._ledger.retain(self._now_ns(), self._keep)
        if forgotten:
            log.info("ledger_forgot_details", rows=forgotten)
