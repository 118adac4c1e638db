"""The pulse of the budgets: the ledger's reports and the settlement's counters in, standings out.

Everything comes from the ledger, so that a restart, a correction or a changed budget needs no care here. Budgets of the
same period share one report. Between two reports the settlement's counters tell what was booked since, for budgets
whose scope they can tell; the others are as old as their report.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest

import anyio.lowlevel
import structlog

from agent.clock import NS
from agent.core.cost.budget_periods import Span, span_of
from agent.core.cost.budgets import FOLLOWED, Budget, Burn, Spender, Standing, dimensions_of, remarks
from agent.core.cost.calendar import HOUR_NS, Calendar
from agent.core.cost.forecast import Forecast, Pattern
from agent.core.cost.reports import Report, ReportQuery
from agent.core.metrics.samples import Sample
from agent.core.quotas.budget_rules import unknowable
from agent.core.workloads import Feature
from agent.ledger.ledger import CostKey
from agent.runners.budget_history import BURN_HOURS, History, Matching
from agent.runners.budget_samples import budget_samples
from agent.runners.spending import Reports, grown, read

log = structlog.get_logger()

REFRESH_NS = 60 * NS
REREAD_NS = 600 * NS  # of what the counters follow: so that no error grows old
TOP = 5
ROWS_AT_ONCE = 100  # between two of which others have their turn

WindowKey = tuple[str, str, int | None]  # period, time zone, beginning


@dataclass(slots=True)
class _Window:
    """One period as it was read from the ledger. Amounts are by the number of the budget."""

    span: Span
    read_ns: int
    currency: str | None
    counters: Mapping[CostKey, int] | None  # of when it was read; None once they are followed
    matching: Matching  # of what the counters can tell
    spent: dict[int, int] = field(default_factory=dict)
    unpriced_ns: dict[int, int] = field(default_factory=dict)
    top: dict[int, tuple[Spender, ...]] = field(default_factory=dict)
    covered: set[int] = field(default_factory=set)  # budgets towards which anything counted, money or not
    notes: tuple[str, ...] = ()


class BudgetDesk:
    """One per agent. `cost_nano` is the settlement's counter; `through_ns` says up to when the ledger is settled.

    `now_unix_ns` is the bill's clock, `time_zone` that of the ledger's hours and days.
    """

    def __init__(
        self,
        budgets: Sequence[Budget],
        ledger: Reports,
        cost_nano: Mapping[CostKey, int],
        now_unix_ns: Callable[[], int],
        *,
        through_ns: Callable[[], int | None] = lambda: None,
        time_zone: str = "UTC",
    ) -> None:
        self.budgets = tuple(budgets)
        self._ledger = ledger
        self._cost_nano = cost_nano
        self._now_ns = now_unix_ns
        self._through_ns = through_ns
        self._calendars = {zone: Calendar(zone) for zone in {budget.time_zone for budget in budgets}}
        self._history = History(self.budgets, ledger, Calendar(time_zone))
        self._windows: dict[WindowKey, _Window] = {}
        self._groups: dict[WindowKey, list[int]] = {}
        for number, budget in enumerate(self.budgets):
            self._groups.setdefault(self._key(budget), []).append(number)
        self._matching = {key: self._matching_of(among) for key, among in self._groups.items()}
        self._seen: dict[CostKey, int] = {}
        self._numbers = {budget.name: number for number, budget in enumerate(self.budgets)}
        self._patterns: dict[int, Pattern | None] = {}
        self._forecasts: dict[int, tuple[Span, Forecast]] = {}
        self._burns: dict[int, tuple[Burn, ...]] = {}
        self._standings: tuple[Standing, ...] = ()
        self._mismatch = ""

    @property
    def standings(self) -> tuple[Standing, ...]:
        """All budgets, as of the last step; empty before the first one."""
        return self._standings

    def left_nano(self, budget: str) -> int | None:
        """What may still be spent of a budget; None while nobody knows, and before it begins."""
        standing = self._standing(budget)
        if standing is None or standing.spent_nano is None:
            return None
        return max(0, standing.budget.nano - standing.spent_nano)

    def ends_ns(self, budget: str) -> int | None:
        """When its period ends; None for rolling windows, and before it begins."""
        standing = self._standing(budget)
        return None if standing is None else standing.ends_ns

    def _standing(self, budget: str) -> Standing | None:
        number = self._numbers.get(budget)
        return self._standings[number] if number is not None and self._standings else None

    async def step(self) -> None:
        """Bring standings up to date; called every second. Raises `TryLater` as the ledger does."""
        if not self.budgets:
            return
        now = self._now_ns()
        try:
            await self._read_windows(now)
            self._follow()
            await self._read_history(now)
        finally:
            self._standings = tuple(self._stand(number, now) for number in range(len(self.budgets)))

    # What was spent

    def _key(self, budget: Budget) -> WindowKey:
        return budget.period, budget.time_zone, budget.begins_ns

    def _span(self, budget: Budget, now: int) -> Span:
        return span_of(budget.period, self._calendars[budget.time_zone], now, budget.begins_ns)

    async def _read_windows(self, now: int) -> None:
        """Each period at most once a minute, unless it is over."""
        for key, among in self._groups.items():
            span = self._span(self.budgets[among[0]], now)
            window = self._windows.get(key)
            if window is not None and not self._is_due(window, span, among, now):
                continue
            if span.start_ns >= span.end_ns or span.start_ns > now:
                notes = ("its start lies in the future",)
                self._windows[key] = _Window(span, now, None, None, Matching({}), notes=notes)
                continue
            self._windows[key] = await self._read_window(key, span, now)

    def _is_due(self, window: _Window, span: Span, among: Sequence[int], now: int) -> bool:
        budgets = [self.budgets[number] for number in among]
        rolling = budgets[0].is_rolling
        if not rolling and span != window.span:
            return True
        followed = all(budget.dimensions <= FOLLOWED for budget in budgets)
        every = REFRESH_NS
        # The last seconds of the period before are booked, and counted by the counters, when this one has begun.
        if followed and window.read_ns - window.span.start_ns >= REFRESH_NS:
            # What leaves a rolling window between two readings is at most a thousandth of it.
            every = min(REREAD_NS, max(REFRESH_NS, span.whole_ns // 1000)) if rolling else REREAD_NS
        if any(window.spent.get(number) and number not in window.top for number in among):
            every = REFRESH_NS  # the counters tell that something was spent, and not by whom
        return now - window.read_ns >= every

    def _matching_of(self, among: Sequence[int]) -> tuple[Matching, Matching]:
        """For the rows of their report, and for the counters."""
        budgets = {number: self.budgets[number] for number in among}
        return Matching(budgets), Matching(
            {n: budget for n, budget in budgets.items() if budget.dimensions <= FOLLOWED}
        )

    async def _read_window(self, key: WindowKey, span: Span, now: int) -> _Window:
        dimensions = dimensions_of((self.budgets[number] for number in self._groups[key]), "tenant", "model")
        query = ReportQuery(start_ns=span.start_ns, end_ns=min(span.end_ns, now + NS), aggregate=dimensions)
        report, counters = await read(self._ledger, self._cost_nano, query)
        of_rows, of_counters = self._matching[key]
        window = _Window(span, now, report.currency, counters, of_counters, notes=report.notes)
        spenders: dict[int, dict[tuple[str, str, str], int]] = {}
        for count, row in enumerate(report.rows):
            if count % ROWS_AT_ONCE == ROWS_AT_ONCE - 1:
                await anyio.lowlevel.checkpoint()
            for number in of_rows.of(row.group):
                window.covered.add(number)
                if row.cost_nano is None:
                    window.unpriced_ns[number] = window.unpriced_ns.get(number, 0) + row.gpu_ns
                    continue
                window.spent[number] = window.spent.get(number, 0) + row.cost_nano
                who = (row.group["tenant"], row.group["model"], row.group["state"])
                of = spenders.setdefault(number, {})
                of[who] = of.get(who, 0) + row.cost_nano
        for number, by in spenders.items():
            window.top[number] = _largest(by)
        self._say_mismatch(report)
        return window

    def _follow(self) -> None:
        """Add what was booked since the last step, or since the report where that is newer."""
        changes = list(grown(self._seen, self._cost_nano))
        self._seen.update((key, self._cost_nano[key]) for key, _ in changes)
        for window in self._windows.values():
            since = changes if window.counters is None else list(grown(window.counters, self._seen))
            window.counters = None
            for (state, tenant, model, currency), nano in since:
                for number in window.matching.of({"state": state, "tenant": tenant, "model": model}):
                    if self.budgets[number].currency == currency:
                        window.covered.add(number)
                        window.spent[number] = window.spent.get(number, 0) + nano

    def _say_mismatch(self, report: Report) -> None:
        wrong = report.currency is not None and any(budget.currency != report.currency for budget in self.budgets)
        mismatch = report.currency or "" if wrong else ""
        if mismatch and mismatch != self._mismatch:
            log.warning("budgets_in_another_currency", ledger=mismatch, consequence="they are not evaluated")
        self._mismatch = mismatch

    def _spent(self, number: int, window: _Window, now: int) -> int | None:
        """What is known to be spent; None when nothing is, rather than 0."""
        budget = self.budgets[number]
        if window.span.start_ns > now or window.currency not in (None, budget.currency):
            return None
        if window.currency is None and number not in window.spent:
            return None
        return window.spent.get(number, 0)

    # What is to be expected

    async def _read_history(self, now: int) -> None:
        through = min(now, self._through_ns() or now)  # what comes after it is to be expected, not known
        if not await self._history.read(through):
            return
        for number, budget in enumerate(self.budgets):
            self._patterns[number] = pattern = self._history.pattern(number)
            self._burns[number] = tuple(self._burn(number, hours, pattern, now) for hours in BURN_HOURS)
            self._forecasts.pop(number, None)
            window = self._windows.get(self._key(budget))
            spent = None if window is None else self._spent(number, window, now)
            if pattern is not None and window is not None and spent is not None:
                span = self._span(budget, now)
                if budget.is_rolling:
                    forecast = pattern.forecast(0, through, through + span.whole_ns)
                else:
                    forecast = pattern.forecast(spent, through, span.end_ns)
                self._forecasts[number] = (span, forecast)
            await anyio.lowlevel.checkpoint()

    def _burn(self, number: int, hours: int, pattern: Pattern | None, now: int) -> Burn:
        budget = self.budgets[number]
        nano, start_ns, end_ns = self._history.lately(number, hours)
        factor = self._span(budget, now).whole_ns / max(1, end_ns - start_ns) / budget.nano
        usual = None if pattern is None or not pattern.knows_hours else pattern.expected(start_ns, end_ns) * factor
        return Burn(hours=hours, ratio=nano * factor, usual=usual)

    def _stand(self, number: int, now: int) -> Standing:
        budget = self.budgets[number]
        window = self._windows.get(self._key(budget))
        span = self._span(budget, now)
        if window is None or (not budget.is_rolling and window.span != span):
            return Standing(budget=budget, as_of_ns=now, span=span, spent_nano=None, notes=("not read yet",))
        spent = self._spent(number, window, now)
        forecast = self._forecasts.get(number)
        known = spent is not None
        return Standing(
            budget=budget,
            as_of_ns=now if budget.dimensions <= FOLLOWED else window.read_ns,
            span=span,
            spent_nano=spent,
            forecast=self._forecast(budget, forecast, span, spent),
            burns=self._burns.get(number, ()) if known else (),
            top=window.top.get(number, ()),
            unpriced_ns=window.unpriced_ns.get(number, 0),
            notes=tuple(self._notes(number, window, known=known)),
        )

    def _forecast(
        self, budget: Budget, found: tuple[Span, Forecast] | None, span: Span, spent: int | None
    ) -> Forecast | None:
        if found is None or spent is None:
            return None
        if budget.is_rolling:
            return found[1]
        return found[1].at_least(spent) if found[0] == span else None

    def _notes(self, number: int, window: _Window, *, known: bool) -> Iterator[str]:
        budget = self.budgets[number]
        yield from window.notes
        if window.currency not in (None, budget.currency):
            yield f"the ledger counts in {window.currency}, not in {budget.currency}"
        elif not known and window.span.start_ns <= window.read_ns:
            yield "nothing that has a price was booked yet"
        if window.unpriced_ns.get(number):
            hours = window.unpriced_ns[number] / HOUR_NS
            yield f"{hours:.1f} GPU hours of it have no price and are not counted"
        if known and self._patterns.get(number) is None:
            yield "the history is too short for a forecast"
        yield from remarks(budget)

    def features(self) -> Iterator[Feature]:
        """Budgets that refer to nothing the ledger has seen, for the doctor."""
        for number, budget in enumerate(self.budgets):
            window = self._windows.get(self._key(budget))
            if window is None or not self._history.is_filled or not budget.scope:
                continue
            if number not in window.covered and not self._history.covers(number):
                scope = ", ".join(f"{term.dimension} {term.op} {' or '.join(term.values)}" for term in budget.scope)
                reason = f"nothing was booked under its scope ({scope}) in four weeks; is a name misspelt?"
                yield Feature(name=f"budget {budget.name}", enabled=False, reason=reason)
            for remark in remarks(budget):
                yield Feature(name=f"budget {budget.name}", enabled=False, reason=remark)
            if budget.mode == "warn" and (why := unknowable(budget)) is not None:
                yield Feature(name=f"budget {budget.name}", enabled=False, reason=f"sidecars cannot warn: {why}")

    def samples(self, node: str) -> Iterator[Sample]:
        """For /metrics and the node's rules. What is not known is absent."""
        for standing in self._standings:
            yield from budget_samples(node, standing)


def _largest(by: Mapping[tuple[str, str, str], int]) -> tuple[Spender, ...]:
    found = nlargest(TOP, by.items(), key=lambda item: (item[1], item[0]))
    return tuple(Spender(tenant=tenant, model=model, state=state, nano=nano) for (tenant, model, state), nano in found)
